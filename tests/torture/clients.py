"""The real dnf as a client of channels that were being written when golden was ended."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from builder.channels import compose as composes
from builder.errors import GoldenError
from builder.tools.openpgp import Signer
from builder.tools.webserver import serving
from tests.clients import Client
from tests.torture import world

# That there is one is all that clients are told; which, they ask the channel.
_SIGNER = Signer("0" * 40, "0" * 40, home=Path("/nonexistent"), public_key="", key_ids=frozenset())


class Clients:
    """folder: outside of what may be full, or read-only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: set[str] = set()
        self.installations = 0

    def refused(self, channels: Path, channel: str) -> str | None:
        """Why dnf does not install all that a channel has into an empty root, verify it and find it whole; or None.

        It takes nothing that is not signed with the channel's key. A channel whose every byte it has installed before
        is not installed from again.
        """
        state = _bytes_of(channels / channel)
        if state in self._seen:
            return None
        fault = self._install(channels, channel)
        if fault is None:
            self._seen.add(state)
        return fault

    def _install(self, channels: Path, channel: str) -> str | None:
        place = self._folder / "client"
        shutil.rmtree(place, ignore_errors=True)
        self.installations += 1
        try:
            with serving(channels) as server:
                client = Client(place, server.url, _SIGNER, channel)
                # By a pattern: older images beside the newest, too.
                client.install("golden-*")
                wrong = client.rpm("--verify", "--all")
        except GoldenError as error:
            return f"{error.what}: {dict(error.details).get('output', error.details)}"
        finally:
            self._end_agents()
        return f"rpm finds it not whole: {wrong}" if wrong else None

    def _end_agents(self) -> None:
        """Of the keyring that dnf made, which would wait there for somebody who asks."""
        for pid, command in world.processes().items():
            if command.startswith("gpg-agent") and str(self._folder) in command:
                world.kill(pid)


def _bytes_of(channel: Path) -> str:
    """A digest over what clients of a channel see."""
    found = hashlib.sha256()
    compose = composes.need_current(channel)
    for path in sorted([channel / "mirrorlist", channel / composes.KEY, *compose.rglob("*")]):
        if path.is_file():
            found.update(str(path.relative_to(channel)).encode() + path.read_bytes())
    return found.hexdigest()

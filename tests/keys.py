"""OpenPGP keys made for tests, each in a keyring of its own."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.tools import openpgp


@dataclass(frozen=True)
class Signer:
    """home: its GNUPGHOME. key: the public half, armored. clock: gpg's options that set its time."""

    home: Path
    key: Path
    clock: tuple[str, ...] = ()

    def detached(self, file: Path) -> Path:
        return self._sign(file, file.with_name(f"{file.name}.asc"), "--detach-sign")

    def clearsigned(self, file: Path) -> Path:
        return self._sign(file, file.with_name(f"{file.name}.clear"), "--clear-sign")

    def _sign(self, file: Path, target: Path, how: str) -> Path:
        gpg(self.home, *self.clock, "--yes", "--armor", "--output", target, how, file)
        return target


@contextlib.contextmanager
def signing(folder: Path, *, when: str | None = None, expires: str = "never") -> Iterator[Signer]:
    """A new key; its public half goes to `folder`. when: gpg's idea of now, "20200101T000000"."""
    # gpg-agent's socket has to lie at a short path.
    with tempfile.TemporaryDirectory(prefix="golden-key-", dir="/tmp") as directory:
        home = Path(directory)
        clock = ("--faked-system-time", when) if when else ()
        user = ("--quick-generate-key", "Golden Test <test@example.org>", "ed25519", "sign", expires)
        try:
            gpg(home, *clock, "--passphrase", "", *user)
            key = folder / "key.asc"
            gpg(home, "--armor", "--output", key, "--export")
            yield Signer(home, key, clock)
        finally:
            openpgp.end_agent(home)


def gpg(home: Path, *words: str | Path) -> None:
    subprocess.run(["gpg", "--homedir", home, "--batch", "--quiet", *words], check=True, capture_output=True)

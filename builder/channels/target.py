"""A channel to where its clients are: another folder, rsync's daemon, or a machine by ssh.

Readers there see all of a compose or nothing of it, as here: the compose goes first, then the key, and last the
mirrorlist, which rsync renames into place and without which nobody is led to the compose.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from builder import faults
from builder.channels import compose as composes
from builder.channels.publication import locked
from builder.errors import ToolError
from builder.model import VERSION, Frozen
from builder.store import Store
from builder.tools import rsync


class Pushed(Frozen):
    """target: where the channel's folder is now. compose: what its clients see. removed: composes that went."""

    channel: str
    target: str
    compose: str
    removed: tuple[str, ...] = ()


def push(store: Store, channel: str, *, target: str) -> Pushed:
    """Bring what clients of a channel see to `target`/CHANNEL; composes that are gone here go there, too.

    RPMs that the target has in an older compose are linked there, not sent. Raises ConfigError if nothing was published
    to the channel yet, HostError or ToolError from rsync: clients then see what they saw before.
    """
    with locked(store, channel):
        folder = store.channels / channel
        compose = composes.need_current(folder)
        there, log = f"{target}/{channel}", store.root / "logs" / f"push-{channel}.log"
        rsync.make_folder(f"{there}/composes", log=log)
        old = _mirrorlist(there)
        # Relative to the folder that is written: the compose that the target's clients see until now.
        link_to = f"../{old}" if old and old != compose.name else None
        # Only RPMs are linked: rsync compares size and time, and metadata of two composes may have both in common.
        if link_to:
            rsync.copy(
                compose, f"{there}/composes/{compose.name}", link_to=link_to, excluded=("/repodata", "/*.json"), log=log
            )
        rsync.copy(compose, f"{there}/composes/{compose.name}", log=log)
        if (folder / composes.KEY).exists():
            rsync.copy_file(folder / composes.KEY, there, log=log)
        faults.place("target.copied")
        rsync.copy_file(folder / "mirrorlist", there, log=log)
        faults.place("target.switched")
        gone = [name for name in rsync.names(f"{there}/composes") if VERSION.fullmatch(name)]
        gone = [name for name in gone if name not in composes.versions(folder)]
        if gone:
            rsync.remove(f"{there}/composes", gone, log=log)
    return Pushed(channel=channel, target=there, compose=compose.name, removed=tuple(gone))


def _mirrorlist(there: str) -> str | None:
    """The compose that the target's clients see; None if there is none yet."""
    with tempfile.TemporaryDirectory(prefix="golden-push-") as folder:
        try:
            rsync.fetch_file(f"{there}/mirrorlist", Path(folder) / "mirrorlist")
        except ToolError:
            return None
        line = (Path(folder) / "mirrorlist").read_text(encoding="utf-8", errors="replace").strip()
    name = line.rstrip("/").rpartition("/")[2]
    return name if VERSION.fullmatch(name) else None

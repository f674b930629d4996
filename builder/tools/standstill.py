"""A machine that QEMU stopped, as this host could not write to its disk: which file, and what room there is."""

from __future__ import annotations

import contextlib
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Collection, Sequence
from pathlib import Path

from builder.errors import HostError
from builder.units import format_bytes


class StandsStill(HostError):
    """The machine goes on from there once it is told to, and its disk can be written."""


def files(xml: str, targets: Collection[str]) -> list[Path]:
    """What the disks of a domain are written to, those of `targets` ("vda"), or all of them if none is known."""
    found = []
    for disk in ET.fromstring(xml).iterfind("devices/disk"):
        target, source = disk.find("target"), disk.find("source")
        path = None if source is None else source.get("file")
        if target is not None and path and disk.find("readonly") is None:
            found.append((target.get("dev"), Path(path)))
    return [path for target, path in found if target in targets] or [path for _, path in found]


def error(what: str, written: Sequence[Path]) -> StandsStill:
    """what: "the machine 'x'". written: the files that could not be."""
    folders = sorted({path.parent for path in written})
    details = [("disk", str(path)) for path in written]
    for folder in folders:
        with contextlib.suppress(OSError):
            details.append(("free", f"{format_bytes(shutil.disk_usage(folder).free)} in {folder}"))
    return StandsStill(
        f"{what} stands still: this host could not write what it wrote to its disk",
        details=details,
        try_next="df -h, and make room: golden collect, golden clone gc, golden cache prune",
    )

"""Image files that running machines of this host stand on, whoever they belong to.

Read from the command lines of QEMU processes, as the account of memory is: so machines of other users and of other
state directories are seen, whose leases are not. Of theirs that are off nothing is seen.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

_NAME = re.compile(r"^guest=([^,]+)")


def machines(*, proc: Path = Path("/proc")) -> dict[str, list[Path]]:
    """Machine -> files of its disks, with those below them. Source: libvirt writes each as a -blockdev of its own."""
    found: dict[str, list[Path]] = {}
    for file in proc.glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            words = file.read_bytes().decode(errors="replace").split("\0")
            named = [match[1] for option, word in pairwise(words) if option == "-name" and (match := _NAME.match(word))]
            if named:
                found[named[0]] = [*_files(words)]
    return found


def _files(words: Iterable[str]) -> Iterable[Path]:
    for option, word in pairwise(words):
        if option == "-blockdev":
            with contextlib.suppress(ValueError):
                described = json.loads(word)
                if isinstance(described, dict) and isinstance(name := described.get("filename"), str):
                    yield Path(name)


def is_same(file: Path, other: Path) -> bool:
    """Whether they are names of one file; by the name alone, where the other may not be looked at."""
    try:
        return file.samefile(other)
    except PermissionError:
        return file.name == other.name
    except OSError:
        return False

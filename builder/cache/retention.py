"""What is in the cache, and which of it is kept: of each distribution the files that were used last."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from builder.cache.records import file_facts, locked, read_address, read_facts
from builder.model import Frozen

KEEP = 3


class Entry(Frozen):
    """A line of `golden cache list`. used: UTC, ISO 8601. A partial one has no digest yet."""

    path: Path
    name: str
    distribution: str
    size_bytes: int
    used: str
    state: Literal["whole", "partial"]
    sha256: str | None
    address: str
    verified: str


def entries(root: Path) -> list[Entry]:
    """All files, also those that came in part; by distribution, the one used last first."""
    found = [*_whole(root), *_begun(root)]
    return sorted(sorted(found, key=lambda entry: entry.used, reverse=True), key=lambda entry: entry.distribution)


def prune(root: Path, *, keep: int, is_dry: bool) -> list[Entry]:
    """Remove all but the `keep` files of each distribution that were used last, and return those removed.

    What a golden is using or downloading stays. is_dry: only say what would be removed.
    """
    removed, seen = [], dict.fromkeys({entry.distribution for entry in entries(root)}, 0)
    for entry in entries(root):
        seen[entry.distribution] += 1
        if seen[entry.distribution] <= keep:
            continue
        with locked(root, entry.path.parent.name, fcntl.LOCK_EX | fcntl.LOCK_NB) as is_ours:
            if is_ours:
                removed.append(entry)
                if not is_dry:
                    _remove(entry.path.parent)
    return removed


def _whole(root: Path) -> Iterator[Entry]:
    for folder in sorted((root / "files").glob("[!.]*")):
        cached = read_facts(root, folder.name)
        if cached is None:
            continue
        yield Entry(
            path=folder / cached.name,
            used=_time(file_facts(folder)),
            state="whole",
            **cached.model_dump(exclude={"fetched"}),
        )


def _begun(root: Path) -> Iterator[Entry]:
    for folder in sorted((root / "partial").glob("*")):
        files = [file for facts in folder.glob("*.json") if (file := facts.with_suffix("")).is_file()]
        address = read_address(root, folder.name, url="")
        for file in files[:1] or [chain for chain in [folder / "chain"] if chain.is_dir()]:
            yield Entry(
                path=file,
                name=file.name,
                distribution=address.distribution,
                size_bytes=sum(it.stat().st_size for it in folder.rglob("*") if it.is_file() and it.suffix != ".json"),
                used=_time(file),
                state="partial",
                sha256=None,
                address=address.address,
                verified="",
            )


def _time(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="microseconds")


def _remove(folder: Path) -> None:
    """Out of sight by one rename, then gone."""
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    shutil.rmtree(aside)

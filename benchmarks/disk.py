"""What files take on a disk."""

from __future__ import annotations

from pathlib import Path


def taken(place: Path) -> int:
    """Bytes of the blocks that are there, of a file or of all files below a folder."""
    files = place.rglob("*") if place.is_dir() else [place]
    return sum(file.stat().st_blocks * 512 for file in files if file.is_file())

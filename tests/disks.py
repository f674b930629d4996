"""Small real qcow2 files to test with, by the real qemu-img and qemu-io."""

from __future__ import annotations

from pathlib import Path

from builder.run import query
from builder.tools import qemu_img

SIZE = 8 * 1024**2


def write(disk: Path, *, pattern: int, offset: str, length: str) -> None:
    query(["qemu-io", "-f", "qcow2", "-c", f"write -q -P {pattern} {offset} {length}", disk], why="write to the disk")


def make_strange(path: Path, *words: str | Path) -> Path:
    """One that golden would not make. words: qemu-img's options, and the size."""
    query(["qemu-img", "create", "-q", "-f", "qcow2", *words[:-1], path, words[-1]], why="make a strange disk")
    return path


def make_base(folder: Path) -> Path:
    """In a folder of its own, with a blank and a colon: neither splits an argument nor makes a protocol of the path."""
    path = folder / "a b:c" / "base-1.qcow2"
    path.parent.mkdir()
    qemu_img.create(path, SIZE)
    write(path, pattern=1, offset="0", length="1M")
    return path


def make_overlay(base: Path) -> Path:
    path = base.with_name("overlay.qcow2")
    qemu_img.create_overlay(path, base)
    write(path, pattern=2, offset="512k", length="64k")
    return path

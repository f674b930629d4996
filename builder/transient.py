"""Folders that are there while a piece of work is, at short paths, as sockets need them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from builder import locks


@contextlib.contextmanager
def folder(prefix: str, *, parent: Path, end: Callable[[Path], None]) -> Iterator[Path]:
    """A new folder `parent`/`prefix`-…, for its owner alone, gone after the block.

    end: told of it before it goes, to end what uses it. So are those that a golden left when it was killed.
    """
    for left in parent.glob(f"{prefix}-*"):
        if _is_left(left, prefix):
            end(left)
            shutil.rmtree(left, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory(
            prefix=f"{prefix}-{os.getpid()}-", dir=parent, ignore_cleanup_errors=True
        ) as directory,
        locks.held(Path(directory)),
    ):
        try:
            yield Path(directory)
        finally:
            end(Path(directory))


def _is_left(folder: Path, prefix: str) -> bool:
    """Whether it is that of a golden of this user's that is no more."""
    process = folder.name.removeprefix(f"{prefix}-").partition("-")[0]
    try:
        is_ours = folder.lstat().st_uid == os.geteuid() and not folder.is_symlink()
    except FileNotFoundError:
        return False
    return is_ours and process.isdigit() and not Path("/proc", process).exists() and not locks.is_held(folder)

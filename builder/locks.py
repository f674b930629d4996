"""Locks between processes: files that the kernel lets go of when their holder ends, and that say who it is."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from builder.errors import HostError

_FORK_TRIES, _FORK_WAIT_S = 100, 0.05


@contextlib.contextmanager
def lock(path: Path, *, what: str, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold `path` for this process alone; the kernel lets go when the process ends, however it ends.

    waiting: told who has it, and then it is waited for: only where both want the same thing done, a download.
    Raises HostError naming the holder if another process has it and nobody wants to wait.
    """
    with taken(path, what=what, waiting=waiting):
        yield


@contextlib.contextmanager
def taken(
    path: Path, *, what: str, waiting: Callable[[str], None] | None = None, is_shared: bool = False
) -> Iterator[IO[str]]:
    """As `lock`, with the locked file. is_shared: beside others that share it; the holder's name stays what it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
    with path.open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = stream.read().strip() or "a process that did not say its name"
            is_ours = holder.startswith(f"pid {os.getpid()} ") and _comes_free(stream, kind)
            if not is_ours and waiting is None:
                raise HostError(
                    f"could not lock {what}: another golden is at work on it",
                    details=[("holder", holder)],
                    try_next="wait for it to end, or end it, and run the same command again",
                ) from None
            if not is_ours and waiting is not None:
                waiting(holder)
                fcntl.flock(stream, kind)
        if not is_shared:
            _sign(stream)
        yield stream


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a file or folder that this process has just made, for `is_held`; where there are no locks nobody does."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def is_held(path: Path) -> bool:
    """Whether a process holds it, also one of another container, whose number says nothing here."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # gone meanwhile, or another user's
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def holder_pid(path: Path) -> int | None:
    """The process that took the lock last; it may have let go since. None if there was none."""
    try:
        first, pid, *_ = path.read_text(encoding="utf-8").split(maxsplit=2)
        return int(pid) if first == "pid" else None
    except (OSError, ValueError):
        return None


def _sign(stream: IO[str]) -> None:
    """Say who has the lock. It is had all the same where there is no room to: making room takes it, too."""
    stream.truncate(0)
    name = f"pid {os.getpid()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%SZ}: {' '.join(sys.argv)}\n"
    with contextlib.suppress(OSError):
        os.write(stream.fileno(), name.encode(errors="replace"))


def _comes_free(stream: IO[str], kind: int) -> bool:
    """A lock that this process has let go is held on by a program that another thread is starting, until its exec."""
    for _ in range(_FORK_TRIES):
        time.sleep(_FORK_WAIT_S)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(stream, kind | fcntl.LOCK_NB)
            return True
    return False

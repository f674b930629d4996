"""Memory as machines declare it, against what the host has: one account for all golden processes of the host.

What is in use is read from the command lines of running QEMU processes, which every user may read: so root's clones,
another user's, and those of other state directories count, and what was killed counts no longer. One lock, which any
user can take, is held from the look at the account until the machine is on.

Who starts several machines is promised room for all of them first, or waits with none: two that each had half of
theirs would wait for each other. A promise is the name of a socket, which every user can read as well, and which
is gone with its process.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

from builder.errors import HostError
from builder.model import Frozen

_POLL_S = 0.5

# A directory that is there for every user, that any of them may lock, and that nobody else locks. Source: flock(2):
# a lock needs an open file, not the right to write to it.
_LOCK = Path("/run")

# For the host itself and for QEMU's own needs beside the guest's memory.
_RESERVE_MIB = 512

# As libvirt writes them: "-m 512" until 9.x, "-m size=524288k" since.
_NAME = re.compile(r"^guest=(golden-[^,]+)")
_SIZE = re.compile(r"^(?:size=)?(\d+)([kKmMgG]?)")
_PROMISE = re.compile(r"^@golden-memory:(\d+):[\d.]+:(golden-\S+)$")
_MIB_PER = {"k": 1 / 1024, "": 1, "m": 1, "g": 1024}


_numbers = itertools.count(1)


class Capacity(Frozen):
    """total_mib: what golden's machines may declare together. wait_s: how long to wait for others to go."""

    total_mib: int
    wait_s: float = 0


def host_capacity(*, wait_s: float = 0) -> Capacity:
    """All memory of the host less a reserve. Source: proc_meminfo(5), MemTotal, in KiB."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    total = next(int(line.split()[1]) // 1024 for line in lines if line.startswith("MemTotal:"))
    return Capacity(total_mib=max(0, total - _RESERVE_MIB), wait_s=wait_s)


def declared(*, proc: Path = Path("/proc"), besides: str | None = None) -> dict[str, int]:
    """Domain name -> MiB of each machine of golden's that runs on this host, or is promised room.

    besides: the domain of which no promise counts, since it is the one that is about to use it.
    """
    found = {name: mib for name, mib in _promises(proc) if name != besides}
    for file in proc.glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            words = file.read_bytes().decode(errors="replace").split("\0")
            if (known := _read(words)) is not None:
                found[known[0]] = known[1]
    return found


def _read(words: list[str]) -> tuple[str, int] | None:
    """Name and MiB from QEMU's arguments; None for any other process."""
    values = dict(pairwise(words))
    name, size = _NAME.match(values.get("-name", "")), _SIZE.match(values.get("-m", ""))
    if name is None or size is None:
        return None
    return name[1], round(int(size[1]) * _MIB_PER[size[2].lower()])


def _promises(proc: Path) -> Iterator[tuple[str, int]]:
    """Source: proc_net(5), "/proc/net/unix": '@' stands for the zero byte of a name that is no file's."""
    try:
        lines = (proc / "net" / "unix").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        if (found := _PROMISE.match(line.rpartition(" ")[2])) is not None:
            yield found[2], int(found[1])


@contextlib.contextmanager
def promised(
    machines: Mapping[str, int],
    capacity: Capacity,
    *,
    note: Callable[[str], None],
    is_stopped: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Room for all of `machines`, domain name -> MiB, while the block starts them one after the other.

    note: hears that it waits. is_stopped: whether to give up. Raises HostError as `need` does, after capacity.wait_s.
    """
    mib, deadline = sum(machines.values()), time.monotonic() + capacity.wait_s
    names = ", ".join(name.removeprefix("golden-") for name in machines)
    is_told = False
    with contextlib.ExitStack() as promises:
        while True:
            with _locked(note=lambda _: None):
                try:
                    need(mib, capacity, names=names, in_use=declared())
                except HostError:
                    if mib > capacity.total_mib or time.monotonic() >= deadline or is_stopped():
                        raise
                else:
                    for name, size_mib in machines.items():
                        promises.enter_context(_promise(name, size_mib))
                    break
            if not is_told:
                note(f"{names}: waiting for {mib} MiB of memory")
                is_told = True
            time.sleep(_POLL_S)
        yield


def _promise(name: str, mib: int) -> socket.socket:
    """It holds until it is closed. Source: unix(7), "Abstract sockets"; they are seen in one network name space."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(f"\0golden-memory:{mib}:{os.getpid()}.{next(_numbers)}:{name}")
    return made


def need(mib: int, capacity: Capacity, *, names: str, in_use: dict[str, int]) -> None:
    """Raises HostError if machines that declare `mib` together do not fit beside `in_use`."""
    if mib > capacity.total_mib:
        raise HostError(
            f"{names} would need {mib} MiB of memory, and golden's machines have {capacity.total_mib} MiB on this host",
            try_next="--memory with less, or fewer clones at a time",
        )
    used = sum(in_use.values())
    if used + mib > capacity.total_mib:
        most = sorted(in_use.items(), key=lambda item: -item[1])[:5]
        raise HostError(
            f"there is no memory for {names}: {mib} MiB are needed, {max(0, capacity.total_mib - used)} MiB are free",
            details=[
                ("have", f"{capacity.total_mib} MiB for golden's machines"),
                ("in use", f"{used} MiB by {len(in_use)}: {', '.join(f'{name} {size}' for name, size in most)}"),
            ],
            try_next="golden clone destroy or stop some, golden clone gc, or --wait-memory '10 min'",
        )


@contextlib.contextmanager
def reserved(
    mib: int, capacity: Capacity, *, names: str, note: Callable[[str], None], own: str | None = None
) -> Iterator[None]:
    """The account is this process's alone, and has room, while the block starts the machine.

    own: its domain, which may be promised the room. note: hears that it waits, for memory or for another golden.
    Raises HostError as `need` does, after capacity.wait_s.
    """
    deadline = time.monotonic() + capacity.wait_s
    while True:
        with _locked(note=note):
            try:
                need(mib, capacity, names=names, in_use=declared(besides=own))
            except HostError:
                if mib > capacity.total_mib or time.monotonic() >= deadline:
                    raise
            else:
                yield
                return
        note(f"waiting for {mib} MiB of memory")
        time.sleep(_POLL_S)


@contextlib.contextmanager
def _locked(*, note: Callable[[str], None]) -> Iterator[None]:
    handle = os.open(_LOCK, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # Not a plain wait: an interrupt has to come through, and the user a word.
                note("another golden is starting a machine")
                time.sleep(_POLL_S / 10)
        yield
    finally:
        os.close(handle)

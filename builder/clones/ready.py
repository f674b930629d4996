"""Clones that wait in a pool: who they are, handed out one by one, and given up where memory is short.

A clone waits in a pool while its lease names the pool; whoever writes the lease without that, under the clone's lock,
has it. So two processes never take the same one, and one that is killed takes none or a whole one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from builder.clones import orphans, pins
from builder.clones.access import is_running
from builder.clones.leases import Lease, directory, find, lock, whole_leases, write
from builder.clones.memory import Capacity, declared
from builder.clones.orders import Order
from builder.clones.removal import release, remove
from builder.errors import ConfigError, HostError, VerifyError
from builder.tools.domain import Nic
from builder.tools.libvirt import Connection


def waiting(state: Path, pool: str | None = None) -> list[Lease]:
    """Clones that wait, the longest first. pool: its name; None for those of all pools."""
    found = [lease for lease in whole_leases(state) if lease.pool is not None and pool in (None, lease.pool)]
    return sorted(found, key=lambda lease: (lease.made, lease.name))


def take(order: Order, *, state: Path, connection: Connection) -> tuple[Lease, str] | None:
    """A clone that waits and is what `order` wants, and its pool; its name is its own. None if there is none.

    From then on it is the order's owner's. One whose image files are gone or changed is never handed out.
    """
    for seen in waiting(state):
        if not _is_wanted(seen, order, connection):
            continue
        with _still_waiting(state, seen.name) as lease:
            if lease is None or why_unfit(lease, connection) is not None:
                continue
            taken = lease.model_copy(update={"pool": None, "owner": order.owner})
            write(taken, directory(state, lease.name))
            return taken, str(lease.pool)
    return None


def _is_wanted(lease: Lease, order: Order, connection: Connection) -> bool:
    build = order.source.build
    is_plain = order.nics == (Nic(),) and not (
        order.forwards or order.extra_disks or order.has_seed or order.has_own_key
    )
    same = {
        "image": build.id,
        "memory_mib": order.memory_mib,
        "cpus": order.cpus,
        "accelerator": order.accelerator,
        "firmware": order.firmware or build.firmware,
        "key": order.key,
        "uri": connection.uri,
    }
    return is_plain and all(getattr(lease, name) == value for name, value in same.items())


@contextlib.contextmanager
def _still_waiting(state: Path, name: str) -> Iterator[Lease | None]:
    """The lease under the clone's lock; None if another process has it, or had it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(state, name))
            lease: Lease | None = find(state, name)
        except (ConfigError, HostError, VerifyError):
            lease = None
        yield lease if lease is not None and lease.pool is not None else None


def why_unfit(lease: Lease, connection: Connection) -> str | None:
    """Why nobody should have it: the host was restarted since, or an image file below it is not what it was."""
    if not is_running(lease, connection):
        return "it waits in a pool, and is off"
    if any(pins.find_fault(pin, is_full=False) for pin in lease.pins):
        return "it waits in a pool, and an image file below it is gone or changed"
    return None


def discard(state: Path, name: str, *, connection: Connection) -> bool:
    """Remove one that waits; False if somebody took it meanwhile."""
    with _still_waiting(state, name) as lease:
        if lease is None:
            return False
        remove(name, state=state, connection=connection)
    release(state)
    return True


def give_way(
    mib: int,
    capacity: Capacity,
    *,
    state: Path,
    connection: Connection,
    note: Callable[[str], None],
    besides: str | None = None,
) -> list[str]:
    """Remove clones that wait, the youngest first, until a machine that declares `mib` fits; returns their names.

    Before them go clones whose owner is dead. besides: is none of them. None is removed if that would not be enough.
    Machines that wait are there to save time, not to keep others out.
    """
    own = f"golden-{besides}" if besides else None

    def missing_mib() -> int:
        return sum(declared(besides=own).values()) + mib - capacity.total_mib

    if missing_mib() <= 0:
        return []
    orphans.collect(state, connection=connection, note=note, besides=besides)
    if (missing := missing_mib()) <= 0:
        return []
    candidates = [lease for lease in reversed(waiting(state)) if lease.name != besides]
    candidates = [lease for lease in candidates if is_running(lease, connection)]
    if sum(lease.memory_mib for lease in candidates) < missing:
        return []
    removed: list[str] = []
    for lease in candidates:
        if missing <= 0:
            break
        if discard(state, lease.name, connection=connection):
            note(f"{lease.name}, which waited in a pool, gives way: its memory is needed")
            removed.append(lease.name)
            missing -= lease.memory_mib
    return removed

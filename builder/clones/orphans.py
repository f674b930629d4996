"""Clones whose owner process is dead: collected by whoever makes a clone, or finds that memory is short."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from builder.clones.leases import find, lock, whole_leases
from builder.clones.removal import release, remove
from builder.errors import ConfigError, GoldenError, HostError, VerifyError
from builder.tools.libvirt import Connection


def collect(
    state: Path, *, connection: Connection, note: Callable[[str], None], besides: str | None = None
) -> list[str]:
    """Remove them, and return their names. That costs a look into /proc for each lease where there are none.

    note: hears of each. besides: is none of them. One that another golden is at work on, or that cannot be removed,
    stays for `golden clone gc`.
    """
    removed = []
    for seen in whole_leases(state):
        if seen.name == besides or not seen.is_orphaned or seen.uri != connection.uri:
            continue
        try:
            if _remove(seen.name, state=state, connection=connection):
                note(f"{seen.name} is removed: its owner, process {seen.owner.pid if seen.owner else '?'}, is dead")
                removed.append(seen.name)
        except GoldenError as error:
            note(f"{seen.name}, whose owner is dead, could not be removed: {error.what}; try: golden clone gc")
    if removed:
        release(state)
    return removed


def _remove(name: str, *, state: Path, connection: Connection) -> bool:
    """Whether it was removed. Its lease is read again under the lock: somebody may have taken it over meanwhile."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(state, name))
            lease = find(state, name)
        except (ConfigError, HostError, VerifyError):
            return False
        if not lease.is_orphaned:
            return False
        remove(name, state=state, connection=connection)
        return True

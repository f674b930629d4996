"""Clones removed: machine, directory, and the hold on image files that nobody else needs."""

from __future__ import annotations

import shutil
from pathlib import Path

from builder import faults
from builder.clones import holds, pins, saved
from builder.clones.leases import directory, lock, need_known, part
from builder.errors import HostError
from builder.tools.domain import read_label
from builder.tools.libvirt import Connection


def destroy(name: str, *, state: Path, connection: Connection) -> None:
    """Switch the clone off and remove all of it. Raises ConfigError if there is no such clone."""
    need_known(state, name)
    with lock(state, name):
        remove(name, state=state, connection=connection)
    release(state)


def remove(name: str, *, state: Path, connection: Connection) -> None:
    """The machine first: while it runs, its lease has to stand. The caller holds the clone's lock."""
    domain = connection.find(f"golden-{name}")
    place = directory(state, name)
    if domain is not None and (label := read_label(domain.xml())) is not None and label.work == place:
        domain.remove()
        faults.place("clone.off")
    aside = part(place)
    shutil.rmtree(aside, ignore_errors=True)
    if place.exists():
        place.rename(aside)
        faults.place("clone.gone")
        shutil.rmtree(aside)


def release(state: Path, *, is_thorough: bool = False) -> list[Path]:
    """Let go of image files that nobody stands on any more; as `pins.release`."""
    with pins.locked(state):
        holds.forget(state)
        used = [*pins.used_by_clones(state), *(pin.path for _, memory in saved.all_saved(state) for pin in memory.pins)]
        used += [pin.path for hold in holds.holds(state) for pin in hold.pins]
        return pins.release(state, in_use=used, is_thorough=is_thorough)


def remove_stray(name: str, *, state: Path, connection: Connection, is_known: bool = False) -> None:
    """A machine of this name that a killed golden left is removed; another's is none of our business.

    is_known: the clone's own, defined by an earlier start, stays.
    """
    domain = connection.find(f"golden-{name}")
    if domain is None:
        return
    label = read_label(domain.xml())
    if label is None or label.work != directory(state, name):
        raise HostError(
            f"libvirt has a machine '{domain.name}' already, and it is not one of {state}",
            details=[("belongs to", str(label.work) if label else "somebody who is not golden")],
            try_next="choose another name",
        )
    if not is_known:
        domain.remove()

"""What nobody needs any more: clones of processes that died, what a killed golden left, what no clone stands on."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from builder.clones import first_start, pins, pools, saved
from builder.clones.leases import DISK, directory, find, lock, names, whole_leases
from builder.clones.removal import release, remove
from builder.errors import ConfigError, HostError, VerifyError
from builder.model import Frozen
from builder.tools.domain import read_label
from builder.tools.libvirt import Connection, Vanished

# That an image was started here: longer than that, and its clones are as if they were the first.
_REMEMBERED_S = 30 * 24 * 3600.0


class Garbage(Frozen):
    """kind, name: what it is. reason: why nobody needs it. Sizes in bytes on this disk."""

    kind: Literal["clone", "pool", "rest", "machine", "memory", "links", "results"]
    name: str
    reason: str
    size_bytes: int = 0


def collect(
    state: Path, *, connection: Connection, is_dry: bool, note: Callable[[str], None], with_memory: bool = False
) -> list[Garbage]:
    """Find what nobody needs and, unless is_dry, remove it. What another golden is at work on is left alone.

    with_memory: saved memory that no clone stands on goes too, though it may fit. Returns what is, or would be, gone.
    """
    found: list[Garbage] = []
    folder = state / "clones"
    if not folder.is_dir():
        return found
    for pool in pools.without_image(state):
        found.append(Garbage(kind="pool", name=pool.name, reason="its image is gone"))
        if not is_dry:
            pools.declare(pool.model_copy(update={"ready": 0}), state=state)
    for name in names(state):
        with _if_free(state, name, note=note) as is_free:
            if is_free and (reason := _why_unneeded(state, name, connection)) is not None:
                found.append(Garbage(kind="clone", name=name, reason=reason, size_bytes=_size(directory(state, name))))
                if not is_dry:
                    remove(name, state=state, connection=connection)
    found += _rests(folder, state, is_dry=is_dry, connection=connection, note=note)
    found += _machines(state, connection=connection, is_dry=is_dry)
    found += _memory(state, is_dry=is_dry, with_memory=with_memory, connection=connection)
    if not is_dry:
        found += [
            Garbage(kind="links", name=place.name, reason="no clone or bundle stands on them")
            for place in release(state, is_thorough=True)
        ]
    return found


@contextlib.contextmanager
def _if_free(state: Path, name: str, *, note: Callable[[str], None]) -> Iterator[bool]:
    """Whether nobody else is at work on the clone; its lock is held meanwhile."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(state, name))
        except HostError:
            note(f"{name} is left alone: another golden is at work on it")
            yield False
            return
        yield True


def _why_unneeded(state: Path, name: str, connection: Connection) -> str | None:
    try:
        lease = find(state, name)
    except VerifyError:
        return "its lease is damaged"
    except ConfigError:
        return None  # it was destroyed meanwhile
    if lease.uri != connection.uri:
        return None  # its machine is another libvirt's
    if not (directory(state, name) / DISK).exists():
        return "it was cut off while it was made"
    if lease.is_orphaned and lease.owner is not None:
        return f"its owner, process {lease.owner.pid}, is dead"
    if lease.pool is not None:
        return pools.why_unneeded(lease, pools.pool_of(lease, state), state=state, connection=connection)
    return None


def _rests(
    folder: Path, state: Path, *, is_dry: bool, connection: Connection, note: Callable[[str], None]
) -> Iterator[Garbage]:
    """Directories of clones that were being made, or removed, when golden was killed."""
    for rest in sorted(folder.glob(".*.part")):
        name = rest.name.removeprefix(".").removesuffix(".part")
        with _if_free(state, name, note=note) as is_free:
            if not is_free or not rest.exists():
                continue
            yield Garbage(
                kind="rest", name=name, reason="golden was killed while it made or removed it", size_bytes=_size(rest)
            )
            if not is_dry:
                if not directory(state, name).exists():
                    remove(name, state=state, connection=connection)
                shutil.rmtree(rest, ignore_errors=True)


def _machines(state: Path, *, connection: Connection, is_dry: bool) -> Iterator[Garbage]:
    """libvirt's machines whose clone is gone."""
    for domain in connection.domains():
        label = None
        if domain.name.startswith("golden-"):
            with contextlib.suppress(Vanished):
                label = read_label(domain.xml())
        if label is None or label.purpose != "clone" or label.work.parent != state / "clones":
            continue
        name = label.work.name
        with _if_free(state, name, note=lambda _text: None) as is_free:
            if is_free and not label.work.exists():
                yield Garbage(kind="machine", name=domain.name, reason="its clone is gone")
                if not is_dry:
                    domain.remove()


def _memory(state: Path, *, is_dry: bool, with_memory: bool, connection: Connection) -> Iterator[Garbage]:
    """Saved memory that fits no more: of another QEMU, libvirt, kernel or agent, or of an image that is gone."""
    users = {lease.warm for lease in whole_leases(state)}
    if not is_dry:
        first_start.forget(state, older_than_s=0 if with_memory else _REMEMBERED_S)
    for place in saved.places(state):
        reason = _why_unfit(place, connection)
        if reason is None and with_memory:
            reason = "no clone stands on it"
        if reason is None or place.name in users:
            continue
        with contextlib.suppress(HostError), saved.free(state, place.name.removeprefix(".").removesuffix(".part")):
            yield Garbage(kind="memory", name=place.name, reason=reason, size_bytes=_size(place))
            if not is_dry:
                shutil.rmtree(place)


def _why_unfit(place: Path, connection: Connection) -> str | None:
    memory = saved.read(place)
    if memory is None:
        return "golden was killed while it was made"
    if not saved.fits_host(memory.circumstances, connection):
        return "this host has another QEMU, libvirt, kernel or processor now"
    if any(pins.find_fault(pin, is_full=False) for pin in memory.pins):
        return "an image file below it is gone or changed"
    return None


def _size(place: Path) -> int:
    return sum(file.lstat().st_blocks * 512 for file in place.rglob("*") if file.is_file())

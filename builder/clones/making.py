"""Clones made, switched off: names taken, images verified and held, overlays laid."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from builder import faults, store
from builder.clones import orders, orphans, pins
from builder.clones.layout import extra_disk, lay_overlay
from builder.clones.leases import DISK, SEED, Lease, Pin, directory, lock, part, whole_leases, write
from builder.clones.orders import Order
from builder.clones.removal import remove, remove_stray
from builder.clones.sources import Source, chain, verify
from builder.errors import ConfigError, VerifyError
from builder.model import ImageId
from builder.progress import Reporter
from builder.tools import qemu_img, seed
from builder.tools.domain import mac
from builder.tools.libvirt import Connection


def make(
    wanted: Sequence[Order], *, state: Path, connection: Connection, reporter: Reporter, is_full: bool = False
) -> list[Lease]:
    """Make clones, switched off; all of them or none. Their names are theirs from then on.

    Clones whose owner is dead are removed first. is_full: as in `verify`. Raises ConfigError, HostError, ToolError or
    VerifyError.
    """
    orders.check(wanted)
    orphans.collect(state, connection=connection, note=reporter.note)
    with contextlib.ExitStack() as locks:
        for order in wanted:
            locks.enter_context(lock(state, order.name))
            _need_free(order.name, state=state, connection=connection)
        maker = _Maker(wanted, state=state, uri=connection.uri, reporter=reporter)
        with reporter.step("verify the image's files"):
            maker.verify(is_full=is_full)
        try:
            return maker.make()
        except BaseException:
            for order in wanted:
                remove(order.name, state=state, connection=connection)
            raise


def _need_free(name: str, *, state: Path, connection: Connection) -> None:
    place = directory(state, name)
    if place.exists():
        is_whole = (place / DISK).exists()
        raise ConfigError(
            f"there is a clone '{name}' already{'' if is_whole else ', cut off while it was made'}",
            try_next=f"golden clone ssh {name}, or golden clone destroy {name}"
            if is_whole
            else f"golden clone destroy {name}, or golden clone gc",
        )
    remove_stray(name, state=state, connection=connection)


class _Maker:
    """Makes clones of one order after the other; what they share is looked at once."""

    def __init__(self, wanted: Sequence[Order], *, state: Path, uri: str, reporter: Reporter) -> None:
        self._wanted = wanted
        self._state = state
        self._uri = uri
        self._note = reporter.note
        self._sources = {order.source.file: order.source for order in wanted}
        self._files: dict[Path, tuple[Path, ...]] = {}
        self._ids: dict[Path, tuple[ImageId, ...]] = {}
        self._empty: dict[Path, Path] = {}
        self._macs = {mac(lease.uuid, n) for lease in whole_leases(state) for n in range(len(lease.nics))}

    def verify(self, *, is_full: bool) -> None:
        for file, source in self._sources.items():
            found = chain(source)
            self._files[file] = tuple(path for path, _ in found)
            self._ids[file] = tuple(build.id for _, build in found)
            # Links first: they change the files' ctime, by which it is known that a file need not be read again.
            with pins.locked(self._state):
                pins.hold(self._files[file], self._ids[file], state=self._state, note=self._note)
            verify(source, state=self._state, is_full=is_full)

    def make(self) -> list[Lease]:
        made = []
        with pins.locked(self._state):
            held = {file: self._hold(source) for file, source in self._sources.items()}
            faults.place("clone.held")
            for order in self._wanted:
                file = order.source.file
                place = directory(self._state, order.name)
                new = orders.lease(order, held[file], self._files[file], uri=self._uri, place=place)
                new = orders.unlike(new, self._macs)
                self._macs |= {mac(new.uuid, n) for n in range(len(new.nics))}
                made.append(_take_place(order, new, place))
        for order, lease in zip(self._wanted, made, strict=True):
            self._fill(order, lease)
        return made

    def _hold(self, source: Source) -> tuple[Pin, ...]:
        file = source.file
        return pins.hold(self._files[file], self._ids[file], state=self._state, note=lambda _text: None)

    def _fill(self, order: Order, lease: Lease) -> None:
        """Everything that the machine needs; the overlay comes last, and says that all is there."""
        place = directory(self._state, order.name)
        for number, size_bytes in enumerate(lease.extra_disks, start=1):
            qemu_img.create(extra_disk(place, number), size_bytes)
        if lease.has_seed:
            keys = [key for key in (_public(order.key), lease.authorized_key) if key]
            content = order.user_data or seed.user_data(hostname=lease.name, authorized_keys=keys)
            seed.create(
                place / SEED,
                user_data=content,
                meta_data=seed.meta_data(instance=lease.uuid, hostname=lease.name),
            )
        backing = lease.pins[0].path
        lay_overlay(place, backing, [pin.path for pin in lease.pins], like=self._empty.get(backing))
        self._empty.setdefault(backing, place / DISK)


def _public(key: Path | None) -> str | None:
    file = key.with_name(f"{key.name}.pub") if key else None
    return file.read_text(encoding="utf-8").strip() if file and file.exists() else None


def _take_place(order: Order, lease: Lease, place: Path) -> Lease:
    """The directory appears by one rename, with the lease in it: from then on collectors see it.

    0711: libvirt's QEMU has to pass through; nobody else has to look.
    """
    aside = part(place)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    aside.chmod(0o711)
    lease = orders.with_own_key(order, lease, aside)
    write(lease, aside)
    aside.rename(place)
    faults.place("clone.leased")
    store.sync_directory(place.parent)
    gone = [str(pin.path) for pin in lease.pins if not pin.path.exists()]
    if gone:
        raise VerifyError(f"an image file went away while '{lease.name}' was made", details=[("file", gone[0])])
    return lease

"""Clones made, started, stopped and removed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from builder import store
from builder.clones import identity, orders, pins, saved
from builder.clones.leases import (
    DISK,
    SEED,
    Lease,
    Pin,
    directory,
    find,
    lock,
    need_known,
    part,
    whole_leases,
    write,
)
from builder.clones.memory import Capacity, host_capacity, reserved
from builder.clones.orders import Order
from builder.clones.saved import Saved
from builder.clones.sources import Source, chain, verify
from builder.errors import ConfigError, GoldenError, HostError, ToolError, VerifyError
from builder.model import ImageId
from builder.progress import Reporter
from builder.tools import qemu_img, seed
from builder.tools.domain import Disk, Label, Machine, domain_xml, mac, read_label
from builder.tools.free_port import free_port
from builder.tools.libvirt import Connection, Domain, PortTaken

_PORT_TRIES = 5
_CONSOLE = "console.log"
_RENEWAL = "renew.sock"


# --- making -----------------------------------------------------------------------------------------------------


def make(
    wanted: Sequence[Order], *, state: Path, connection: Connection, reporter: Reporter, is_full: bool = False
) -> list[Lease]:
    """Make clones, switched off; all of them or none. Their names are theirs from then on.

    is_full: as in `verify`. Raises ConfigError, HostError, ToolError or VerifyError.
    """
    orders.check(wanted)
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
    _remove_stray(name, state=state, connection=connection)


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


def lay_overlay(place: Path, backing: Path, files: Sequence[Path], *, like: Path | None = None) -> None:
    """A new overlay in `place`; the old one, if there is one, gives way at once.

    files: what it is to stand on, `backing` first. like: an overlay of the same that nobody has written to yet. One
    holds nothing but its backing file's name, so that a copy is as good as a new one and costs no process.
    """
    aside = place / f".{DISK}.part"
    aside.unlink(missing_ok=True)
    if like is not None:
        shutil.copyfile(like, aside)
    else:
        qemu_img.create_overlay(aside, backing)
        qemu_img.verify_chain(aside, list(files))
    aside.replace(place / DISK)


def extra_disk(place: Path, number: int) -> Path:
    return place / f"extra-{number}.qcow2"


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
    store.sync_directory(place.parent)
    gone = [str(pin.path) for pin in lease.pins if not pin.path.exists()]
    if gone:
        raise VerifyError(f"an image file went away while '{lease.name}' was made", details=[("file", gone[0])])
    return lease


# --- starting and stopping -----------------------------------------------------------------------------------------


def start(
    name: str,
    *,
    state: Path,
    connection: Connection,
    reporter: Reporter,
    capacity: Capacity | None = None,
    is_cold: bool = False,
) -> Lease:
    """Switch a clone on; nothing happens if it is on. A first start goes on from saved memory, if there is some.

    capacity: the host's if None. is_cold: boot, whatever memory is saved. Raises ConfigError, HostError, ToolError,
    or VerifyError if an image file below it is gone or changed.
    """
    need_known(state, name)
    with lock(state, name):
        lease = find(state, name)
        domain = connection.find(lease.domain_name)
        if domain is not None and not domain.is_off():
            return lease
        if not (directory(state, name) / DISK).exists():
            raise VerifyError(
                f"the clone '{name}' was cut off while it was made", try_next=f"golden clone destroy {name}"
            )
        pins.check(lease.pins, what=f"the clone '{name}'", is_full=False)
        _remove_stray(name, state=state, connection=connection, is_known=True)
        limit = capacity or host_capacity()
        with reporter.step(f"start {name}") as step, reserved(lease.memory_mib, limit, names=name, note=step.note):
            starter = _Starter(lease, state=state, connection=connection, reporter=reporter)
            return starter.cold() if is_cold else starter.warm_or_cold()


class _Starter:
    """One start of one clone. The caller holds the clone's lock and the host's memory account."""

    def __init__(self, lease: Lease, *, state: Path, connection: Connection, reporter: Reporter) -> None:
        self._lease = lease
        self._state = state
        self._place = directory(state, lease.name)
        self._connection = connection
        self._reporter = reporter

    def warm_or_cold(self) -> Lease:
        is_first = not (self._place / _CONSOLE).exists()
        wanted = saved.circumstances(self._lease, self._connection)
        memory = saved.find(self._state, wanted) if is_first and saved.why_not(self._lease) is None else None
        if memory is None:
            return self.cold()
        try:
            return self._warm(memory, saved.folder(self._state) / wanted.key)
        except GoldenError as error:
            self._reporter.note(f"{self._lease.name} boots: it cannot go on from saved memory: {_reason(error)}")
            self._undo()
            return self.cold()

    def cold(self) -> Lease:
        self._with_ports(lambda lease: self._define(lease).start())
        return self._lease

    def _warm(self, memory: Saved, memory_place: Path) -> Lease:
        pins.check(memory.pins, what="the saved memory", is_full=False)
        self._lease = self._lease.model_copy(update={"pins": memory.pins, "warm": memory.circumstances.key})
        # The lease before the overlay, here too: from now on the saved disk is in use.
        write(self._lease, self._place)
        lay_overlay(self._place, memory.pins[0].path, [pin.path for pin in memory.pins])

        def resume(lease: Lease) -> None:
            self._define(lease)
            renewed = machine(lease, self._place).model_copy(update={"renewal": self._place / _RENEWAL})
            saved.resume(memory, memory_place, renewed, connection=self._connection)

        with saved.lock(self._state, memory.circumstances.key):
            self._with_ports(resume)
        renewed = machine(self._lease, self._place).model_copy(update={"renewal": self._place / _RENEWAL})
        saved.renew(self._lease, memory, renewed)
        return self._lease

    def _undo(self) -> None:
        """Back to what the clone was before: an empty overlay of the image."""
        if (domain := self._connection.find(self._lease.domain_name)) is not None:
            domain.remove()
        plain = self._lease.pins[1:] if self._lease.warm else self._lease.pins
        self._lease = self._lease.model_copy(update={"pins": plain, "warm": None})
        lay_overlay(self._place, plain[0].path, [pin.path for pin in plain])
        write(self._lease, self._place)

    def _define(self, lease: Lease) -> Domain:
        return self._connection.define(domain_xml(machine(lease, self._place)))

    def _with_ports(self, go: Callable[[Lease], None]) -> None:
        """A port may turn out to be taken, and then it is another one, unless somebody relies on that very one."""
        for remaining in reversed(range(_PORT_TRIES)):
            try:
                go(self._lease)
                return
            except PortTaken as error:
                if not remaining:
                    raise
                self._lease = _with_other_ports(self._lease, error)
                write(self._lease, self._place)


def _reason(error: GoldenError) -> str:
    return "; ".join([error.what, *(text for _, text in error.details[:1])])


def _with_other_ports(lease: Lease, error: PortTaken) -> Lease:
    """The same with another port for the one that QEMU could not have; all that may be are exchanged if it names none.

    Raises HostError for a port that was asked for by its number.
    """
    named = re.search(r"forwarding rule '(tcp|udp):127\.0\.0\.1:(\d+)-", "\n".join(text for _, text in error.details))
    taken = int(named[2]) if named else None
    for forward in lease.forwards:
        if forward.is_fixed and forward.host_port == taken:
            raise HostError(
                f"could not start '{lease.name}': port {taken} of this host is taken",
                try_next=f"--forward {forward.guest_port}, for any port that is free, or: ss -ltnp 'sport = :{taken}'",
            ) from error
    return lease.model_copy(
        update={
            "ssh_port": free_port() if taken in (None, lease.ssh_port) else lease.ssh_port,
            "forwards": tuple(
                forward
                if forward.is_fixed or taken not in (None, forward.host_port)
                else forward.model_copy(update={"host_port": free_port()})
                for forward in lease.forwards
            ),
        }
    )


def machine(lease: Lease, place: Path) -> Machine:
    """The clone as libvirt is to run it."""
    disks = [Disk(chain=(place / DISK, *(pin.path for pin in lease.pins)))]
    disks += [Disk(chain=(extra_disk(place, number),)) for number in range(1, len(lease.extra_disks) + 1)]
    if lease.has_seed:
        disks.append(Disk(chain=(place / SEED,), format="raw", is_readonly=True))
    return Machine(
        name=lease.domain_name,
        uuid=lease.uuid,
        label=Label(purpose="clone", owner_pid=lease.owner.pid if lease.owner else os.getpid(), work=place),
        arch=lease.arch,
        firmware=lease.firmware,
        accelerator=lease.accelerator,
        memory_mib=lease.memory_mib,
        cpus=lease.cpus,
        disks=tuple(disks),
        ssh_port=lease.ssh_port,
        console_log=place / _CONSOLE,
        nics=lease.nics,
        forwards=lease.forwards,
        hostname=lease.name,
        credentials=identity.credentials(lease),
    )


def stop(name: str, *, state: Path, connection: Connection, timeout_s: float, is_forced: bool = False) -> None:
    """Switch a clone off by its power button, and come back when it is off; its disk stays.

    timeout_s: seconds. is_forced: pull the plug. Raises ToolError if the guest does not obey.
    """
    need_known(state, name)
    with lock(state, name):
        domain = connection.find(find(state, name).domain_name)
        if domain is None or domain.is_off():
            return
        if is_forced:
            domain.destroy()
            return
        domain.shut_down()
        try:
            domain.wait_until_off(timeout_s)
        except ToolError as error:
            error.try_next = f"golden clone stop --force {name}"
            raise


# --- removing ---------------------------------------------------------------------------------------------------


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
    aside = part(place)
    shutil.rmtree(aside, ignore_errors=True)
    if place.exists():
        place.rename(aside)
        shutil.rmtree(aside)


def release(state: Path, *, is_thorough: bool = False) -> list[Path]:
    """Let go of image files that nobody stands on any more; as `pins.release`."""
    with pins.locked(state):
        used = [*pins.used_by_clones(state), *(pin.path for _, memory in saved.all_saved(state) for pin in memory.pins)]
        return pins.release(state, in_use=used, is_thorough=is_thorough)


def _remove_stray(name: str, *, state: Path, connection: Connection, is_known: bool = False) -> None:
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

"""Clones switched on, by booting or from saved memory, and off."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from builder.clones import mismatch, pins, ready, saved, snapshots
from builder.clones.layout import lay_overlay, machine
from builder.clones.leases import CONSOLE, DISK, Lease, directory, find, lock, need_known, write
from builder.clones.memory import Capacity, host_capacity, reserved
from builder.clones.removal import remove_stray
from builder.clones.saved import Saved
from builder.errors import GoldenError, HostError, ToolError, VerifyError
from builder.progress import Reporter
from builder.tools.domain import Machine, domain_xml
from builder.tools.free_port import free_port
from builder.tools.libvirt import Connection, Domain, PortTaken

T = TypeVar("T")

_PORT_TRIES = 5
_RENEWAL = "renew.sock"


def start(
    name: str,
    *,
    state: Path,
    connection: Connection,
    reporter: Reporter,
    capacity: Capacity | None = None,
    is_cold: bool = False,
    is_modest: bool = False,
    greet: Callable[[Lease], None] = lambda _: None,
) -> Lease:
    """Switch a clone on; one that stands still for want of room, or for a snapshot, goes on. A first start goes on from
    saved memory.

    capacity: the host's if None. is_cold: boot, whatever memory is saved. is_modest: clones that wait in a pool do not
    give way to it. greet: called in a thread as soon as a clone that goes on from memory can be logged in to; it is
    waited for. Raises ConfigError, HostError, ToolError, or VerifyError if an image file below it is gone or changed.
    """
    need_known(state, name)
    with lock(state, name):
        lease = find(state, name)
        domain = connection.find(lease.domain_name)
        if domain is not None and not domain.is_off():
            if domain.is_paused():
                domain.go_on()  # its disk had no room, and there may be some by now; or somebody paused it
            return lease
        if not (directory(state, name) / DISK).exists():
            raise VerifyError(
                f"the clone '{name}' was cut off while it was made", try_next=f"golden clone destroy {name}"
            )
        pins.check(lease.pins, what=f"the clone '{name}'", is_full=False)
        remove_stray(name, state=state, connection=connection, is_known=True)
        limit = capacity or host_capacity()
        with reporter.step(f"start {name}") as step:
            if not is_modest:
                ready.give_way(
                    lease.memory_mib, limit, state=state, connection=connection, note=reporter.note, besides=name
                )
            starter = _Starter(
                lease, limit, state=state, connection=connection, reporter=reporter, note=step.note, greet=greet
            )
            return starter.cold() if is_cold else starter.from_snapshot() or starter.warm_or_cold()


class _Starter:
    """One start of one clone. The caller holds the clone's lock."""

    def __init__(
        self,
        lease: Lease,
        limit: Capacity,
        *,
        state: Path,
        connection: Connection,
        reporter: Reporter,
        note: Callable[[str], None],
        greet: Callable[[Lease], None],
    ) -> None:
        self._greet = greet
        self._lease = lease
        self._limit = limit
        self._note = note
        self._state = state
        self._place = directory(state, lease.name)
        self._connection = connection
        self._reporter = reporter

    def from_snapshot(self) -> Lease | None:
        """None if it does not stand still for one."""
        if not snapshots.cut_off(self._state, self._lease.name):
            return None
        with self._reserved():
            has_gone_on = snapshots.go_on(self._lease, state=self._state, connection=self._connection)
        return self._lease if has_gone_on else None

    def warm_or_cold(self) -> Lease:
        if (self._place / CONSOLE).exists():  # it is a machine of its own already
            return self.cold()
        wanted = saved.circumstances(self._lease, self._connection)
        memory = saved.find(self._state, wanted) if saved.why_not(self._lease) is None else None
        if memory is None:
            if (reason := mismatch.explain(self._lease, wanted, state=self._state)) is not None:
                self._reporter.note(f"{self._lease.name} boots: {reason}")
            return self.cold()
        try:
            return self._warm(memory, saved.folder(self._state) / wanted.key)
        except GoldenError as error:
            self._reporter.note(f"{self._lease.name} boots: it cannot go on from saved memory: {_reason(error)}")
            self._undo()
            return self.cold()
        except BaseException:
            # Nobody must ever log in to one that is still the saved guest.
            self._undo()
            raise

    def cold(self) -> Lease:
        with self._reserved():
            self._with_ports(lambda lease: self._define(lease).start())
        return self._lease

    def _reserved(self) -> contextlib.AbstractContextManager[None]:
        own = self._lease.domain_name
        return reserved(self._lease.memory_mib, self._limit, names=self._lease.name, note=self._note, own=own)

    def _warm(self, memory: Saved, memory_place: Path) -> Lease:
        pins.check(memory.pins, what="the saved memory", is_full=False)
        self._lease = self._lease.model_copy(update={"pins": memory.pins, "warm": memory.circumstances.key})
        # The lease before the overlay, here too: from now on the saved disk is in use.
        write(self._lease, self._place)
        empty = memory_place / saved.EMPTY
        files = [pin.path for pin in memory.pins]
        lay_overlay(self._place, files[0], files, like=empty if memory.is_mapped else None)

        with ThreadPoolExecutor(1) as beside, contextlib.ExitStack() as renewals:
            keys = beside.submit(saved.make_host_keys, memory.host_keys)

            def resume(lease: Lease) -> saved.Renewal:
                machine = self._resumed(lease)
                renewal = renewals.enter_context(contextlib.closing(saved.Renewal(lease, memory, machine, keys)))
                saved.resume(memory, memory_place, machine, renewal, connection=self._connection)
                return renewal

            with self._reserved(), saved.lock(self._state, memory.circumstances.key):
                renewal = self._with_ports(resume)
            renewal.wait_until_reachable()
            greeted = beside.submit(self._greet, self._lease)
            # While the guest is at it: what libvirt is to know of it once it is off.
            self._define(self._lease)
            renewal.wait()
            greeted.result()
        return self._lease

    def _resumed(self, lease: Lease) -> Machine:
        return machine(lease, self._place).model_copy(update={"renewal": self._place / _RENEWAL, "is_resumed": True})

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

    def _with_ports(self, go: Callable[[Lease], T]) -> T:
        """A port may turn out to be taken, and then it is another one, unless somebody relies on that very one."""
        for remaining in reversed(range(_PORT_TRIES)):
            try:
                return go(self._lease)
            except PortTaken as error:
                if not remaining:
                    raise
                self._lease = _with_other_ports(self._lease, error)
                write(self._lease, self._place)
        raise AssertionError("the last try returns or raises")


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

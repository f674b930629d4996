"""Where machines for tests come from: an image found, clones of it made, waited for, and surely removed."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from builder import clones, config, preflight
from builder.clones import first_start, pools, ready
from builder.clones.memory import promised
from builder.errors import ConfigError, GoldenError
from builder.frozen import Frozen
from builder.harness import boot, lans
from builder.harness.guest import Address, Guest
from builder.model import Firmware
from builder.preflight import kvm
from builder.preflight.kvm import Accelerator
from builder.progress import Reporter
from builder.store import Store, default_state
from builder.tools import libvirt, ssh
from builder.tools.console import GUEST_FATAL, Patterns
from builder.tools.domain import Forward, Nic, mac

_numbers = itertools.count(1)

# How long a test waits for the machines of others to go; and for one that took the room in the last moment.
MEMORY_WAIT_S = 1800.0
_START_WAIT_S = 30.0


class Wanted(Frozen):
    """A machine as a test wants it. image: IMAGE or IMAGE@VERSION. None: what the image's build says.

    extra_disks: sizes in bytes. ports: TCP ports of it that others reach by this host. user_data: of a cloud-init
    NoCloud seed; None for no seed. is_cold: boot it, whatever memory is saved. lan: whether it has a second card, on a
    network of its own with the others that have one. networks: of further cards, after these. firmware: None for the
    image's.
    """

    image: str
    memory_mib: int | None = None
    cpus: int | None = None
    extra_disks: tuple[int, ...] = ()
    ports: tuple[int, ...] = ()
    user_data: str | None = None
    is_cold: bool = False
    lan: bool = False
    networks: tuple[Nic, ...] = ()
    firmware: Firmware | None = None


@dataclass(frozen=True)
class _Made:
    """A machine that is there. is_on: it waited in a pool, and counts in the account of memory already."""

    role: str
    wanted: Wanted
    lease: clones.Lease
    key: Path
    is_on: bool


class Lab:
    """All that machines for tests need of this host.

    images: folder of installed images. builds: of the project, where there is one. key: lets golden into the images.
    is_warm: whether the memory of an image is saved by itself when its first machine is wanted; False: all boot,
    whatever is saved; None: they go on from what is saved. reporter: hears what is worth a word. host_mib: what
    golden's machines of this host may declare together; the host's memory if None. memory_wait_s: how long machines
    wait for those of others to go.
    """

    def __init__(
        self,
        *,
        state: Path,
        images: Path,
        builds: Store | None,
        key: Path | None,
        accelerator: Accelerator,
        reporter: Reporter | None = None,
        is_warm: bool | None = None,
        host_mib: int | None = None,
        memory_wait_s: float = MEMORY_WAIT_S,
    ) -> None:
        self.state = state
        self.images = images
        self.builds = builds
        self.key = key
        self.accelerator = accelerator
        self.reporter = reporter or Reporter("quiet")
        self.is_warm = is_warm
        self.host_mib = host_mib
        self.memory_wait_s = memory_wait_s

    def source(self, image: str) -> clones.Source:
        """image: IMAGE or IMAGE@VERSION. Raises ConfigError if it is neither installed nor built."""
        name, _, version = image.partition("@")
        return clones.locate(name, version or None, images=self.images, builds=self.builds)

    def memory_mib(self, wanted: Wanted) -> int:
        """What it declares. Raises ConfigError if there is no such image, whatever it declares."""
        source = self.source(wanted.image)
        return wanted.memory_mib or source.build.memory_mib

    @contextlib.contextmanager
    def running(
        self,
        wanted: Mapping[str, Wanted],
        *,
        boot_timeout_s: float | None = None,
        is_waited: bool = True,
        fatal: Patterns = GUEST_FATAL,
        is_stopped: Callable[[], bool] = lambda: False,
        before_start: Callable[[Path], None] = lambda _: None,
        on_start: Callable[[Mapping[str, Guest]], None] = lambda _: None,
        on_failure: Callable[[Mapping[str, Guest], GoldenError], None] = lambda _guests, _error: None,
    ) -> Iterator[dict[str, Guest]]:
        """Machines by their roles that answer inside the block and are gone after it, however it ends.

        They boot at the same time. boot_timeout_s: with KVM; multiplied where there is none. is_waited: whether
        for an answer on SSH. fatal: console lines after which waiting is no use. is_stopped: whether to give up
        waiting. before_start: told of a machine's folder, with its disks, before it is on. on_start: told of the
        machines as soon as they are on; on_failure: of a boot that failed, while what is left of them is still there.
        Raises ConfigError, HostError, ToolError or VerifyError.
        """
        limit_s = (boot_timeout_s or clones.BOOT_TIMEOUT_S) * self.accelerator.time_factor
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(libvirt.connect())
            # No two deployments share one, in whatever process they are.
            lan = secrets.token_hex(8)
            made = {
                role: stack.enter_context(
                    self._made(role, one, connection, lan=lan, is_stopped=is_stopped, before_start=before_start)
                )
                for role, one in wanted.items()
            }
            with self._room(made.values(), connection, is_stopped):
                guests = {role: stack.enter_context(self._started(one, connection)) for role, one in made.items()}
            on_start(guests)
            if not is_waited:
                yield guests
                return
            try:
                boot.wait_for_all(guests, connection, limit_s=limit_s, fatal=fatal, is_stopped=is_stopped)
                lans.join(guests, time_factor=self.accelerator.time_factor)
            except GoldenError as error:
                on_failure(guests, error)
                raise
            yield guests

    @contextlib.contextmanager
    def _made(
        self,
        role: str,
        wanted: Wanted,
        connection: libvirt.Connection,
        *,
        lan: str,
        is_stopped: Callable[[], bool],
        before_start: Callable[[Path], None],
    ) -> Iterator[_Made]:
        """One machine, not started unless it waited in a pool; gone after the block."""
        source = self.source(wanted.image)
        preflight.need_reach(self.state, connection)
        preflight.need_reach(source.file.parent, connection)
        key = self.key
        if key is None:
            raise ConfigError(
                "machines for tests need the key that their image lets in, and there is no project that has one",
                try_next="GOLDEN_FILE=…/golden.toml, or GOLDEN_SSH_KEY=FILE",
            )
        order = clones.Order(
            name=_unique_name(role),
            source=source,
            memory_mib=wanted.memory_mib or source.build.memory_mib,
            cpus=wanted.cpus or source.build.cpus,
            accelerator=self.accelerator.kind_for(source.build.arch),
            key=key,
            extra_disks=wanted.extra_disks,
            firmware=wanted.firmware,
            nics=(Nic(), *([Nic(kind="lan", source=lan)] if wanted.lan else []), *wanted.networks),
            forwards=tuple(Forward(host_port=0, guest_port=port) for port in wanted.ports),
            has_seed=wanted.user_data is not None,
            user_data=wanted.user_data,
            owner=clones.this_process(),
        )
        lease, is_on = self._taken(order, connection, wanted), True
        if lease is None:
            if not wanted.is_cold:
                self._warm_up(order, connection, is_stopped)
            lease, is_on = self._new(order, connection), False
        try:
            if not is_on:
                before_start(clones.directory(self.state, lease.name))
            yield _Made(role=role, wanted=wanted, lease=lease, key=key, is_on=is_on)
        finally:
            with contextlib.suppress(ConfigError):  # somebody else destroyed it
                clones.destroy(lease.name, state=self.state, connection=connection)

    @contextlib.contextmanager
    def _started(self, made: _Made, connection: libvirt.Connection) -> Iterator[Guest]:
        """It is on, and not waited for; what is logged in to it is closed after the block."""
        lease, wanted = made.lease, made.wanted
        with contextlib.ExitStack() as logins:
            login: ssh.Login | None = None

            def greet(on: clones.Lease) -> None:
                nonlocal login
                target = ssh.Target(port=on.ssh_port, key=on.key or made.key)
                login = logins.enter_context(ssh.shared_login(target))
                login.begin_early()

            if not made.is_on:
                lease = clones.start(
                    lease.name,
                    state=self.state,
                    connection=connection,
                    reporter=self.reporter,
                    capacity=self.capacity(wait_s=_START_WAIT_S),
                    # What is written into the overlay is not in any memory that was saved.
                    is_cold=wanted.is_cold or self.is_warm is False,
                    greet=greet,
                )
            address = Address(
                name=made.role,
                clone=lease.name,
                image=f"{lease.image.image}@{lease.image.version}",
                port=lease.ssh_port,
                key=lease.key or made.key,
                console=clones.console_log(self.state, lease.name),
                forwards={forward.guest_port: forward.host_port for forward in lease.forwards},
                lan_mac=mac(lease.uuid, 1) if wanted.lan else None,
            )
            if login is None:
                login = logins.enter_context(ssh.shared_login(address.target))
            yield Guest(address, login=login, is_up=lease.warm is not None)

    @contextlib.contextmanager
    def _room(
        self, made: Iterable[_Made], connection: libvirt.Connection, is_stopped: Callable[[], bool]
    ) -> Iterator[None]:
        """Memory for all machines that are to be started, once those of others leave it, or for none of them."""
        machines = {it.lease.domain_name: it.lease.memory_mib for it in made if not it.is_on}
        if not machines:
            yield
            return
        limit, needed_mib, note = self.capacity(wait_s=self.memory_wait_s), sum(machines.values()), self.reporter.note
        ready.give_way(needed_mib, limit, state=self.state, connection=connection, note=note)
        with promised(machines, limit, note=note, is_stopped=is_stopped):
            yield

    def capacity(self, *, wait_s: float = 0) -> clones.Capacity:
        """What all of golden's machines of this host may declare together."""
        if self.host_mib is None:
            return clones.host_capacity(wait_s=wait_s)
        return clones.Capacity(total_mib=self.host_mib, wait_s=wait_s)

    def _taken(self, order: clones.Order, connection: libvirt.Connection, wanted: Wanted) -> clones.Lease | None:
        """One that waits in a pool, unless something is to be done before the start."""
        found = (
            None
            if wanted.is_cold or self.is_warm is False
            else ready.take(order, state=self.state, connection=connection)
        )
        if found is None:
            return None
        lease, pool = found
        pools.refill_later(pool, state=self.state)
        return lease

    def _warm_up(self, order: clones.Order, connection: libvirt.Connection, is_stopped: Callable[[], bool]) -> None:
        """The first machine of an image on this host waits for its memory to be saved."""
        if self.is_warm:
            first_start.prepare(
                order,
                state=self.state,
                connection=connection,
                reporter=self.reporter,
                boot_timeout_s=clones.BOOT_TIMEOUT_S * self.accelerator.time_factor,
                capacity=self.capacity(wait_s=_START_WAIT_S),
                is_stopped=is_stopped,
            )

    def _new(self, order: clones.Order, connection: libvirt.Connection) -> clones.Lease:
        (made,) = clones.make([order], state=self.state, connection=connection, reporter=self.reporter)
        return made


def open_lab(
    *,
    file: Path,
    state: Path | None = None,
    images: Path | None = None,
    key: Path | None = None,
    reporter: Reporter | None = None,
    is_warm: bool | None = None,
    host_mib: int | None = None,
    memory_wait_s: float = MEMORY_WAIT_S,
) -> Lab:
    """The lab of a project, or of a host that has installed images and no project.

    file: golden.toml; it need not be there. state: the default one if None. The rest: as in `Lab`. Raises ConfigError,
    HostError.
    """
    state = (state or default_state()).absolute()
    quiet = reporter or Reporter("quiet")
    project = config.load(file) if file.exists() else None
    return Lab(
        state=state,
        images=(images or clones.INSTALLED_IMAGES).absolute(),
        builds=Store(state, project.name) if project else None,
        key=key or (project.ssh_key if project else None),
        accelerator=kvm.accelerator(state, reporter=quiet),
        reporter=quiet,
        is_warm=is_warm,
        host_mib=host_mib,
        memory_wait_s=memory_wait_s,
    )


def _unique_name(role: str) -> str:
    """A clone's name that no other test of this host has; roles are short, as the name may take 40 characters."""
    return f"{role[:20]}-{os.getpid()}-{next(_numbers)}"

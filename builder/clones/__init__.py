"""Clones: throw-away machines, each on an overlay of an image that is only ever read.

The library's door. Where everything lies: builder/clones/leases.py.

    with connect() as connection, clones.running([order], state=state, connection=connection) as (web,):
        run.query(ssh.command(clones.target(web, connection=connection), "uname", "-r"), why="ask the kernel")
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from builder.clones import ready
from builder.clones.access import BOOT_TIMEOUT_S, is_running, state_of, target, wait
from builder.clones.leases import (
    Lease,
    Owner,
    console_log,
    directory,
    find,
    leases,
    names,
    owner,
    this_process,
    uri,
    whole_leases,
)
from builder.clones.machines import start, stop
from builder.clones.making import make
from builder.clones.memory import Capacity, host_capacity, promised
from builder.clones.orders import Order, numbered
from builder.clones.pins import check, faults, repair
from builder.clones.removal import destroy
from builder.clones.sources import INSTALLED_IMAGES, Source, image_names, locate, verify
from builder.errors import ConfigError
from builder.progress import Reporter
from builder.tools import ssh
from builder.tools.libvirt import Connection

__all__ = [
    "BOOT_TIMEOUT_S",
    "INSTALLED_IMAGES",
    "Capacity",
    "Lease",
    "Order",
    "Owner",
    "Source",
    "check",
    "console_log",
    "create",
    "create_all",
    "destroy",
    "directory",
    "faults",
    "find",
    "host_capacity",
    "image_names",
    "is_running",
    "leases",
    "locate",
    "make",
    "names",
    "numbered",
    "owner",
    "repair",
    "running",
    "start",
    "state_of",
    "stop",
    "target",
    "this_process",
    "uri",
    "verify",
    "wait",
    "whole_leases",
]


def create(
    order: Order,
    *,
    state: Path,
    connection: Connection,
    reporter: Reporter,
    is_full: bool,
    boot_timeout_s: float | None,
    capacity: Capacity | None = None,
    is_cold: bool = False,
) -> tuple[Lease, float | None]:
    """Make the clone, start it, and wait until it answers; returns its lease and the seconds that it took to.

    is_full: as in `verify`. boot_timeout_s: None to not wait for SSH. If anything fails, or golden is interrupted,
    nothing of the clone is left. Raises ConfigError, HostError, ToolError or VerifyError.
    """
    made, seconds = create_all(
        [order],
        state=state,
        connection=connection,
        reporter=reporter,
        is_full=is_full,
        boot_timeout_s=boot_timeout_s,
        capacity=capacity,
        is_cold=is_cold,
    )
    return made[0], seconds[0]


def create_all(
    orders: Sequence[Order],
    *,
    state: Path,
    connection: Connection,
    reporter: Reporter,
    is_full: bool = False,
    boot_timeout_s: float | None,
    capacity: Capacity | None = None,
    is_cold: bool = False,
) -> tuple[list[Lease], list[float | None]]:
    """As `create`, for several: all of them, or none is left. They boot at the same time."""
    if boot_timeout_s is not None and any(order.key is None and not order.has_own_key for order in orders):
        raise ConfigError("waiting for SSH needs a key", try_next="--key FILE, or --no-wait")
    made = make(orders, state=state, connection=connection, reporter=reporter, is_full=is_full)
    try:
        return _started(
            made,
            state=state,
            connection=connection,
            reporter=reporter,
            boot_timeout_s=boot_timeout_s,
            capacity=capacity,
            is_cold=is_cold,
        )
    except BaseException:
        _remove_all([lease.name for lease in made], state=state, connection=connection)
        raise


def _started(
    made: Sequence[Lease],
    *,
    state: Path,
    connection: Connection,
    reporter: Reporter,
    boot_timeout_s: float | None,
    capacity: Capacity | None,
    is_cold: bool,
) -> tuple[list[Lease], list[float | None]]:
    begun: list[tuple[Lease, float]] = []
    seconds: list[float | None] = []
    logins: dict[str, ssh.Login] = {}
    with contextlib.ExitStack() as stack, contextlib.ExitStack() as room:
        if len(made) > 1:
            room.enter_context(_room(made, capacity or host_capacity(), state, connection, reporter))

        def greet(lease: Lease) -> None:
            if boot_timeout_s is not None:
                logins[lease.name] = stack.enter_context(ssh.shared_login(target(lease, connection=connection)))
                logins[lease.name].begin_early()

        for lease in made:
            begin = time.monotonic()
            on = start(
                lease.name,
                state=state,
                connection=connection,
                reporter=reporter,
                capacity=capacity,
                is_cold=is_cold,
                greet=greet,
            )
            begun.append((on, begin))
        room.close()
        for lease, begin in begun:
            if boot_timeout_s is None:
                seconds.append(None)
                continue
            with reporter.step(f"boot {lease.name}") as step:
                wait(
                    lease,
                    state=state,
                    connection=connection,
                    timeout_s=boot_timeout_s,
                    note=step.note,
                    # What was just made went on from memory, or was booted.
                    is_up=lease.warm is not None,
                    login=logins.get(lease.name),
                )
            seconds.append(time.monotonic() - begin)
    return [lease for lease, _ in begun], seconds


@contextlib.contextmanager
def running(
    orders: Sequence[Order],
    *,
    state: Path,
    connection: Connection,
    reporter: Reporter | None = None,
    boot_timeout_s: float | None = BOOT_TIMEOUT_S,
    capacity: Capacity | None = None,
) -> Iterator[list[Lease]]:
    """Clones that answer inside the block and are gone after it, however it ends; by `kill -9`, `gc` collects them.

    Owned by this process unless the orders say otherwise. boot_timeout_s: multiply it where there is no KVM.
    """
    mine = [order if order.owner else order.model_copy(update={"owner": this_process()}) for order in orders]
    made, _ = create_all(
        mine,
        state=state,
        connection=connection,
        reporter=reporter or Reporter("quiet"),
        boot_timeout_s=boot_timeout_s,
        capacity=capacity,
    )
    try:
        yield made
    finally:
        _remove_all([lease.name for lease in made], state=state, connection=connection)


@contextlib.contextmanager
def _room(
    made: Sequence[Lease], limit: Capacity, state: Path, connection: Connection, reporter: Reporter
) -> Iterator[None]:
    """For all of them: with half of what it needs nobody waits for somebody who does the same."""
    machines = {lease.domain_name: lease.memory_mib for lease in made}
    ready.give_way(sum(machines.values()), limit, state=state, connection=connection, note=reporter.note)
    with promised(machines, limit, note=reporter.note):
        yield


def _remove_all(made: Sequence[str], *, state: Path, connection: Connection) -> None:
    """All that are still there; one that cannot be removed does not keep the others."""
    with contextlib.ExitStack() as stack:
        for name in made:
            stack.callback(_remove_if_there, name, state=state, connection=connection)


def _remove_if_there(name: str, *, state: Path, connection: Connection) -> None:
    with contextlib.suppress(ConfigError):
        destroy(name, state=state, connection=connection)

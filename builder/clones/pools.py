"""Pools: of an image so many clones are kept ready, which run, answer, and wait for somebody to take them.

STATE/clones/.pools/IMAGE.json   what is to be kept ready; IMAGE@VERSION.json for one that stays at a version
                    IMAGE.log    what background refills said
STATE/clones/.locks/.pool-IMAGE  held while the pool is filled; .pool-IMAGE.next by the one that is next

Clones that wait: builder/clones/ready.py.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from builder import locks, run, store
from builder.clones import making, orders, ready, warm
from builder.clones.access import BOOT_TIMEOUT_S, wait
from builder.clones.leases import Lease, directory, find, lock, names, this_process, write
from builder.clones.machines import start
from builder.clones.memory import Capacity, host_capacity
from builder.clones.orders import Order
from builder.clones.removal import release, remove
from builder.clones.sources import Source, locate
from builder.errors import ConfigError, GoldenError, HostError, VerifyError, did_you_mean
from builder.model import Frozen
from builder.progress import Reporter
from builder.store import Store
from builder.tools.libvirt import Connection

_MOST_LOG_BYTES = 1024**2

# A clone's name may take 40 characters, and this one gets a number.
_LONGEST_STEM = 28


class Pool(Frozen):
    """What is kept ready. version: None for the newest. ready: how many. None: what the image's build says.

    images: folder of installed images. project: whose builds count where the image is not installed. is_cold: they
    boot, whatever memory is saved. is_waited: whether one is ready when it answers on SSH, or as soon as it is on.
    """

    format: Literal[1] = 1
    image: str
    version: str | None = None
    images: Path
    project: str | None
    ready: int
    memory_mib: int | None = None
    cpus: int | None = None
    accelerator: Literal["kvm", "tcg"]
    key: Path | None
    is_cold: bool = False
    is_waited: bool = True

    @property
    def name(self) -> str:
        return f"{self.image}@{self.version}" if self.version else self.image

    def source(self, state: Path) -> Source:
        """Raises ConfigError if the image is gone, VerifyError if it is damaged."""
        builds = Store(state, self.project) if self.project else None
        return locate(self.image, self.version, images=self.images, builds=builds)

    def order(self, name: str, source: Source) -> Order:
        """Owned by this process until it is ready: what a killed one leaves half-made is collected."""
        return Order(
            name=name,
            source=source,
            memory_mib=self.memory_mib or source.build.memory_mib,
            cpus=self.cpus or source.build.cpus,
            accelerator=self.accelerator,
            key=self.key,
            owner=this_process(),
        )


class Filled(Frozen):
    """What was done, or would be. made: names, "" for those that have none yet. short: why there are not enough."""

    pool: str
    ready: int
    made: tuple[str, ...] = ()
    removed: tuple[tuple[str, str], ...] = ()
    short: str | None = None


def folder(state: Path) -> Path:
    return state / "clones" / ".pools"


def pools(state: Path) -> list[Pool]:
    found = [_read(path) for path in sorted(folder(state).glob("*.json"))] if folder(state).is_dir() else []
    return [pool for pool in found if pool is not None]


def find_pool(state: Path, name: str) -> Pool:
    """Raises ConfigError with the pools that there are."""
    pool = _read(folder(state) / f"{name}.json")
    if pool is None:
        known = [pool.name for pool in pools(state)]
        raise ConfigError(
            f"there is no pool of '{name}'{did_you_mean(name, known)}", try_next=f"golden clone pool {name} --ready 2"
        )
    return pool


def _read(path: Path) -> Pool | None:
    try:
        return Pool.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def declare(pool: Pool, *, state: Path) -> None:
    """From now on so many are to be ready; `fill` makes them. ready = 0 forgets the pool."""
    path = folder(state) / f"{pool.name}.json"
    if pool.ready == 0:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write_atomically(path, pool.model_dump_json(indent=2) + "\n")


def pool_of(lease: Lease, state: Path) -> Pool | None:
    return _read(folder(state) / f"{lease.pool}.json")


def why_unneeded(lease: Lease, pool: Pool | None, *, state: Path, connection: Connection) -> str | None:
    """Why nobody will take a clone that waits: its pool or image is gone, or has another version by now."""
    if pool is None:
        return "it waits in a pool that is gone"
    try:
        build = pool.source(state).build
    except (ConfigError, VerifyError):
        return "it waits in a pool whose image is gone"
    if build.id != lease.image:
        return f"it waits in a pool that is of {build.version} now"
    wanted = (pool.memory_mib or build.memory_mib, pool.cpus or build.cpus, pool.accelerator, pool.key)
    if (lease.memory_mib, lease.cpus, lease.accelerator, lease.key) != wanted:
        return "it waits in a pool that is of other machines now"
    return ready.why_unfit(lease, connection)


def without_image(state: Path) -> Iterator[Pool]:
    """Pools that nobody can fill any more."""
    for pool in pools(state):
        try:
            pool.source(state)
        except ConfigError:
            yield pool
        except VerifyError:  # its package may be between two versions
            continue


def fill(
    name: str,
    *,
    state: Path,
    connection: Connection,
    reporter: Reporter,
    time_factor: float,
    capacity: Capacity | None = None,
    planned: Pool | None = None,
    is_patient: bool = True,
) -> Filled | None:
    """Make what is missing in a pool, one after the other, and remove what nobody will take.

    planned: only say what would be done to have the pool like that. is_patient: wait for another process that fills
    it; else leave it to that one, and return None: it looks again at what is there. Where memory is short it ends
    with fewer. Raises ConfigError, HostError, ToolError, VerifyError.
    """
    work = _Filling(name, state=state, connection=connection, reporter=reporter, planned=planned)
    if planned is not None:
        return work.plan()
    with _turn(state, name, reporter=reporter, is_patient=is_patient) as is_mine:
        if not is_mine:
            return None
        return work.carry_out(capacity or host_capacity(), time_factor=time_factor)


@contextlib.contextmanager
def _turn(state: Path, name: str, *, reporter: Reporter, is_patient: bool) -> Iterator[bool]:
    """Whether the pool is this process's to fill while the block runs.

    One fills, one is next, and the others need not wait: the next one looks at the pool when its turn has come, and
    sees what they have taken.
    """

    def hear(_holder: str) -> None:
        reporter.note(f"another golden is filling the pool of {name}")

    folder, what = state / "clones" / ".locks", f"the pool of '{name}'"
    with contextlib.ExitStack() as working:
        with contextlib.ExitStack() as queueing:
            try:
                queueing.enter_context(
                    locks.lock(folder / f".pool-{name}.next", what=what, waiting=hear if is_patient else None)
                )
            except HostError:
                yield False
                return
            working.enter_context(locks.lock(folder / f".pool-{name}", what=what, waiting=hear))
        yield True


class _Filling:
    def __init__(
        self, name: str, *, state: Path, connection: Connection, reporter: Reporter, planned: Pool | None
    ) -> None:
        self._name = name
        self._state = state
        self._connection = connection
        self._reporter = reporter
        self._planned = planned
        self._made: list[str] = []
        self._short: str | None = None

    def plan(self) -> Filled:
        removed, left = self._sort()
        missing = max(0, self._wanted() - len(left))
        return self._filled(removed, ready=len(left), made=[""] * missing)

    def carry_out(self, limit: Capacity, *, time_factor: float) -> Filled:
        removed, left = self._sort()
        for name, _ in removed:
            ready.discard(self._state, name, connection=self._connection)
        pool = self._pool()
        if pool is not None and len(left) < pool.ready:
            is_cold = not self._prepare(pool, limit, time_factor)
            # Asked each time: clones are taken meanwhile, and the pool may be given up.
            while (pool := self._pool()) is not None and self._short is None and self._count() < pool.ready:
                self._make(pool, limit, time_factor, is_cold=is_cold)
        return self._filled(removed, ready=self._count(), made=self._made)

    def _filled(self, removed: list[tuple[str, str]], *, ready: int, made: list[str]) -> Filled:
        return Filled(pool=self._name, ready=ready, made=tuple(made), removed=tuple(removed), short=self._short)

    def _pool(self) -> Pool | None:
        return self._planned or _read(folder(self._state) / f"{self._name}.json")

    def _wanted(self) -> int:
        pool = self._pool()
        return pool.ready if pool else 0

    def _count(self) -> int:
        return len(ready.waiting(self._state, self._name))

    def _sort(self) -> tuple[list[tuple[str, str]], list[Lease]]:
        """Those to be removed, with the reason, and those that stay."""
        removed: list[tuple[str, str]] = []
        left: list[Lease] = []
        for lease in ready.waiting(self._state, self._name):
            reason = why_unneeded(lease, self._pool(), state=self._state, connection=self._connection)
            if reason is None and len(left) >= self._wanted():
                reason = "there are more than the pool is to have"
            if reason is None:
                left.append(lease)
            else:
                removed.append((lease.name, reason))
        return removed, left

    def _prepare(self, pool: Pool, limit: Capacity, time_factor: float) -> bool:
        """Whether they are to go on from saved memory, which is saved now if it was not."""
        if pool.is_cold or not pool.is_waited:
            return False
        try:
            warm.prepare(
                pool.order("warm", pool.source(self._state)),
                state=self._state,
                connection=self._connection,
                reporter=self._reporter,
                boot_timeout_s=BOOT_TIMEOUT_S * time_factor,
                capacity=limit,
            )
        except GoldenError as error:
            self._reporter.note(f"clones of {pool.name} boot: {error.what}")
            return False
        return True

    def _make(self, pool: Pool, limit: Capacity, time_factor: float, *, is_cold: bool) -> None:
        taken = names(self._state)
        (name,) = orders.numbered((), image=f"{pool.image[:_LONGEST_STEM]}-ready", count=None, taken=taken)
        order = pool.order(name, pool.source(self._state))
        common = {"state": self._state, "connection": self._connection}
        making.make([order], **common, reporter=self._reporter)  # type: ignore[arg-type]
        try:
            lease = start(
                name,
                state=self._state,
                connection=self._connection,
                reporter=self._reporter,
                capacity=limit,
                is_cold=is_cold,
                is_modest=True,
            )
            if pool.is_waited:
                with self._reporter.step(f"boot {name}") as step:
                    limit_s = BOOT_TIMEOUT_S * time_factor
                    wait(lease, **common, timeout_s=limit_s, note=step.note)  # type: ignore[arg-type]
            with lock(self._state, name):
                fresh = find(self._state, name)
                write(fresh.model_copy(update={"pool": pool.name, "owner": None}), directory(self._state, name))
            self._made.append(name)
        except BaseException as error:
            with lock(self._state, name):
                remove(name, state=self._state, connection=self._connection)
            release(self._state)
            if not isinstance(error, HostError):
                raise
            self._short = error.what


def refill_later(name: str, *, state: Path) -> None:
    """Have a process of its own fill the pool, and do not wait for it. What it says goes to the pool's log."""
    log = folder(state) / f"{name}.log"
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > _MOST_LOG_BYTES:
            log.unlink()
    argv = [sys.executable, "-m", "builder", "--state", str(state), "--progress", "plain"]
    run.leave([*argv, "clone", "pool", "--refill", name], why=f"refill the pool of {name}", log=log)

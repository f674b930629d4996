"""Sparrowfiles on throw-away clones: each on one of its own, one after the other or many at once."""

from __future__ import annotations

import concurrent.futures
import contextlib
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder import clones
from builder.errors import GoldenError, ToolError
from builder.model import Frozen
from builder.preflight.kvm import Accelerator
from builder.progress import Reporter
from builder.tools import libvirt, ssh
from builder.tools.sparrowdo import command
from builder.tools.sparrowdo.command import Ended, Job

# How often libvirt is asked whether a clone is still on, in seconds.
_LOOK_S = 2.0
_SHOWN_BYTES = 1 << 20


class Outcome(Frozen):
    """How one sparrowfile ended on its clone. exit: its own status; seconds: with clone and boot. output: bounded.

    clone: its name, if it was kept.
    """

    sparrowfile: str
    exit: int
    cause: str
    seconds: float
    clone: str | None
    output: str


@dataclass(frozen=True)
class Bed:
    """What every clone of one command is made of, and how sparrowfiles run there.

    state: root of all state. key: private one that the image lets in. timeout_s: of each sparrowfile, with KVM.
    """

    state: Path
    source: clones.Source
    key: Path
    accelerator: Accelerator
    user: str
    timeout_s: float
    is_kept: bool


# --- one sparrowfile, one clone


def run_one(bed: Bed, job: Job, *, log: Path, reporter: Reporter, follow: Callable[[], None] | None) -> Outcome:
    """One sparrowfile on a clone of its own. follow: shows what is new in the log; it is then the progress.

    Raises GoldenError if the sparrowfile did not come to say yes or no.
    """
    begin = time.monotonic()
    with (
        libvirt.connect() as connection,
        _clone(bed, connection, reporter=reporter) as lease,
        contextlib.nullcontext() if follow else reporter.step(f"run {job.title}") as step,
    ):
        note = step.note if step else reporter.note
        ended = _carry_out(bed, job, lease, connection, log=log, follow=follow, note=note)
    failure = ended.failure
    return Outcome(
        sparrowfile=job.title,
        exit=failure.status or 1 if failure else 0,
        cause=failure.cause if failure else "",
        seconds=round(time.monotonic() - begin, 1),
        clone=lease.name if bed.is_kept else None,
        output=ended.output[-_SHOWN_BYTES:],
    )


@contextlib.contextmanager
def _clone(bed: Bed, connection: libvirt.Connection, *, reporter: Reporter) -> Iterator[clones.Lease]:
    build = bed.source.build
    order = clones.Order(
        name=f"sparrowdo-{secrets.token_hex(4)}",
        source=bed.source,
        memory_mib=build.memory_mib,
        cpus=build.cpus,
        accelerator=bed.accelerator.kind_for(build.arch),
        key=bed.key,
    )
    lease, _ = clones.create(
        order,
        state=bed.state,
        connection=connection,
        reporter=reporter,
        is_full=False,
        boot_timeout_s=clones.BOOT_TIMEOUT_S * bed.accelerator.time_factor,
    )
    try:
        yield lease
    finally:
        if not bed.is_kept:
            clones.destroy(lease.name, state=bed.state, connection=connection)


def _carry_out(
    bed: Bed,
    job: Job,
    lease: clones.Lease,
    connection: libvirt.Connection,
    *,
    log: Path,
    follow: Callable[[], None] | None,
    note: Callable[[str], None],
) -> Ended:
    looked = [time.monotonic()]

    def watch() -> None:
        if follow is None:
            note("it runs")
        else:
            follow()
        if time.monotonic() - looked[0] >= _LOOK_S:
            looked[0] = time.monotonic()
            domain = connection.find(lease.domain_name)
            if domain is None or not domain.is_alive():
                raise ToolError(f"the clone went off while {job.title} ran", log=log)

    target = ssh.Target(port=lease.ssh_port, key=bed.key, user=bed.user)
    deadline = time.monotonic() + bed.timeout_s * bed.accelerator.time_factor
    ended = command.carry_out(job, target, retries=3, deadline=deadline, log=log, watch=watch, note=note, is_test=True)
    if follow is not None:
        follow()
    if ended.failure is not None and not ended.failure.is_result:
        raise command.error(job, ended, target, why=f"run {job.title} on a clone of {bed.source.build.stem}", log=None)
    return ended


class Follower:
    """Shows what is new in a log on standard output, without golden's own line in it."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._at = 0

    def __call__(self) -> None:
        if not self._log.exists():
            return
        with self._log.open("rb") as stream:
            stream.seek(self._at)
            new = stream.read()
        whole = new.rpartition(b"\n")[0] + b"\n" if b"\n" in new else b""
        self._at += len(whole)
        lines = [line for line in whole.splitlines(keepends=True) if not line.startswith(command.FIRST_WORDS)]
        sys.stdout.buffer.write(b"".join(lines).replace(b"\r\n", b"\n"))
        sys.stdout.buffer.flush()


# --- many at once


class _Stopped(Exception):
    """Others are to end, too."""


class _Silent(Reporter):
    """Says nothing, and ends its thread at its next word once all are to end."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__("quiet")
        self._stop = stop

    def _note(self, step: Any, text: str) -> None:
        if self._stop.is_set():
            raise _Stopped


def run_many(
    bed: Bed,
    wanted: Sequence[Job],
    logs: Sequence[Path],
    *,
    at_once: int,
    reporter: Reporter,
    show: Callable[[Outcome], None],
) -> tuple[list[Outcome], list[GoldenError]]:
    """Some sparrowfiles at a time; all come to their end, also after one that failed. An interrupt ends all of them.

    show: told of each as it ends. Returns how they ended, and golden's own errors, each in the order of `wanted`.
    """
    stop = threading.Event()
    found: dict[int, Outcome] = {}
    errors: dict[int, GoldenError] = {}
    pool = concurrent.futures.ThreadPoolExecutor(max_workers=at_once)
    try:
        with reporter.step(f"run {len(wanted)} sparrowfiles, {at_once} at once") as step:
            futures = {
                pool.submit(run_one, bed, job, log=log, reporter=_Silent(stop), follow=None): number
                for number, (job, log) in enumerate(zip(wanted, logs, strict=True))
            }
            for future in concurrent.futures.as_completed(futures):
                number = futures[future]
                try:
                    found[number] = future.result()
                    show(found[number])
                except GoldenError as error:
                    errors[number] = error
                    reporter.note(f"{wanted[number].title}: {error.what}")
                step.note(f"{len(found) + len(errors)} of {len(wanted)} have ended")
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
    return [found[number] for number in sorted(found)], [errors[number] for number in sorted(errors)]

"""One attempt at tests that share their machines: boot, run, judge, keep what is to be kept."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from builder.errors import GoldenError, HostError, ToolError
from builder.frozen import Frozen
from builder.harness import boot, disk_results, payload
from builder.harness.declaration import Test
from builder.harness.evidence import KINDS, Collector, Kind
from builder.harness.guest import Guest
from builder.harness.lab import Lab, Wanted
from builder.harness.outcome import Cause, Outcome
from builder.harness.schedule import Job
from builder.harness.watch import HARDENING, HICCUP, Lost, Watch, patterns
from builder.run import query
from builder.tools import libvirt, ssh


class Keep(Frozen):
    """What stays of an attempt that passed, and of one that failed."""

    on_pass: tuple[Kind, ...] = ("boot", "logs", "collect")
    on_fail: tuple[Kind, ...] = KINDS


def wanted(test: Test, image: str) -> dict[str, Wanted]:
    """The machines of a test on an image. A machine that names its own image keeps it."""
    return {
        name: Wanted(
            image=role.image or image,
            memory_mib=role.memory_mib,
            cpus=role.cpus,
            ports=role.ports,
            lan=test.lan,
            networks=role.networks,
            firmware=role.firmware,
            is_cold=test.cold,
            user_data=(test.folder / role.seed).read_text(encoding="utf-8") if role.seed else None,
        )
        for name, role in test.roles.items()
    }


class Attempts:
    """Carries out jobs. folder: of the run's results. note: told what happens, from any thread."""

    def __init__(
        self, lab: Lab, *, folder: Path, keep: Keep, stop: threading.Event, note: Callable[[str], None]
    ) -> None:
        self._lab = lab
        self._folder = folder
        self._keep = keep
        self._stop = stop
        self._note = note

    def __call__(self, job: Job) -> list[Outcome]:
        """One outcome per test of the job. Only what is a bug of golden's, or an interrupt, is raised."""
        self._note(f"{job.name}: begins")
        attempt = _Attempt(job, self._lab, folder=self._folder, stop=self._stop)
        outcomes = attempt.carry_out()
        kept = [self._after(it) for it in outcomes]
        for it in kept:
            said = "passed" if it.passed else f"failed: {it.why}"
            self._note(f"{it.test} on {it.image}{f', run {it.run}' if it.run > 1 else ''}: {said} ({it.seconds:.0f} s)")
        return kept

    def _after(self, outcome: Outcome) -> Outcome:
        place = outcome.kept
        if place is None:
            return outcome
        kinds = self._keep.on_pass if outcome.passed else self._keep.on_fail
        for kind in KINDS:
            inside = place / kind
            if inside.is_dir() and (kind not in kinds or not any(inside.iterdir())):
                shutil.rmtree(inside)
        if any(place.iterdir()):
            return outcome
        place.rmdir()
        return outcome.model_copy(update={"kept": None})


class _Attempt:
    def __init__(self, job: Job, lab: Lab, *, folder: Path, stop: threading.Event) -> None:
        self._job = job
        self._lab = lab
        self._stop = stop
        self._fatal = patterns({pattern for test in job.tests for pattern in test.fatal})
        self._collectors = {
            test.name: Collector(place_of(folder, job, test), test, state=lab.state) for test in job.tests
        }
        self._outcomes: list[Outcome] = []
        self._bundled: set[str] = set()
        self._boot_error: GoldenError | None = None
        self._boot_s: float | None = None

    def carry_out(self) -> list[Outcome]:
        begin = time.monotonic()
        first = self._job.tests[0]
        try:
            if first.results == "disk":
                for test in self._job.tests:
                    self._with_output_disk(test)
                return self._outcomes
            with (
                libvirt.connect() as connection,
                self._lab.running(
                    wanted(first, self._job.image),
                    boot_timeout_s=first.boot_s,
                    fatal=self._fatal,
                    is_stopped=self._stop.is_set,
                    on_start=lambda guests: self._started(guests, connection, self._collectors.values()),
                    on_failure=lambda guests, error: self._did_not_boot(guests, error, connection, begin),
                ) as guests,
            ):
                self._boot_s = time.monotonic() - begin
                self._on(guests, connection, begin)
        except GoldenError as error:
            if error is self._boot_error:
                return self._outcomes
            for collector in self._collectors.values():
                text = "\n".join([error.what, *(f"{label}: {text}" for label, text in error.rows())])
                (collector.place / "logs" / "golden.txt").write_text(f"{text}\n", encoding="utf-8")
            self._rest("host", _one_line(error), begin)
        return self._outcomes

    def _started(
        self, guests: Mapping[str, Guest], connection: libvirt.Connection, collectors: Iterable[Collector]
    ) -> None:
        """As soon as they are on. One that restarts, even while it boots, is of no use unless its tests say so."""
        if not any(test.may_reboot for test in self._job.tests):
            for guest in guests.values():
                domain = connection.find(f"golden-{guest.address.clone}")
                if domain is not None and not domain.is_off():
                    domain.end_on_reboot()
        for collector in collectors:
            collector.start(guests, connection)

    def _on(self, guests: dict[str, Guest], connection: libvirt.Connection, begin: float) -> None:
        """All tests of the job, one after the other, on machines that answer."""
        watch = Watch(guests, connection, fatal=self._fatal, stop=self._stop)
        for test in self._job.tests:
            failure = self._one(test, guests, watch)
            self._collectors[test.name].finish(guests, is_dead=failure is not None and failure[0] in _DEAD)
            self._add(test, failure, begin)
            begin = time.monotonic()
            if failure is not None and failure[0] in _DEAD:
                self._rest("gone", f"not run: the machine was lost in {test.name}", begin)
                break
        self._bundle(guests, connection)

    def _with_output_disk(self, test: Test) -> None:
        """A machine of its own, which switches itself off: tests of a suite cannot share it."""
        begin = time.monotonic()
        collector, role = self._collectors[test.name], test.main
        context = self._context(test, limit_s=test.boot_s + test.run_s)
        machines = {
            name: one.model_copy(update={"extra_disks": (disk_results.DISK_BYTES,), "is_cold": True})
            for name, one in wanted(test, self._job.image).items()
        }
        folders: list[Path] = []

        def before_start(folder: Path) -> None:
            folders.append(folder)
            accelerator = self._lab.accelerator
            is_kvm, factor = accelerator.kind == "kvm", accelerator.time_factor
            disk_results.prepare(folder, context, role=role, is_kvm=is_kvm, time_factor=factor)

        with (
            libvirt.connect() as connection,
            self._lab.running(
                machines,
                is_waited=False,
                is_stopped=self._stop.is_set,
                before_start=before_start,
                on_start=lambda guests: self._started(guests, connection, [collector]),
            ) as guests,
        ):
            failure: tuple[Cause, str] | None = None
            # Waiting for memory and for libguestfs does not count.
            context = self._context(test, limit_s=test.boot_s + test.run_s)
            try:
                self._wait_until_off(context, guests, connection)
                disk_results.collect(folders[0], context, role=role, install=collector.place / "install")
            except (Lost, payload.Failed) as failed:
                failure = failed.cause, failed.why
            collector.finish(guests, is_dead=True)
            self._add(test, failure, begin)
            self._bundle(guests, connection)

    def _wait_until_off(
        self, context: payload.Context, guests: Mapping[str, Guest], connection: libvirt.Connection
    ) -> None:
        for remaining in reversed(range(boot.TRIES)):
            try:
                disk_results.wait(context, Watch(guests, connection, fatal=self._fatal, stop=self._stop, may_end=True))
                return
            except Lost as lost:
                if HICCUP not in lost.why or not remaining:
                    raise
                for guest in guests.values():
                    boot.start_again(guest, connection)

    def _context(self, test: Test, *, limit_s: float) -> payload.Context:
        """limit_s: for all that it does, with KVM."""
        factor, place = self._lab.accelerator.time_factor, self._collectors[test.name].place
        return payload.Context(
            test=test,
            run=self._job.run,
            deadline=time.monotonic() + limit_s * factor,
            logs=place / "logs",
            collect=place / "collect",
            boot_limit_s=test.boot_s * factor,
        )

    def _one(self, test: Test, guests: dict[str, Guest], watch: Watch) -> tuple[Cause, str] | None:
        """None if it passed, else why not."""
        factor = self._lab.accelerator.time_factor
        context = self._context(test, limit_s=test.run_s)
        try:
            for guest in guests.values():
                query(ssh.command(guest.errands, "sh", "-c", HARDENING), why="prepare the guest", timeout_s=60 * factor)
            payload.carry_out(context, guests, watch)
            watch()
        except (Lost, payload.Failed) as failure:
            return failure.cause, failure.why
        except ToolError as error:
            # Most often a connection that broke, because its machine has.
            try:
                watch.look_closely(_LAST_WORDS_S)
            except Lost as lost:
                return lost.cause, lost.why
            return "test", _one_line(error)
        return None

    def _did_not_boot(
        self, guests: Mapping[str, Guest], error: GoldenError, connection: libvirt.Connection, begin: float
    ) -> None:
        self._boot_error = error
        cause: Cause = "stopped" if self._stop.is_set() else "host" if isinstance(error, HostError) else "boot"
        why = _one_line(error)
        if cause == "boot" and (restart := self._find_restart(guests, connection)) is not None:
            cause, why = restart.cause, restart.why
        for collector in self._collectors.values():
            collector.finish(guests, is_dead=True)
        self._rest(cause, why, begin)
        self._bundle(guests, connection)

    def _find_restart(self, guests: Mapping[str, Guest], connection: libvirt.Connection) -> Lost | None:
        """Of a machine that went off because its guest would have restarted."""
        try:
            Watch(guests, connection, fatal=self._fatal, stop=self._stop)()
        except Lost as lost:
            return lost if lost.cause == "restart" else None
        return None

    def _bundle(self, guests: Mapping[str, Guest], connection: libvirt.Connection) -> None:
        """Of each test that failed. The machines are switched off for their disks, so this comes last."""
        addresses = {name: guest.address for name, guest in guests.items()}
        mine = [it for it in self._outcomes if it.test not in self._bundled]
        failed = [it for it in mine if not it.passed and it.cause != "stopped"]
        self._bundled |= {it.test for it in mine}
        if any(it.cause not in (*_DEAD, "boot", "host", "results") for it in failed):
            # The plug is pulled in a moment, and the last half minute would be in the guest's memory alone.
            for guest in guests.values():
                guest.settle()
        for outcome in failed:
            self._collectors[outcome.test].look_at_screens(addresses, connection)
        for outcome in failed:
            collector = self._collectors[outcome.test]
            collector.take_disks(addresses, connection)
            collector.write_bundle(
                addresses, image=outcome.image, number=outcome.run, cause=outcome.cause, why=outcome.why
            )

    def _rest(self, cause: Cause, why: str, begin: float) -> None:
        """The same failure for all tests of which there is no outcome yet."""
        have = {it.test for it in self._outcomes}
        for test in self._job.tests:
            if test.name not in have:
                self._add(test, (cause, why), begin)

    def _add(self, test: Test, failure: tuple[Cause, str] | None, begin: float) -> None:
        self._outcomes.append(
            Outcome(
                test=test.name,
                image=self._job.image,
                run=self._job.run,
                passed=failure is None,
                cause=failure[0] if failure else None,
                why=failure[1] if failure else "",
                seconds=round(time.monotonic() - begin, 2),
                boot_s=None if self._boot_s is None else round(self._boot_s, 2),
                kept=self._collectors[test.name].place,
            )
        )


# What ends a machine, and with it the tests that were to come on it.
_DEAD: tuple[Cause, ...] = ("panic", "gone", "restart", "stopped")

_LAST_WORDS_S = 3.0


def place_of(folder: Path, job: Job, test: Test) -> Path:
    return folder / job.image.replace("@", "-") / test.name.replace("/", ".") / f"run-{job.run}"


def _one_line(error: GoldenError) -> str:
    details = dict(error.details)
    last = details.get("output", details.get("last seen", ""))
    return error.what + (f": {payload.last_line(last)}" if last.strip() else "")

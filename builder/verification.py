"""A build -> a verdict: a throw-away clone boots, is tested, and goes; what it leaves is logs and the verdict."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from builder import clones, preflight, run, verdicts, verify
from builder.errors import ToolError, VerifyError
from builder.locks import lock
from builder.model import Build, Project
from builder.packages import Change
from builder.preflight.kvm import Accelerator
from builder.progress import Reporter
from builder.promises import Promises, promises
from builder.store import Store
from builder.tools import junit, ssh
from builder.tools.console import GUEST_FATAL, Console
from builder.tools.libvirt import Connection, Domain
from builder.verdicts import Check, Verdict

_JOURNAL_TIMEOUT_S = 60
_MOST_CHANGES = 20

ANSWERS = "a clone boots and takes the project's key"


@dataclass(frozen=True)
class Bench:
    """What verifying needs of a project and of this machine."""

    project: Project
    store: Store
    connection: Connection
    accelerator: Accelerator
    reporter: Reporter

    def boot_limit_s(self, build: Build) -> float:
        """Seconds until a clone has to answer."""
        distribution = self.project.distributions.get(build.distribution)
        limit_s = distribution.limits.boot_s if distribution else clones.BOOT_TIMEOUT_S
        return limit_s * self.accelerator.time_factor


@dataclass(frozen=True)
class Guest:
    """A clone that is on. console: its log, which goes with it."""

    target: ssh.Target
    domain: Domain
    console: Console

    def is_alive(self) -> bool:
        self.console.poll()
        return self.console.fatal is None and self.domain.is_alive()

    def watch(self) -> None:
        """Raises ToolError once the guest is dead: its SSH connection would notice only after minutes."""
        if not self.is_alive():
            died = self.console.fatal.kind if self.console.fatal else "the machine went off"
            raise ToolError(f"the clone died: {died}", details=[("console", self.console.tail())])


def logs(store: Store, build: Build) -> Path:
    """Where verifying `build` leaves console, journal, tests and junit.xml."""
    return store.logs / build.stem / "verify"


def standing(project: Project, store: Store, build: Build) -> Verdict | None:
    """A verdict that still holds: on this very file, that it is good, and nothing else is promised by now."""
    verdict = verdicts.read(store, build)
    if verdict is None or not verdict.passed or verdict.promises != promises(project, build.image).digest():
        return None
    return verdict


def verify_build(bench: Bench, build: Build) -> Verdict:
    """Boot a clone of `build`, test it, write the verdict down, and return it, good or not.

    Raises ConfigError or HostError for what keeps it from being tested, VerifyError if the image file is damaged.
    """
    asked = promises(bench.project, build.image)
    verify.check(bench.project, asked)
    begin = time.monotonic()
    with lock(bench.store.root / "verified" / f".{build.image}.lock", what=f"the verification of '{build.image}'"):
        work = logs(bench.store, build)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        checks, boot_s = _tested(bench, build, asked, work=work)
        kind = bench.accelerator.kind_for(build.arch)
        last = verdicts.last_good(bench.store, build)
        checks += verify.budgets(asked, build, boot_s=boot_s, accelerator=kind, last_good=last)
        junit.write(work / "junit.xml", {build.image: checks})
        verdict = Verdict(
            image=build.image,
            version=build.version,
            sha256=build.id.sha256,
            passed=all(check.result != "failed" for check in checks),
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - begin, 1),
            boot_s=boot_s,
            accelerator=kind,
            promises=asked.digest(),
            tests=tuple(checks),
        )
        verdicts.write(bench.store, verdict, build)
    return verdict


def failure(store: Store, build: Build, verdict: Verdict) -> VerifyError:
    """The error for a verdict that is not good: what broke, how the packages differ from the last good build's."""
    details = [("failed", f"{check.name}\n{check.message}".strip()) for check in verdict.failed]
    details.append(("kept", f"{logs(store, build)}: console, journal, tests, junit.xml"))
    last = verdicts.last_good(store, build)
    changes = verdicts.package_changes(store, last[0], build) if last else []
    if last:
        details.append(("packages", f"against {last[0].version}, which was good:\n{_listed(changes)}"))
    return VerifyError(
        f"'{build.stem}' is not what it promises: {_count(verdict.failed)} failed",
        details=details,
        try_next=f"golden bisect {build.image}" if changes else f"golden clone create NAME --image {build.image}",
    )


def _count(checks: Sequence[Check]) -> str:
    return "a test" if len(checks) == 1 else f"{len(checks)} tests"


def _listed(changes: Sequence[Change]) -> str:
    lines = [f"{it.name} {it.before or 'new'} -> {it.after or 'gone'}" for it in changes[:_MOST_CHANGES]]
    more = len(changes) - _MOST_CHANGES
    return "\n".join(
        [*lines, *([f"and {more} more: golden show, golden diff"] if more > 0 else [])] or ["no difference"]
    )


def _tested(bench: Bench, build: Build, asked: Promises, *, work: Path) -> tuple[list[Check], float | None]:
    limit_s = bench.boot_limit_s(build)
    with clone(bench, build, kept=work) as guest:
        with bench.reporter.step(f"{build.image}: boot a clone") as step:
            answer = answered(guest, limit_s=limit_s, note=step.note)
        if answer.result == "failed":
            return [answer], None
        with bench.reporter.step(f"{build.image}: test the clone"):
            checks, boot_s = inspected(bench, guest, build, asked, work=work)
        if any(check.result == "failed" for check in checks):
            _keep_journal(guest, work / "journal.log")
    return [answer, *checks], boot_s


def answered(guest: Guest, *, limit_s: float, note: Callable[[str], None], but_not_boot: str | None = None) -> Check:
    """Wait until the guest answers. That it does not is a finding, not an error. but_not_boot: as in ssh."""
    begin = time.monotonic()
    try:
        ssh.wait_until_answers(
            guest.target, timeout_s=limit_s, is_alive=guest.is_alive, note=note, but_not_boot=but_not_boot
        )
    except ToolError as error:
        guest.console.poll()
        said = guest.console.tail() or "(the console said nothing)"
        return Check(name=ANSWERS, result="failed", seconds=_since(begin), message=f"{error.what}\n{said}")
    return Check(name=ANSWERS, result="passed", seconds=_since(begin))


def inspected(
    bench: Bench, guest: Guest, build: Build, asked: Promises, *, work: Path
) -> tuple[list[Check], float | None]:
    """All tests against a guest that answers. That it dies under them is a finding, not an error."""
    try:
        return verify.inspect(
            guest.target,
            asked,
            build,
            project=bench.project.folder,
            work=work,
            boot_limit_s=bench.boot_limit_s(build),
            time_factor=bench.accelerator.time_factor,
            watch=guest.watch,
        )
    except ToolError as error:
        if guest.is_alive():
            raise
        return [Check(name="the clone lives", result="failed", message=f"{error.what}\n{guest.console.tail()}")], None


def _since(begin: float) -> float:
    return round(time.monotonic() - begin, 2)


@contextlib.contextmanager
def clone(bench: Bench, build: Build, *, kept: Path) -> Iterator[Guest]:
    """A clone of `build` that has just been started; gone afterwards, its console kept in `kept`.

    The caller holds a lock by which no two are made for one image at once: what is there by its name was left over.
    """
    state = bench.store.state
    name = f"verify-{hashlib.sha256(f'{bench.store.id} {build.image}'.encode()).hexdigest()[:10]}"
    preflight.need_reach(state, bench.connection)
    if name in clones.names(state):
        clones.destroy(name, state=state, connection=bench.connection)
    order = clones.Order(
        name=name,
        source=clones.Source(build=build, file=bench.store.qcow2(build).resolve(), origin="built"),
        memory_mib=build.memory_mib,
        cpus=build.cpus,
        accelerator=bench.accelerator.kind_for(build.arch),
        key=bench.project.ssh_key,
        owner=clones.this_process(),
    )
    # Booting is what is verified: no memory will do.
    lease, _ = clones.create(
        order,
        state=state,
        connection=bench.connection,
        reporter=bench.reporter,
        is_full=False,
        boot_timeout_s=None,
        is_cold=True,
    )
    log = clones.console_log(state, name)
    try:
        domain = bench.connection.find(lease.domain_name)
        if domain is None:
            raise ToolError(f"the clone of {build.stem} went away")
        target = ssh.Target(port=lease.ssh_port, key=bench.project.ssh_key)
        yield Guest(target=target, domain=domain, console=Console(log, GUEST_FATAL))
    finally:
        if log.exists():
            shutil.copyfile(log, kept / "console.log")
        clones.destroy(name, state=state, connection=bench.connection)


def _keep_journal(guest: Guest, log: Path) -> None:
    with contextlib.suppress(ToolError):  # what broke may be what would have answered
        run.run(
            ssh.command(guest.target, "journalctl", "--boot", "--no-pager", "--output=short-monotonic"),
            why="read the clone's journal",
            timeout_s=_JOURNAL_TIMEOUT_S,
            log=log,
            watch=guest.watch,
        )

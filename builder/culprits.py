"""Which package broke an image: the last good build, with parts of the new one's packages, tested until it is known."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder import customize, mirrors, promises, provision, run, seal, verdicts, verification
from builder.bisection import Attempt, find_guilty
from builder.errors import ConfigError, ToolError, VerifyError
from builder.locks import lock
from builder.media import Repository
from builder.model import Build, Frozen
from builder.packages import Change, compare
from builder.store import Store
from builder.tools import proxies, ssh
from builder.verification import Bench, Guest

_DNF_TIMEOUT_S = 1800
_QUERY_TIMEOUT_S = 60

# What a package can be guilty of on a clone: not of the size of the image file.
_UNTRIABLE = re.compile(r"budget: ")


class Culprits(Frozen):
    """guilty: the smallest set found that breaks it. along: what these required and so could not be left out.

    tests: that fail with them and pass without. trials: how many clones it took.
    """

    image: str
    good: str
    bad: str
    guilty: tuple[Change, ...]
    along: tuple[Change, ...]
    tests: tuple[str, ...]
    trials: int


@dataclass(frozen=True)
class Question:
    """What is asked: which of `changes` makes `tests` fail, which the good build passes."""

    good: Build
    bad: Build
    changes: tuple[Change, ...]
    tests: frozenset[str]


def ask(store: Store, bad: Build) -> Question:
    """Raises ConfigError if there is nothing to find out about `bad`."""
    verdict = verdicts.read(store, bad)
    if verdict is None or verdict.passed:
        known = "is what it promises" if verdict else "was not verified yet"
        raise ConfigError(f"'{bad.stem}' {known}; there is nothing to look for", try_next=f"golden verify {bad.image}")
    last = verdicts.last_good(store, bad)
    if last is None:
        raise ConfigError(
            f"there is no older build of '{bad.image}' that is good; nothing to compare '{bad.stem}' with"
        )
    tests = frozenset(check.name for check in verdict.failed if not _UNTRIABLE.match(check.name))
    if not tests:
        raise ConfigError(
            f"'{bad.stem}' is over its budget, which no clone can show",
            try_next=f"golden diff {last[0].image}@{last[0].version} {bad.image}@{bad.version}",
        )
    changes = verdicts.package_changes(store, last[0], bad)
    if not changes:
        raise ConfigError(f"'{bad.stem}' has the same packages as '{last[0].stem}', which is good: it is not a package")
    return Question(good=last[0], bad=bad, changes=tuple(changes), tests=tests)


def find(bench: Bench, question: Question, *, repositories: Sequence[Repository], reboots: bool) -> Culprits:
    """Try parts of the difference on clones of the good build until the guilty ones are known.

    repositories: of the image. reboots: boot again between dnf and the tests, as the kernel and most services need.
    Raises VerifyError if the packages are not what broke it.
    """
    image = question.bad.image
    with (
        lock(bench.store.root / "verified" / f".{image}.lock", what=f"the verification of '{image}'"),
        mirrors.served(repositories, host=provision.HOST, state=bench.store.state) as served,
    ):
        trials = _Trials(bench, question, repositories=served, reboots=reboots)
        judged = trials.judged_by()
        found = find_guilty(question.changes, trials.attempt)
    if found is None:
        raise VerifyError(
            f"the packages are not what broke '{image}': {question.good.stem} with all of them passes",
            details=[("kept", str(trials.logs))],
            try_next=f"golden show {question.bad.image}@{question.bad.version}, for what else is new",
        )
    return Culprits(
        image=image,
        good=question.good.version,
        bad=question.bad.version,
        guilty=found.asked,
        along=tuple(change for change in found.applied if change not in found.asked),
        tests=tuple(sorted(judged)),
        trials=trials.count,
    )


def script(changes: Sequence[Change], repositories: Sequence[Repository]) -> str:
    """What brings a guest from `before` to `after` for these packages, and for those that they require."""
    dnf = customize.dnf_command(repositories)
    wanted = [nevra for change in changes for nevra in nevras(change.name, change.after)]
    unwanted = [change.name for change in changes if change.after is None]
    lines = [f"{dnf} install --allowerasing {shlex.join(wanted)}"] if wanted else []
    lines += [f"dnf -y remove {shlex.join(unwanted)}"] if unwanted else []
    return "".join(f"{line}\n" for line in lines) or ":\n"


def nevras(name: str, evrs: str | None) -> list[str]:
    """`bash.x86_64`, "5.2-1" -> `bash-5.2-1.x86_64`; one for each EVR."""
    name, _, arch = name.rpartition(".")
    return [f"{name}-{evr}.{arch}" for evr in (evrs or "").split()]


def applied(changes: Sequence[Change], before: Sequence[str], now: Sequence[str]) -> frozenset[Change]:
    """Which of `changes` a guest has seen. before, now: its package lists."""
    seen = {change.name: change.after for change in compare(before, now)}
    return frozenset(change for change in changes if change.name in seen and seen[change.name] == change.after)


class _Trials:
    """Clones of the good build, one after the other. logs: a folder for each."""

    def __init__(self, bench: Bench, question: Question, *, repositories: Sequence[Repository], reboots: bool) -> None:
        self._bench = bench
        self._question = question
        self._repositories = repositories
        self._reboots = reboots
        self._promises = promises.promises(bench.project, question.bad.image)
        self._tests = question.tests
        self.logs = bench.store.logs / question.bad.stem / "bisect"
        self.count = 0
        shutil.rmtree(self.logs, ignore_errors=True)

    def judged_by(self) -> frozenset[str]:
        """The tests that count from now on: those that the good build passes today, under the same promises.

        Raises VerifyError if there are none.
        """
        broken = self._tests & (self._failing(frozenset())[1] or frozenset())
        if broken == self._tests:
            raise VerifyError(
                f"the packages are not what broke '{self._question.bad.image}': {self._question.good.stem}, "
                "which was good, fails the same tests today",
                details=[("failed", name) for name in sorted(broken)] + [("kept", str(self.logs))],
                try_next="look at what is promised in golden.toml, and at what the tests need besides the image",
            )
        self._tests -= broken
        return self._tests

    def attempt(self, changes: frozenset[Change]) -> Attempt[Change]:
        """Unresolved if dnf could not do it: packages that do not go with each other, or are not offered any more."""
        seen, failing = self._failing(changes)
        return Attempt(applied=seen | changes, is_bad=None if failing is None else bool(failing & self._tests))

    def _failing(self, changes: frozenset[Change]) -> tuple[frozenset[Change], frozenset[str] | None]:
        """What a clone has seen of the changes once these are made, and the tests that fail then; None: not made."""
        self.count += 1
        work = self.logs / str(self.count)
        work.mkdir(parents=True)
        ordered = [change for change in self._question.changes if change in changes]
        what = ", ".join(change.name for change in ordered[:3]) + (" …" if len(ordered) > 3 else "")
        with (
            self._bench.reporter.step(f"trial {self.count}: {what or 'the good build as it is'}") as step,
            verification.clone(self._bench, self._question.good, kept=work) as guest,
        ):
            limit_s = self._bench.boot_limit_s(self._question.good)
            answer = verification.answered(guest, limit_s=limit_s, note=step.note)
            if answer.result == "failed":
                return frozenset(), frozenset({answer.name})
            step.note(f"dnf: {what}")
            try:
                now = self._changed(guest, ordered, work=work) if ordered else None
            except ToolError:
                guest.watch()
                return changes, None
            before = self._bench.store.package_list(self._question.good).read_text(encoding="utf-8").split()
            seen = applied(self._question.changes, before, now) if now else frozenset()
            if ordered and self._reboots and not self._rebooted(guest, work, limit_s=limit_s):
                return seen, frozenset({verification.ANSWERS})
            step.note("test")
            checks, _ = verification.inspected(
                self._bench, guest, self._question.good, self._promises, work=work / "tests"
            )
            return seen, frozenset(check.name for check in checks if check.result == "failed")

    def _changed(self, guest: Guest, changes: Sequence[Change], *, work: Path) -> list[str]:
        """The package list after dnf. Raises ToolError."""
        ssh.run_script(
            guest.target,
            proxies.exports(provision.HOST) + script(changes, self._repositories),
            why="change the packages of the clone",
            timeout_s=_DNF_TIMEOUT_S * self._bench.accelerator.time_factor,
            log=work / "dnf.log",
            watch=guest.watch,
        )
        query = ssh.command(guest.target, "rpm", "-qa", "--qf", f"{seal.NEVRA}\\n")
        listed = run.query(query, why="list the clone's packages", timeout_s=_QUERY_TIMEOUT_S * 5).split()
        return [nevra for nevra in listed if not nevra.startswith("gpg-pubkey-")]

    def _rebooted(self, guest: Guest, work: Path, *, limit_s: float) -> bool:
        """Whether it came back."""
        boot = ssh.boot_id(guest.target)
        run.run(
            ssh.command(guest.target, *provision.REBOOT),
            why="reboot the clone",
            timeout_s=limit_s,
            log=work / "reboot.log",
            ok=(0, 255),
        )
        found = verification.answered(guest, limit_s=limit_s, note=lambda _: None, but_not_boot=boot)
        return found.result == "passed"

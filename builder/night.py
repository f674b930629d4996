"""A night: every image at its turn, what is good published, and a record of it all.

Each step is a golden command in a process of its own, with a log: one that fails, hangs or dies takes nothing with it.
This process only decides whose turn it is.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from builder import locks, nights, preflight, verdicts, verification
from builder.admission import admits, job_mib
from builder.channels.promotion import read_withdrawn
from builder.decision import Decision
from builder.errors import GoldenError, HostError
from builder.model import Build, Project
from builder.night_publication import publish
from builder.night_steps import Retries, Steps
from builder.nights import Attempt, Night, Outcome, Publication, Turn
from builder.pipeline import clear
from builder.plan import Planned, order
from builder.progress import Reporter
from builder.store import Store
from builder.tools import libvirt

# The exit codes of a step that say something about the image; the worst of a night's is the night's own.
_WORST_LAST = (0, 2, 3, 4, 1, 5)


@dataclass(frozen=True)
class Settings:
    """How a night goes. images: none for all. jobs: images at work at once, None for what fits.

    retries: how often a step is tried again whose cause may pass, each after pause_s seconds. keep: nights' records.
    channel: where it publishes, None for nowhere.
    """

    images: tuple[str, ...] = ()
    jobs: int | None = None
    retries: int = 2
    pause_s: float = 60
    channel: str | None = "nightly"
    keep: int = 30


@dataclass
class _Branch:
    """An image's turn as it goes. wanted: what is planned; attempts: what failed on the way."""

    image: str
    parent: str | None
    planned: Planned | None = None
    outcome: Outcome | None = None
    reason: str = ""
    exit_code: int = 0
    before: Build | None = None
    build_s: float | None = None
    verify_s: float | None = None
    attempts: list[Attempt] = field(default_factory=list)
    log: str | None = None


def worst(exit_codes: Sequence[int]) -> int:
    """The night's exit code: an image that is not what it promises outweighs a command that failed, and so on down."""
    return max(exit_codes, key=lambda code: _WORST_LAST.index(code if code in _WORST_LAST else 1), default=0)


def _lock(store_: Store) -> contextlib.AbstractContextManager[None]:
    return locks.lock(store_.root / "nightly.lock", what=f"the night of {store_.root}")


def hold(project: Project, store_: Store, settings: Settings, *, reporter: Reporter) -> Night:
    """Hold a night, and write its record down; what failed is in it. Raises HostError if one is under way already."""
    with _lock(store_):
        version, folder = nights.begin(store_)
        return _Night(project, store_, settings, reporter=reporter, version=version, folder=folder).hold()


def due(project: Project, store_: Store, settings: Settings) -> list[tuple[str, str, str]]:
    """Image, what would be done, and why. Nothing is started; what comes of a build decides about those above it."""
    found = []
    for planned in Decision(project, store_, settings.images or list(project.images)).plan():
        is_verified = planned.build and verification.standing(project, store_, planned.build)
        action = "build, verify" if planned.build is None else "nothing" if is_verified else "verify"
        found.append((planned.image, action, planned.reason))
    return found


class _Night:
    def __init__(
        self,
        project: Project,
        store_: Store,
        settings: Settings,
        *,
        reporter: Reporter,
        version: str,
        folder: Path,
    ) -> None:
        self._project = project
        self._store = store_
        self._settings = settings
        self._reporter = reporter
        self._version = version
        self._folder = folder
        self._steps = Steps(
            project,
            store_,
            folder=folder,
            retries=Retries(settings.retries, settings.pause_s),
            reporter=reporter,
        )
        self._started = datetime.now(UTC)
        self._begin = time.monotonic()
        names = order(project, settings.images or list(project.images))
        self._branches = {name: _Branch(name, project.images[name].source) for name in names}
        self._previous = nights.history(store_, most=1)

    def hold(self) -> Night:
        self._plan()
        for branch in self._branches.values():
            self._settle(branch)
        if any(branch.outcome is None for branch in self._branches.values()):
            with self._beside_others():
                self._work()
        publication = self._publish()
        codes = [branch.exit_code for branch in self._branches.values()]
        codes += [publication.exit_code] if publication is not None else []
        turns = tuple(self._turn(branch) for branch in self._branches.values())
        started_any = any(turn.build_s or turn.verify_s for turn in turns)
        kinds = [found.accelerator for turn in turns if (found := self._newest_verdict(turn.image))]
        night = Night(
            project=self._project.name,
            version=self._version,
            started=self._started.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - self._begin, 1),
            accelerator=kinds[0] if started_any and kinds else None,
            exit_code=worst(codes),
            turns=turns,
            publication=publication,
        )
        nights.write(self._store, night)
        nights.forget(self._store, keep=self._settings.keep)
        return night

    # --- what is to be done

    def _plan(self) -> None:
        """All at once; if that cannot be planned, each image by itself, so that one branch does not stop another."""
        names = list(self._branches)
        try:
            for planned in Decision(self._project, self._store, names).plan():
                self._branches[planned.image].planned = planned
        except GoldenError:
            for branch in self._branches.values():
                self._settle(branch)
                if branch.outcome is None:
                    self._plan_again(branch)

    def _plan_again(self, branch: _Branch) -> None:
        def step(_log: Path) -> None:
            branch.planned = Decision(self._project, self._store, [branch.image]).plan()[-1]

        self._tried(branch, "plan", step)

    def _settle(self, branch: _Branch) -> None:
        """Whatever can be said of an image without starting anything."""
        parent = self._branches.get(branch.parent or "")
        if branch.outcome is not None:
            return
        if parent is not None and parent.outcome in ("failed", "held back"):
            branch.outcome, branch.reason = "held back", f"{parent.image} is not good"
        elif parent is not None and parent.outcome is None:
            return
        elif branch.planned is not None and self._is_verified(branch.planned.build):
            branch.outcome, branch.reason = "stands", branch.planned.reason

    def _is_verified(self, build: Build | None) -> bool:
        return build is not None and verification.standing(self._project, self._store, build) is not None

    def _ready(self) -> list[_Branch]:
        """Whose turn it could be: what they stand on is good, and nothing has been said of them yet."""
        found = []
        for branch in self._branches.values():
            parent = self._branches.get(branch.parent or "")
            if branch.outcome is None and (parent is None or parent.outcome in ("stands", "built", "verified")):
                found.append(branch)
        return found

    # --- doing it

    @contextlib.contextmanager
    def _beside_others(self) -> Iterator[None]:
        """The store is this night's: its steps share it, nobody else builds meanwhile, and leftovers are gone."""
        with contextlib.ExitStack() as stack:
            for left in reversed(range(self._settings.retries + 1)):
                try:
                    share = stack.enter_context(self._store.lock_to_share())
                    break
                except HostError as error:
                    if not left:
                        raise
                    self._reporter.note(f"{error.what}; again in {self._settings.pause_s:.0f} s")
                    time.sleep(self._settings.pause_s)
            with libvirt.connect() as connection:
                clear(self._store, connection, reporter=self._reporter)
            share()
            yield

    def _work(self) -> None:
        total_mib = preflight.available_bytes() // 1024**2
        jobs = self._settings.jobs or max(1, preflight.processors() // 2)
        at_work: dict[Future[None], _Branch] = {}
        with ThreadPoolExecutor(max_workers=max(jobs, 1)) as pool:
            try:
                while True:
                    for branch in self._ready():
                        needs = [self._memory_mib(other) for other in at_work.values()]
                        if branch not in at_work.values() and admits(
                            needs,
                            self._memory_mib(branch),
                            total_mib=total_mib,
                            jobs=jobs,
                            room_bytes=preflight.free_bytes(self._store.root),
                        ):
                            at_work[pool.submit(self._take_turn, branch)] = branch
                    if not at_work:
                        return
                    done, _ = wait(at_work, return_when=FIRST_COMPLETED)
                    for future in done:
                        branch = at_work.pop(future)
                        future.result()
                        branch.outcome = branch.outcome or "failed"
                    for branch in self._branches.values():
                        if branch not in at_work.values():
                            self._settle(branch)
            except BaseException:
                self._steps.cancel()
                raise

    def _memory_mib(self, branch: _Branch) -> int:
        return job_mib(self._project.distribution_of(branch.image).memory_mib)

    def _take_turn(self, branch: _Branch) -> None:
        """Build if it is planned, verify if there is no verdict that stands."""
        parent = self._branches.get(branch.parent or "")
        if parent is not None and parent.outcome in ("built", "failed"):
            # What it stands on was built, and it may turn out that nothing came of that.
            self._plan_again(branch)
        if branch.outcome is not None or branch.planned is None:
            return
        before = self._store.newest(branch.image)
        last_good = self._last_good(branch.image)
        branch.before, branch.reason = last_good, branch.planned.reason
        if branch.planned.build is None:
            branch.build_s = self._command(
                branch,
                "build",
                ["build", "--beside-others", branch.image],
                again=["resume", "--beside-others", branch.image],
            )
            if branch.outcome is not None:
                return
        build = self._store.newest(branch.image)
        if build is None:
            return
        is_new = before is None or build.id != before.id
        if not self._is_verified(build):
            branch.verify_s = self._command(branch, "verify", ["verify", branch.image])
            if branch.outcome is not None:
                return
        branch.outcome = "built" if is_new else "verified" if branch.verify_s is not None else "stands"
        self._reporter.note(f"{branch.image}: {build.version} {branch.outcome}")

    def _last_good(self, image: str) -> Build | None:
        for build in reversed(self._store.builds(image)):
            verdict = verdicts.read(self._store, build)
            if verdict is not None and verdict.passed:
                return build
        return None

    def _command(self, branch: _Branch, step: str, words: Sequence[str], *, again: Sequence[str] = ()) -> float:
        """Run one golden command for an image; the seconds that it took, with all that it was tried.

        again: what to run after the first time, if that is another command.
        """
        before = len(branch.attempts)

        def do(log: Path) -> None:
            tried = again if again and len(branch.attempts) > before else words
            self._steps.golden(tried, why=f"{step} {branch.image}", log=log)

        begin = time.monotonic()
        self._reporter.note(f"{branch.image}: {step} …")
        self._tried(branch, step, do)
        return round(time.monotonic() - begin, 1)

    def _tried(self, branch: _Branch, step: str, do: Callable[[Path], None]) -> None:
        """Do it, and again if why it failed may pass; if it fails in the end, that is the branch's outcome."""
        code = self._steps.repeatedly(step, f"{branch.image}-{step}", do, branch.attempts)
        if code:
            branch.outcome, branch.exit_code = "failed", code
            branch.log = branch.attempts[-1].log
            self._reporter.note(f"{branch.image}: {step} failed: {branch.attempts[-1].error.splitlines()[0]}")

    # --- what comes of it

    def _publish(self) -> Publication | None:
        if self._settings.channel is None:
            return None
        return publish(
            self._publishable(),
            channel=self._settings.channel,
            done=self._previous[-1].publication if self._previous else None,
            steps=self._steps,
            note=self._reporter.note,
        )

    def _publishable(self) -> dict[str, str]:
        """Image -> version: good tonight, and so is all that it stands on. What was rolled back stays so."""
        found: dict[str, str] = {}
        withdrawn = read_withdrawn(self._store.channels / (self._settings.channel or ""))
        for branch in self._branches.values():
            build = self._store.newest(branch.image)
            is_good = branch.outcome in ("stands", "built", "verified")
            if not is_good or build is None or build.private or build.stem in withdrawn:
                continue
            if branch.parent in (None, *found):
                found[branch.image] = build.version
        return found

    def _turn(self, branch: _Branch) -> Turn:
        build = self._store.newest(branch.image)
        verdict = self._newest_verdict(branch.image)
        is_new = build is not None and branch.before is not None and build.id != branch.before.id
        is_unverified = bool(branch.attempts) and branch.attempts[-1].step == "verify"
        changes = (
            verdicts.package_changes(self._store, branch.before, build) if is_new and build and branch.before else []
        )
        return Turn(
            image=branch.image,
            parent=branch.parent,
            outcome=branch.outcome or "held back",
            reason=branch.reason or (branch.planned.reason if branch.planned else ""),
            version=build.version if build else None,
            before=branch.before.version if is_new and branch.before else None,
            size_bytes=build.size_bytes if build else None,
            changes=tuple(changes),
            build_s=branch.build_s,
            verify_s=branch.verify_s,
            boot_s=verdict.boot_s if verdict else None,
            checks=len(verdict.tests) if verdict else 0,
            failed=tuple(check.name for check in verdict.failed) if verdict and is_unverified else (),
            attempts=tuple(branch.attempts),
            log=branch.log,
        )

    def _newest_verdict(self, image: str) -> verdicts.Verdict | None:
        build = self._store.newest(image)
        return verdicts.read(self._store, build) if build else None

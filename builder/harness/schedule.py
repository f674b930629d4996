"""Which attempt runs when: as many at once as are allowed and as memory holds, those that failed once more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from builder.errors import HostError
from builder.frozen import Frozen
from builder.harness.declaration import Test
from builder.harness.outcome import Outcome


class Job(Frozen):
    """Tests that share their machines, on one image. memory_mib: what all of the machines declare."""

    tests: tuple[Test, ...]
    image: str
    memory_mib: int
    run: int = 1

    @property
    def name(self) -> str:
        names = " + ".join(test.name for test in self.tests)
        return f"{names} on {self.image}{f', run {self.run}' if self.run > 1 else ''}"


Execute = Callable[[Job], list[Outcome]]


def run_all(
    jobs: Sequence[Job], execute: Execute, *, most: int, memory_mib: int, stop: threading.Event
) -> list[Outcome]:
    """The outcomes of all jobs, in their order. At most `most` run at once, and with at most `memory_mib` together.

    stop: set when the caller is interrupted; jobs under way then hear of it through it, and no other begins.
    Raises HostError for a job that has no room even alone, before anything runs; what `execute` raises goes up.
    """
    for job in jobs:
        if job.memory_mib > memory_mib:
            raise HostError(
                f"there is no memory for {job.name}: {job.memory_mib} MiB are needed, {memory_mib} MiB are there",
                try_next="memory in its declaration, or a bigger host",
            )
    waiting = list(jobs)
    running: dict[Future[list[Outcome]], Job] = {}
    done: dict[int, list[Outcome]] = {}
    with ThreadPoolExecutor(max_workers=most) as pool:
        try:
            while waiting or running:
                while (chosen := _next(waiting, list(running.values()), most=most, memory_mib=memory_mib)) is not None:
                    waiting.remove(chosen)
                    running[pool.submit(execute, chosen)] = chosen
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    done[id(running.pop(future))] = future.result()
        except BaseException:
            stop.set()
            raise
    return [outcome for job in jobs for outcome in done[id(job)]]


def _next(waiting: Sequence[Job], running: Sequence[Job], *, most: int, memory_mib: int) -> Job | None:
    """The first that fits. One that does not is passed by only until the others have gone: it is first then."""
    free = memory_mib - sum(job.memory_mib for job in running)
    return next((job for job in waiting if len(running) < most and job.memory_mib <= free), None)


def again(jobs: Sequence[Job], outcomes: Sequence[Outcome], *, is_known: Callable[[Test], bool]) -> list[Job]:
    """The jobs of the next run: of each, the tests that failed and of which nobody knows that they do.

    What the host could not run did neither.
    """
    failed = {(it.test, it.image): it.cause for it in outcomes if not it.passed}
    found = []
    for job in jobs:
        causes = {test.name: failed.get((test.name, job.image)) for test in job.tests}
        tests = tuple(
            test
            for test in job.tests
            if causes[test.name] is not None and (causes[test.name] == "host" or not is_known(test))
        )
        if tests:
            found.append(job.model_copy(update={"tests": tests, "run": job.run + 1}))
    return found

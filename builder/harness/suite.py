"""A project's tests, all of it: which run on what, run after run, and the reports.

STATE/tests/PROJECT/20261121-103000/    run-1.tap, run-1.xml, … merged.tap, merged.xml, results.json, which comes last
    run.json                            whose it is, and for how long it is kept
    IMAGE/TEST/run-1/                   what is kept of an attempt: builder/harness/evidence.py
"""

from __future__ import annotations

import contextlib
import re
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from builder.clones import Owner, this_process
from builder.errors import ConfigError
from builder.frozen import Frozen
from builder.harness import reports
from builder.harness.attempt import wanted
from builder.harness.declaration import Test
from builder.harness.lab import Lab
from builder.harness.outcome import Outcome, Result, judge
from builder.harness.schedule import Execute, Job, again, run_all
from builder.store import write_atomically

_NAME = re.compile(r"\d{8}-\d{6}(-\d+)?")
_RUN_FILE = "run.json"

# Results are kept so long, in seconds, unless told.
KEEP_S = 14 * 24 * 3600.0


class Summary(Frozen):
    """`results.json`. is_green: every test passed at least once, or is known to fail. seconds: of wall clock."""

    format: int = 1
    is_green: bool
    seconds: float
    runs: int
    results: tuple[Result, ...]

    def of(self, verdict: str) -> list[Result]:
        return [it for it in self.results if it.verdict == verdict]


def jobs(tests: Sequence[Test], *, images: Sequence[str], lab: Lab) -> list[Job]:
    """Each test on each image; tests of one suite, with the same machines, stand together.

    images: go before those of the declarations. Raises ConfigError for a test without an image, or one that is
    neither installed nor built.
    """
    without = [test.name for test in tests if not images and not test.images]
    if without:
        raise ConfigError(
            f"no image is named for {', '.join(without)}",
            try_next="golden test --image IMAGE, or image in the declaration",
        )
    groups: dict[tuple[str, object], list[Test]] = {}
    for test in tests:
        for image in images or test.images:
            alike = (test.suite or ("", test.name), tuple(test.roles.items()), test.results, test.lan, test.cold)
            groups.setdefault((image, alike), []).append(test)
    found = []
    for (image, _), together in groups.items():
        machines = wanted(together[0], image)
        memory = sum(lab.memory_mib(one) for one in machines.values())
        found.append(Job(tests=tuple(together), image=image, memory_mib=memory))
    return found


def carry_out(
    first: Sequence[Job],
    execute: Execute,
    *,
    folder: Path,
    retries: int,
    most: int,
    memory_mib: int,
    stop: threading.Event,
    note: Callable[[str], None],
) -> Summary:
    """All runs: the first of everything, the next of what failed. folder: for the reports. Raises HostError."""
    begin, today = time.monotonic(), datetime.now(UTC).date()
    tests = {test.name: test for job in first for test in job.tests}
    outcomes: dict[tuple[str, str], list[Outcome]] = {}
    pending, runs = list(first), 0

    def is_known(test: Test) -> bool:
        return test.is_known_to_fail(today)

    while pending and runs <= retries:
        runs += 1
        if runs > 1:
            note(f"run {runs}: {', '.join(test.name for job in pending for test in job.tests)} once more")
        found = run_all(pending, execute, most=most, memory_mib=memory_mib, stop=stop)
        for it in found:
            outcomes.setdefault((it.image, it.test), []).append(it)
        known = [(it.test, it.image) for it in found if is_known(tests[it.test])]
        reports.write_run(found, folder, known=known)
        pending = again(pending, found, is_known=is_known)
    results = tuple(
        judge(found, bug=tests[test].bug, until=tests[test].until, today=today)
        for (_, test), found in sorted(outcomes.items())
    )
    reports.write_merged(results, folder)
    summary = Summary(
        is_green=all(it.is_good for it in results),
        seconds=round(time.monotonic() - begin, 2),
        runs=runs,
        results=results,
    )
    write_atomically(folder / "results.json", summary.model_dump_json(indent=2) + "\n")
    return summary


class Run(Frozen):
    """`run.json`. owner: the process that runs the tests. keep_s: how long its results are kept, in seconds."""

    format: Literal[1] = 1
    owner: Owner
    keep_s: float


def new_folder(parent: Path, *, keep_s: float) -> Path:
    """A folder for the results of a run of `golden test`; the name is its time, UTC."""
    stamp = f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    for number in range(1, 1000):
        folder = parent / (stamp if number == 1 else f"{stamp}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            facts = Run(owner=this_process(), keep_s=keep_s)
            write_atomically(folder / _RUN_FILE, facts.model_dump_json(indent=2) + "\n")
            return folder
    raise RuntimeError(f"a thousand runs began at {stamp}")


def expired(parent: Path, *, keep_s: float | None = None) -> list[Path]:
    """Results of runs that are over, and were last written to longer than `keep_s` ago; None: as each run said.

    One that was killed, or interrupted, is over as well.
    """
    found = []
    for folder in sorted(parent.glob("*")):
        if _NAME.fullmatch(folder.name):
            facts = _run(folder)
            limit_s = keep_s if keep_s is not None else facts.keep_s if facts else KEEP_S
            is_over = (folder / "results.json").exists() or facts is None or not facts.owner.is_alive()
            if is_over and time.time() - folder.stat().st_mtime > limit_s:
                found.append(folder)
    return found


def expire(parent: Path, *, keep_s: float) -> list[Path]:
    """Remove those that are `expired`; returns their folders."""
    old = expired(parent, keep_s=keep_s)
    for folder in old:
        shutil.rmtree(folder)
    return old


def _run(folder: Path) -> Run | None:
    """None for a run that nothing is known of."""
    try:
        return Run.model_validate_json((folder / _RUN_FILE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None

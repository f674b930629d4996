"""Runs of tests without machines: verdicts, reports, who runs when, and who runs again."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from junitparser import xunit2
from tap.parser import Parser

from builder.errors import HostError
from builder.harness import payload, reports, schedule, suite
from builder.harness.declaration import Test
from builder.harness.outcome import Cause, Outcome, Result, judge
from builder.harness.schedule import Job

TODAY = date(2026, 11, 21)


def outcome(test: str = "t", *, passed: bool, run: int = 1, image: str = "img") -> Outcome:
    why = "" if passed else f"it broke in run {run}"
    return Outcome(
        test=test, image=image, run=run, passed=passed, cause=None if passed else "test", why=why, seconds=1.5
    )


def unrun(test: str = "t", *, run: int = 1, image: str = "img") -> Outcome:
    return outcome(test, passed=False, run=run, image=image).model_copy(update={"cause": "host"})


def job(*names: str, memory_mib: int = 100, image: str = "img", bug: str | None = None) -> Job:
    tests = tuple(Test(name=name, folder=Path("/t"), bug=bug) for name in names)
    return Job(tests=tests, image=image, memory_mib=memory_mib)


# --- verdicts


@pytest.mark.parametrize(
    ("passed", "bug", "until", "verdict"),
    [
        ([True], None, None, "passed"),
        ([False, True], None, None, "flaky"),
        ([False, False], None, None, "failed"),
        ([False], "b", None, "known"),
        ([False], "b", date(2026, 11, 21), "known"),
        ([False], "b", date(2026, 11, 20), "failed"),
        ([True], "b", None, "fixed"),
        ([True], "b", date(2026, 11, 20), "passed"),
    ],
)
def test_verdicts(passed: list[bool], bug: str | None, until: date | None, verdict: str) -> None:
    found = [outcome(passed=it, run=run) for run, it in enumerate(passed, start=1)]
    assert judge(found, bug=bug, until=until, today=TODAY).verdict == verdict


@pytest.mark.parametrize(
    ("causes", "bug", "verdict"),
    [
        (["host"], None, "host"),
        (["host", "host"], "b", "host"),
        (["test", "host"], None, "failed"),
        (["host", "boot"], None, "failed"),
        (["host", None], None, "flaky"),
        (["host", "test"], "b", "known"),
    ],
)
def test_what_the_host_could_not_run_did_not_fail(causes: list[Cause | None], bug: str | None, verdict: str) -> None:
    found = [
        outcome(passed=cause is None, run=run).model_copy(update={"cause": cause})
        for run, cause in enumerate(causes, start=1)
    ]
    result = judge(found, bug=bug, today=TODAY)
    assert result.verdict == verdict
    assert result.is_good is (verdict not in ("host", "failed"))


def test_the_note_says_what_is_to_be_known() -> None:
    failed = outcome(passed=False)
    expired = judge([failed], bug="b/1", until=date(2026, 11, 20), today=TODAY)
    assert expired.note == "it broke in run 1 (known until 2026-11-20, which is over: b/1)"
    assert judge([outcome(passed=True)], bug="b/1", today=TODAY).note == "passes, and is known to fail: b/1"
    assert judge([failed, outcome(passed=True, run=2)], today=TODAY).note == "run 1: it broke in run 1"


# --- reports


@pytest.fixture
def results() -> list[Result]:
    return [
        judge([outcome("good", passed=True)], today=TODAY),
        judge([outcome("flaky #1", passed=False), outcome("flaky #1", passed=True, run=2)], today=TODAY),
        judge([outcome("bad", passed=False), outcome("bad", passed=False, run=2)], today=TODAY),
        judge([outcome("known", passed=False, image="other")], bug="b/1", today=TODAY),
        judge([outcome("fixed", passed=True, image="other")], bug="b/2", today=TODAY),
        judge([unrun("unrun", image="other")], bug="b/3", today=TODAY),
    ]


def test_merged_tap(results: list[Result], tmp_path: Path) -> None:
    reports.write_merged(results, tmp_path)
    lines = list(Parser().parse_file(str(tmp_path / "merged.tap")))
    tests = [line for line in lines if line.category == "test"]
    assert [(it.ok, it.todo, it.description) for it in tests] == [
        (True, False, "- img good"),
        (True, False, "- img flaky 1"),
        (False, False, "- img bad"),
        (False, True, "- other known"),
        (True, True, "- other fixed"),
        (False, False, "- other unrun"),
    ]
    (plan,) = [line for line in lines if line.category == "plan"]
    assert plan.expected_tests == 6
    said = (tmp_path / "merged.tap").read_text()
    assert "# flaky: run 1: it broke in run 1" in said
    assert "not ok 4 - other known # TODO b/1" in said
    assert not [line for line in lines if line.category == "unknown"]


def test_merged_junit(results: list[Result], tmp_path: Path) -> None:
    reports.write_merged(results, tmp_path)
    first, second = xunit2.JUnitXml.fromfile(str(tmp_path / "merged.xml"))
    assert (first.name, first.tests, first.failures, first.skipped) == ("img", 3, 1, 0)
    assert (second.name, second.tests, second.failures, second.skipped, second.errors) == ("other", 3, 0, 1, 1)
    flaky = next(case for case in first if case.name == "flaky #1")
    assert [it.message for it in flaky.flaky_failures()] == ["it broke in run 1"]
    assert not flaky.result
    assert [(it.name, it.value) for it in second.properties()] == [
        ("fixed: fixed", "passes, and is known to fail: b/2")
    ]


def test_a_run_has_reports_of_its_own(tmp_path: Path) -> None:
    found = [outcome("good", passed=True, run=2), outcome("known", passed=False, run=2), unrun("unrun", run=2)]
    reports.write_run(found, tmp_path, known=[("known", "img"), ("unrun", "img")])
    (suite_,) = xunit2.JUnitXml.fromfile(str(tmp_path / "run-2.xml"))
    assert (suite_.tests, suite_.failures, suite_.skipped, suite_.errors) == (3, 0, 1, 1)
    assert "not ok 2 - img known # TODO known to fail" in (tmp_path / "run-2.tap").read_text()
    assert not list(tmp_path.glob(".*"))


# --- who runs when


class Machine:
    """Executes jobs and remembers how many were at work together."""

    def __init__(self, verdict: Callable[[str, int], bool] = lambda name, run: True) -> None:
        self.verdict = verdict
        self.began: list[str] = []
        self.most = self.most_mib = self._now = self._mib = 0
        self._lock = threading.Lock()

    def __call__(self, job: Job) -> list[Outcome]:
        with self._lock:
            self.began += [test.name for test in job.tests]
            self._now, self._mib = self._now + 1, self._mib + job.memory_mib
            self.most, self.most_mib = max(self.most, self._now), max(self.most_mib, self._mib)
        time.sleep(0.05)
        with self._lock:
            self._now, self._mib = self._now - 1, self._mib - job.memory_mib
        return [
            outcome(test.name, passed=self.verdict(test.name, job.run), run=job.run, image=job.image)
            for test in job.tests
        ]


def run(jobs: list[Job], machine: Machine, *, most: int = 4, memory_mib: int = 1000) -> list[Outcome]:
    return schedule.run_all(jobs, machine, most=most, memory_mib=memory_mib, stop=threading.Event())


def test_as_many_at_once_as_are_allowed() -> None:
    machine = Machine()
    found = run([job(str(number)) for number in range(6)], machine, most=2)
    assert [it.test for it in found] == ["0", "1", "2", "3", "4", "5"]
    assert machine.most == 2


def test_as_many_at_once_as_memory_holds() -> None:
    machine = Machine()
    run([job(str(number), memory_mib=400) for number in range(5)], machine, most=5)
    assert (machine.most, machine.most_mib) == (2, 800)


def test_a_small_job_goes_by_one_that_does_not_fit_yet() -> None:
    machine = Machine()
    run([job("a", memory_mib=600), job("big", memory_mib=900), job("small", memory_mib=100)], machine)
    assert machine.began == ["a", "small", "big"]


def test_a_job_that_never_fits_is_refused_before_anything_runs() -> None:
    machine = Machine()
    with pytest.raises(HostError, match=r"no memory for big on img: 2000 MiB are needed, 1000 MiB are there"):
        run([job("a"), job("big", memory_mib=2000)], machine)
    assert machine.began == []


def test_an_interrupt_stops_what_runs_and_begins_nothing() -> None:
    stop, began = threading.Event(), []

    def execute(job: Job) -> list[Outcome]:
        began.append(job.name)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.wait(20)
        return [outcome(job.tests[0].name, passed=False)]

    with pytest.raises(KeyboardInterrupt):
        schedule.run_all([job("a"), job("b")], execute, most=1, memory_mib=1000, stop=stop)
    assert began == ["a on img"]


# --- who runs again


def carry_out(jobs: list[Job], machine: Machine, folder: Path, *, retries: int) -> suite.Summary:
    return suite.carry_out(
        jobs,
        machine,
        folder=folder,
        retries=retries,
        most=2,
        memory_mib=1000,
        stop=threading.Event(),
        note=lambda _: None,
    )


def test_failed_tests_alone_run_again(tmp_path: Path) -> None:
    machine = Machine(lambda name, run: name == "good" or (name == "flaky" and run == 3))
    jobs = [job("good", "flaky"), job("bad"), job("known", bug="b/1")]
    summary = carry_out(jobs, machine, tmp_path, retries=3)
    assert {it.test: (it.verdict, len(it.outcomes)) for it in summary.results} == {
        "good": ("passed", 1),
        "flaky": ("flaky", 3),
        "bad": ("failed", 4),
        "known": ("known", 1),
    }
    assert (summary.is_green, summary.runs) == (False, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [
            "merged.tap",
            "merged.xml",
            "results.json",
            *(f"run-{n}.{kind}" for n in range(1, 5) for kind in ("tap", "xml")),
        ]
    )
    assert suite.Summary.model_validate_json((tmp_path / "results.json").read_bytes()) == summary


def test_what_the_host_could_not_run_is_tried_again_though_it_is_known_to_fail(tmp_path: Path) -> None:
    def execute(job: Job) -> list[Outcome]:
        return [
            unrun(it.name, run=job.run) if job.run == 1 else outcome(it.name, passed=False, run=2) for it in job.tests
        ]

    jobs, stop = [job("known", bug="b/1")], threading.Event()
    summary = suite.carry_out(
        jobs, execute, folder=tmp_path, retries=2, most=1, memory_mib=1000, stop=stop, note=lambda _: None
    )
    assert [(it.verdict, len(it.outcomes)) for it in summary.results] == [("known", 2)]
    assert summary.is_green


def test_green_is_green_with_flaky_and_known_failures(tmp_path: Path) -> None:
    machine = Machine(lambda name, run: name == "flaky" and run == 2)
    assert carry_out([job("flaky"), job("known", bug="b/1")], machine, tmp_path, retries=1).is_green


def test_results_are_removed_when_their_time_is_over(tmp_path: Path) -> None:
    names = ("20260101-000000", "20261121-000000-2", "20260102-000000", "20260103-000000", "mine")
    old, new, without, killed, foreign = (tmp_path / name for name in names)
    for folder in (old, new, without, killed, foreign):
        folder.mkdir()
        if folder not in (without, killed):
            (folder / "results.json").touch()
    running = suite.new_folder(tmp_path, keep_s=3600)
    facts = suite.Run.model_validate_json((running / "run.json").read_bytes())
    dead = facts.owner.model_copy(update={"start": facts.owner.start + 1})
    (killed / "run.json").write_text(facts.model_copy(update={"owner": dead}).model_dump_json())
    for folder in (old, without, killed, running, foreign):
        os.utime(folder, (0, 0))
    assert suite.expired(tmp_path) == [old, without, killed]
    assert suite.expire(tmp_path, keep_s=3600) == [old, without, killed]
    assert not any(folder.exists() for folder in (old, without, killed))
    assert all(folder.exists() for folder in (new, running, foreign))


def test_each_run_says_how_long_it_is_kept(tmp_path: Path) -> None:
    short, long = suite.new_folder(tmp_path, keep_s=60), suite.new_folder(tmp_path, keep_s=10**9)
    for folder in (short, long):
        (folder / "results.json").touch()
        os.utime(folder, (time.time() - 3600,) * 2)
    assert suite.expired(tmp_path) == [short]


# --- payloads


def test_the_line_that_starts_a_script() -> None:
    line = payload.script_line("a b.sh", folder="/var/tmp/x", variables={"A": "it's"})
    assert line == (
        "cd /var/tmp/x && if [ -x './a b.sh' ]; then exec env 'A=it'\"'\"'s' './a b.sh'; "
        "else exec env 'A=it'\"'\"'s' sh './a b.sh'; fi"
    )

"""TAP and JUnit files of a run, and of all runs and images together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from junitparser import Error, Failure, Skipped, xunit2
from tap.tracker import Tracker

from builder.harness.outcome import Outcome, Result

# TAP's directive on a test that is expected to fail: its readers do not count it as a failure. Source:
# testanything.org, "TAP specification", "Directives".
_EXPECTED = "TODO"


def write_run(outcomes: Sequence[Outcome], folder: Path, *, known: Iterable[tuple[str, str]]) -> None:
    """run-N.tap and run-N.xml. known: (test, image) of those that are known to fail."""
    expected = set(known)
    stem = folder / f"run-{outcomes[0].run}"
    lines = []
    for it in outcomes:
        is_expected = (it.test, it.image) in expected and it.cause != "host"
        mark = f"{_EXPECTED} known to fail" if is_expected else ""
        lines.append((it.passed, f"{it.image} {it.test}", mark, it.why))
    _tap(stem.with_suffix(".tap"), lines)
    suites: dict[str, xunit2.TestSuite] = {}
    for it in outcomes:
        case = _case(it)
        if not it.passed:
            is_expected = (it.test, it.image) in expected and it.cause != "host"
            case.result = [Skipped(it.why) if is_expected else _failure(it)]
        _suite(suites, it.image).add_testcase(case)
    _junit(stem.with_suffix(".xml"), suites)


def write_merged(results: Sequence[Result], folder: Path) -> None:
    """merged.tap and merged.xml: green if and only if every test passed at least once, or is known to fail."""
    lines = []
    suites: dict[str, xunit2.TestSuite] = {}
    for it in results:
        passed = it.is_good and it.verdict != "known"
        is_known = it.verdict in ("known", "fixed")
        lines.append((passed, f"{it.image} {it.test}", f"{_EXPECTED} {it.bug}" if is_known else "", _said(it)))
        case = _case(it.last)
        for failed in [one for one in it.outcomes if not one.passed]:
            # Surefire's way, which Jenkins shows: a flaky test passed, and has its failures along.
            if it.verdict == "flaky":
                case.add_interim_result(_interim(failed))
        if not it.is_good:
            case.result = [_failure(it.last)]
        elif it.verdict == "known":
            case.result = [Skipped(it.note)]
        suite = _suite(suites, it.image)
        suite.add_testcase(case)
        if it.verdict in ("flaky", "fixed"):
            suite.add_property(f"{it.verdict}: {it.test}", it.note)
    _tap(folder / "merged.tap", lines)
    _junit(folder / "merged.xml", suites)


def _suite(suites: dict[str, xunit2.TestSuite], image: str) -> xunit2.TestSuite:
    if image not in suites:
        suites[image] = xunit2.TestSuite(image)  # type: ignore[no-untyped-call]
    return suites[image]


def _said(result: Result) -> str:
    return f"{result.verdict}: {result.note}" if result.note else ""


def _case(outcome: Outcome) -> xunit2.TestCase:
    return xunit2.TestCase(outcome.test, classname=outcome.image, time=outcome.seconds)


def _failure(outcome: Outcome) -> Failure | Error:
    """An error is what JUnit calls a test that could not be run."""
    failure = (Error if outcome.cause == "host" else Failure)(outcome.why, outcome.cause)
    lines = [outcome.why]
    if outcome.kept:
        lines.append(f"kept: {outcome.kept}")
    if outcome.bundle:
        lines.append(f"try: golden clone revive {outcome.bundle}")
    failure.text = "\n".join(lines)
    return failure


def _interim(outcome: Outcome) -> xunit2.FlakyFailure:
    failure = xunit2.FlakyFailure(outcome.why, outcome.cause)
    failure.text = f"run {outcome.run}"
    return failure


def _tap(path: Path, lines: Sequence[tuple[bool, str, str, str]]) -> None:
    """lines: passed, description, directive, and what is to be said about it."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as stream:
        tracker = Tracker(streaming=True, stream=stream, header=False, plan=len(lines))
        for passed, description, directive, said in lines:
            add = tracker.add_ok if passed else tracker.add_not_ok
            # A '#' begins a directive, wherever it stands.
            diagnostics = "".join(f"# {line}\n" for line in said.splitlines()).rstrip("\n") or None
            add("", f"- {description.replace('#', '')}", directive.replace("\n", " "), diagnostics)
        tracker.generate_tap_reports()
    part.rename(path)


def _junit(path: Path, suites: dict[str, xunit2.TestSuite]) -> None:
    xml = xunit2.JUnitXml("golden test")
    for suite in suites.values():
        xml.add_testsuite(suite)
    xml.update_statistics()  # type: ignore[no-untyped-call]
    part = path.with_name(f".{path.name}.part")
    xml.write(str(part), pretty=True)
    part.rename(path)

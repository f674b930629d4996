"""What became of tests: one outcome per attempt, one verdict per test and image over all runs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Literal

from builder.frozen import Frozen

# What ended an attempt, for people who sort failures: a test's own fault, or something that happened to its machine.
Cause = Literal["test", "limit", "boot", "panic", "gone", "restart", "results", "host", "stopped"]

# host: this host could not run it, which says nothing about the test.
Verdict = Literal["passed", "flaky", "failed", "known", "fixed", "host"]


class Outcome(Frozen):
    """One attempt. run: 1 is the first. why: the line of classification, "" if it passed. kept: folder, if any.

    seconds: all of it, the boot included; boot_s: until every machine answered, None if one did not.
    """

    test: str
    image: str
    run: int
    passed: bool
    cause: Cause | None = None
    why: str = ""
    seconds: float
    boot_s: float | None = None
    kept: Path | None = None

    @property
    def bundle(self) -> Path | None:
        """What can be opened again; there is none of machines that were never made."""
        return (
            self.kept if self.kept is not None and not self.passed and self.cause not in ("host", "stopped") else None
        )


class Result(Frozen):
    """A test on an image over all runs. until: the known failure's last day, if that is why it counts or does not."""

    test: str
    image: str
    verdict: Verdict
    outcomes: tuple[Outcome, ...]
    bug: str | None = None
    until: date | None = None
    is_expired: bool = False

    @property
    def is_good(self) -> bool:
        """Whether it does not stand in the way of a green run."""
        return self.verdict not in ("failed", "host")

    @property
    def last(self) -> Outcome:
        return self.outcomes[-1]

    @property
    def note(self) -> str:
        """What is to be said beside the verdict, in one line."""
        failures = [f"run {it.run}: {it.why}" for it in self.outcomes if not it.passed]
        if self.verdict == "flaky":
            return "; ".join(failures)
        if self.verdict == "fixed":
            return f"passes, and is known to fail: {self.bug}"
        if self.verdict == "known":
            return f"known: {self.bug}{f', until {self.until}' if self.until else ''}; {failures[-1]}"
        if self.verdict == "host":
            return self.last.why
        if self.verdict == "failed":
            expired = f" (known until {self.until}, which is over: {self.bug})" if self.is_expired else ""
            return self.last.why + expired
        return ""


def judge(outcomes: Iterable[Outcome], *, bug: str | None = None, until: date | None = None, today: date) -> Result:
    """The verdict on one test and image. outcomes: at least one, in the order of the runs."""
    found = tuple(outcomes)
    passed = any(it.passed for it in found)
    is_known = bug is not None and (until is None or today <= until)
    verdict: Verdict
    if all(it.cause == "host" for it in found):
        verdict = "host"
    elif is_known:
        verdict = "fixed" if passed else "known"
    elif passed:
        verdict = "passed" if all(it.passed for it in found) else "flaky"
    else:
        verdict = "failed"
    return Result(
        test=found[0].test,
        image=found[0].image,
        verdict=verdict,
        outcomes=found,
        bug=bug,
        until=until,
        is_expired=bug is not None and not is_known,
    )

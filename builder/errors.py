"""The five ways golden fails. They differ by what the user has to do; each has an exit code of its own."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a file of the user's. line: 1-based, None when the whole file is meant."""

    where: str
    what: str
    line: int | None = None

    def __str__(self) -> str:
        place = f"line {self.line}, {self.where}" if self.line else self.where
        return f"{place}: {self.what}"


class GoldenError(Exception):
    """Something golden could not do, said in the user's words.

    what: one sentence, no full stop. details: (label, text) pairs shown below it, in order.
    try_next: what to type next. Raised as one of the children below, never as itself.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        details: Sequence[tuple[str, str]] = (),
        log: Path | None = None,
        try_next: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.details = list(details)
        self.log = log
        self.try_next = try_next

    def rows(self) -> list[tuple[str, str]]:
        """The labelled rows under the headline: details, then where the log is, then what to type next."""
        rows = list(self.details)
        if self.log is not None:
            rows.append(("log", str(self.log)))
        if self.try_next is not None:
            rows.append(("try", self.try_next))
        return rows


class ConfigError(GoldenError):
    """The user's files or flags are wrong; nothing was started. `problems` are reported all at once."""

    exit_code = 2

    def __init__(self, what: str, *, problems: Sequence[Problem] = (), try_next: str | None = None) -> None:
        super().__init__(what, details=[("", str(problem)) for problem in problems], try_next=try_next)
        self.problems = list(problems)


class HostError(GoldenError):
    """This machine lacks something: a program, a daemon, room, a right."""

    exit_code = 3


class ToolError(GoldenError):
    """An outside program failed or was late."""

    exit_code = 4


class VerifyError(GoldenError):
    """All commands succeeded, and the result is still wrong."""

    exit_code = 5


class Interrupted(KeyboardInterrupt):
    """SIGTERM or SIGHUP. A KeyboardInterrupt, so that no `except Exception` on the way up swallows it."""


INTERRUPTED_EXIT_CODE = 130


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message on a word that nobody knows: ", did you mean 'x'?", or nothing if none is close."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f", did you mean '{close[0]}'?" if close else ""


def exit_codes() -> dict[int, str]:
    """Each status that golden itself ends with -> what it means.

    Commands that hand over to another program (`clone ssh`, `clone exec`, `shell`, `sparrowdo`) end with its status.
    """
    return {
        0: "All that was asked for is done.",
        1: "A bug in golden: it prints a traceback.",
        ConfigError.exit_code: "A file or a flag is wrong; nothing was started.",
        HostError.exit_code: "This machine lacks something: a program, a daemon, room, a right.",
        ToolError.exit_code: "A program that golden runs failed or was late; what it said is shown.",
        VerifyError.exit_code: "All commands succeeded, and the result is still wrong: a broken image, a failed test.",
        INTERRUPTED_EXIT_CODE: "Ended by Ctrl-C, SIGTERM or SIGHUP; the next run goes on from what was finished.",
        141: "Whatever read golden's output went away.",
    }

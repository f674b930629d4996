"""The five ways golden fails. They differ by what the user has to do; each has an exit code of its own."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
from collections.abc import Iterable, Iterator, Sequence
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

# What the system says when this machine lacks something, and what to do then; any other OSError is a bug of ours.
_HOST_ERRORS = {
    errno.ENOSPC: "df -h, and make room: golden collect, golden clone gc, golden cache prune",
    errno.EDQUOT: "quota, and make room",
    errno.EROFS: "another place with --state, or have the file system writable",
    errno.EACCES: "the right to use it, or another place with --state",
    errno.EPERM: "the right to use it, or another place with --state",
    errno.EFBIG: "ulimit -f unlimited",
    errno.EMFILE: "ulimit -n 1024",
    errno.ENFILE: "sysctl fs.file-nr, and end what holds so many files open",
    errno.EIO: "dmesg: the disk may be failing",
    errno.ENOMEM: "free -h, and end what needs so much memory",
    errno.ENAMETOOLONG: "give a shorter name: file systems take 255 bytes",
    errno.ELOOP: "a link there leads to itself",
}


def host_error(error: OSError) -> HostError | None:
    """What the system refused, as an error of golden's; None if it is not this machine that lacks something."""
    remedy = _HOST_ERRORS.get(error.errno or 0)
    if remedy is None:
        return None
    reason = os.strerror(error.errno or 0)
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    what = f"could not use {names[-1]}: {reason}" if names else f"this machine refused to go on: {reason}"
    return HostError(what, try_next=remedy)


@contextlib.contextmanager
def host_errors_told() -> Iterator[None]:
    """Turns what the system refuses inside the block into HostError, for those who clean up after GoldenError."""
    try:
        yield
    except OSError as error:
        told = host_error(error)
        if told is None:
            raise
        raise told from error


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

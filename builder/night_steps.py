"""The steps of a night: golden commands, each in a process of its own with a log, tried again where that may help."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from builder import causes, run
from builder.errors import GoldenError, ToolError
from builder.model import Project
from builder.nights import Attempt
from builder.progress import Reporter
from builder.store import Store

_STEP_TIMEOUT_S = 24 * 3600

Result = TypeVar("Result")


class Cancelled(Exception):
    """The night ends; the step at work is ended with it."""


@dataclass(frozen=True)
class Retries:
    """How often what may pass by itself is tried again, each after pause_s seconds."""

    most: int
    pause_s: float

    def tried(
        self,
        do: Callable[[int], Result],
        *,
        failed: Callable[[int, GoldenError], Attempt],
        wait: Callable[[float], object] = time.sleep,
        note: Callable[[str], None],
    ) -> Result:
        """What `do` returns; it is called with 1, 2, … while the cause by which it fails may pass.

        failed: told of each failure. Raises the last one.
        """
        number = 1
        while True:
            try:
                return do(number)
            except GoldenError as error:
                cause = failed(number, error).cause
                if number > self.most or not causes.may_pass(cause):
                    raise
            note(f"{cause}; again in {self.pause_s:.0f} s")
            wait(self.pause_s)
            number += 1


class Steps:
    """folder: of the night."""

    def __init__(self, project: Project, store: Store, *, folder: Path, retries: Retries, reporter: Reporter) -> None:
        self._project = project
        self._store = store
        self._folder = folder
        self._retries = retries
        self._reporter = reporter
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """End whatever is at work, in all threads."""
        self._cancelled.set()

    def repeatedly(self, step: str, name: str, do: Callable[[Path], None], attempts: list[Attempt]) -> int:
        """The exit code of the last try, 0 if it went well."""

        def log(number: int) -> Path:
            return self._folder / "logs" / f"{name}-{number}.log"

        def failed(number: int, error: GoldenError) -> Attempt:
            attempts.append(attempt(step, error, log=log(number), folder=self._folder))
            return attempts[-1]

        try:
            self._retries.tried(
                lambda number: do(log(number)),
                failed=failed,
                wait=self._wait,
                note=lambda text: self._reporter.note(f"{name}: {text}"),
            )
        except GoldenError:
            return attempts[-1].exit_code
        return 0

    def _wait(self, pause_s: float) -> None:
        if self._cancelled.wait(pause_s):
            raise Cancelled

    def golden(self, words: Sequence[str], *, why: str, log: Path) -> None:
        """Run golden on the same project and state. Raises ToolError if it fails, Cancelled if the night ends."""
        run.run(
            [
                *(sys.executable, "-m", "builder"),
                *("--file", self._project.file, "--state", self._store.state, "--progress", "plain"),
                *words,
            ],
            why=why,
            timeout_s=_STEP_TIMEOUT_S,
            log=log,
            watch=self._watch,
        )

    def _watch(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled


def attempt(step: str, error: GoldenError, *, log: Path | None = None, folder: Path | None = None) -> Attempt:
    """What the record says of a failure. log: of the golden that failed, in `folder`; None if it was this one."""
    code, text = failed_with(error, log)
    place = str(log.relative_to(folder)) if log and folder and log.exists() else ""
    return Attempt(step=step, cause=causes.cause_of(code, text), error=text, log=place, exit_code=code)


def failed_with(error: GoldenError, log: Path | None) -> tuple[int, str]:
    """The exit code and the text of a step that failed: what golden printed, if it was a golden of its own."""
    end = dict(error.details).get("end", "")
    if isinstance(error, ToolError) and end.startswith("exit ") and log is not None and log.exists():
        said = log.read_text(encoding="utf-8", errors="replace").rpartition("golden: error: ")[2].strip()
        return int(end.removeprefix("exit ")), said
    rows = [f"  {label}: {text}" for label, text in error.details]
    return error.exit_code, "\n".join([error.what, *rows])

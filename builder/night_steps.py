"""The steps of a night: golden commands, each in a process of its own with a log, tried again where that may help."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from builder import causes, run
from builder.errors import INTERRUPTED_EXIT_CODE, GoldenError, ToolError
from builder.model import Project
from builder.nights import Attempt
from builder.progress import Reporter
from builder.store import Store

_STEP_TIMEOUT_S = 24 * 3600


class Cancelled(Exception):
    """The night ends; the step at work is ended with it."""


class Steps:
    """folder: of the night. retries: how often what may pass is tried again, each after pause_s seconds."""

    def __init__(
        self, project: Project, store: Store, *, folder: Path, retries: int, pause_s: float, reporter: Reporter
    ) -> None:
        self._project = project
        self._store = store
        self._folder = folder
        self._retries = retries
        self._pause_s = pause_s
        self._reporter = reporter
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """End whatever is at work, in all threads."""
        self._cancelled.set()

    def repeatedly(self, step: str, name: str, do: Callable[[Path], None], attempts: list[Attempt]) -> int:
        """The exit code of the last try, 0 if it went well."""
        for number in range(1, self._retries + 2):
            log = self._folder / "logs" / f"{name}-{number}.log"
            try:
                do(log)
                return 0
            except GoldenError as error:
                code, text = failed_with(error, log)
            cause = causes.cause_of(code, text)
            place = str(log.relative_to(self._folder)) if log.exists() else ""
            attempts.append(Attempt(step=step, cause=cause, error=text, log=place))
            if code == INTERRUPTED_EXIT_CODE or not causes.may_pass(cause) or number > self._retries:
                return code
            self._reporter.note(f"{name}: {cause}; again in {self._pause_s:.0f} s")
            if self._cancelled.wait(self._pause_s):
                raise Cancelled
        return 0

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


def failed_with(error: GoldenError, log: Path) -> tuple[int, str]:
    """The exit code and the text of a step that failed: what golden printed, if it was a golden of its own."""
    end = dict(error.details).get("end", "")
    if isinstance(error, ToolError) and end.startswith("exit ") and log.exists():
        said = log.read_text(encoding="utf-8", errors="replace").rpartition("golden: error: ")[2].strip()
        return int(end.removeprefix("exit ")), said
    rows = [f"  {label}: {text}" for label, text in error.details]
    return error.exit_code, "\n".join([error.what, *rows])

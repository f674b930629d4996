"""What is happening, on standard error: live on a terminal, one line per event in a log, JSON lines for programs."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import IO, Literal

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.text import Text

from builder.model import Timing
from builder.units import format_seconds

Style = Literal["auto", "terminal", "plain", "json", "quiet"]

# In a log without a terminal a chatty step says something at most this often.
_PLAIN_EVERY_S = 5.0

# Nobody counts the seconds of what is over sooner.
_SILENT_S = 2.0


class Step:
    """One step under way. `note` says what it is doing at the moment."""

    def __init__(self, reporter: Reporter, name: str) -> None:
        self._reporter = reporter
        self.name = name
        self.begin = time.monotonic()
        self._last_note = -_PLAIN_EVERY_S
        self._text = ""

    def note(self, text: str) -> None:
        self._text = text
        now = time.monotonic()
        if now - self._last_note >= _PLAIN_EVERY_S:
            self._last_note = now
            self._reporter._note(self, text)

    def __rich__(self) -> Text:
        """Its line on a terminal, as often as that is drawn: the clock goes on while it has nothing to say."""
        seconds = int(self.seconds)
        since = f" {format_seconds(seconds) if seconds >= 60 else f'{seconds} s'}" if seconds >= _SILENT_S else ""
        text = " ".join(self._text.split())
        return Text.assemble(self.name, (f"{since}  {text}".rstrip(), "dim"), no_wrap=True, overflow="ellipsis")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begin


class Reporter:
    """Reports steps as they begin and end, and remembers how long each took."""

    def __init__(self, style: Style = "auto", *, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stderr
        self.style: Style = style
        self._console = Console(file=self._stream, highlight=False)
        if style == "auto":
            # A dumb terminal would print what moves a cursor elsewhere as letters.
            is_live = self._stream.isatty() and not self._console.is_dumb_terminal
            self.style = "terminal" if is_live else "plain"
        self._status: Status | None = None
        self.times: list[Timing] = []

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Time the block as one step. An exception marks it as failed and goes on."""
        step = Step(self, name)
        outer = self._status
        if outer is not None:
            outer.stop()
        if self.style == "terminal":
            self._status = self._console.status(step)
            self._status.start()
        else:
            self._event("begin", step, f"{name} …")
        try:
            yield step
        except BaseException:
            self._end(step, "failed")
            raise
        else:
            self._end(step, "done")
        finally:
            self._status = outer
            if outer is not None:
                outer.start()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[Step]:
        """A step within a step: reported with its time, which counts as the outer one's."""
        first = len(self.times)
        try:
            with self.step(name) as step:
                yield step
        finally:
            del self.times[first:]

    def note(self, text: str) -> None:
        """Something worth a line of its own, outside any step."""
        if self.style == "json":
            self._json(event="note", text=text)
        elif self.style == "terminal":
            self._console.print(f"[dim]{escape(text)}[/dim]")
        elif self.style == "plain":
            self._plain(text)

    def _note(self, step: Step, text: str) -> None:
        self._event("note", step, f"{step.name}: {text}", text=text)

    def _end(self, step: Step, how: Literal["done", "failed"]) -> None:
        seconds = round(step.seconds, 2)
        self.times.append(Timing(step=step.name, seconds=seconds))
        if self._status is not None:
            self._status.stop()
            mark = "[green]✓[/green]" if how == "done" else "[red]✗[/red]"
            self._console.print(f"{mark} {escape(step.name)} [dim]{format_seconds(seconds)}[/dim]")
        else:
            self._event("end", step, f"{step.name}: {how} in {format_seconds(seconds)}", result=how, seconds=seconds)

    def _event(self, event: str, step: Step, line: str, **more: str | float) -> None:
        if self.style == "json":
            self._json(event=event, step=step.name, **more)
        elif self.style == "plain":
            self._plain(line)

    def _json(self, **fields: str | float) -> None:
        print(json.dumps({"time": datetime.now(UTC).isoformat(), **fields}), file=self._stream, flush=True)

    def _plain(self, line: str) -> None:
        print(f"{datetime.now(UTC):%H:%M:%S} {line}", file=self._stream, flush=True)


class Notes(Reporter):
    """Passes notes on, each text once, and leaves out the steps: of threads that are all at the same ones.

    tell: may be called in any thread.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__("quiet")
        self._tell = tell
        self._told: set[str] = set()

    def note(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._tell(text)

"""What is shown of a step while it is under way."""

from __future__ import annotations

import io
import json
import time

import pytest
from rich.console import Console
from rich.spinner import Spinner

from builder.progress import Reporter, Step, Style


def shown(step: Step, *, width: int = 60) -> str:
    """Behind the frame of a spinner."""
    console = Console(width=width, file=io.StringIO())
    with console.capture() as captured:
        console.print(Spinner("dots", text=step))
    return captured.get()[2:].rstrip()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_the_clock_of_a_step_goes_on_though_it_says_nothing(clock: list[float]) -> None:
    step = Step(Reporter("quiet"), "base: [install]")
    assert shown(step) == "base: [install]"
    step.note("reading")
    assert shown(step) == "base: [install]  reading"
    clock[0] += 2.9
    assert shown(step) == "base: [install] 2 s  reading"
    clock[0] += 75
    assert shown(step) == "base: [install] 1 min 17 s  reading"


def test_it_is_one_line_whatever_it_says(clock: list[float]) -> None:
    step = Step(Reporter("quiet"), "boot")
    step.note("a line\nand another of a guest's, which is rather long")
    assert shown(step, width=32) == "boot  a line and another of a…"


@pytest.mark.parametrize("style", ["plain", "json"])
def test_a_chatty_step_says_something_now_and_then_in_a_log(clock: list[float], style: Style) -> None:
    stream = io.StringIO()
    with Reporter(style, stream=stream).step("boot") as step:
        for number in range(10):
            step.note(f"note {number}")
            clock[0] += 1
    lines = stream.getvalue().splitlines()
    if style == "json":
        assert [json.loads(line).get("text") for line in lines] == [None, "note 0", "note 5", None]
    else:
        assert [line.partition(" ")[2] for line in lines] == [
            "boot …",
            "boot: note 0",
            "boot: note 5",
            "boot: done in 10.0 s",
        ]

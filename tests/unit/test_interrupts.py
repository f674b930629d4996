"""Signals that wait until nobody can take their exception for something else."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from types import FrameType

import pytest

from builder import interrupts
from builder.errors import Interrupted


@pytest.fixture(autouse=True)
def as_golden() -> Iterator[None]:
    """SIGTERM is an exception, as the command line has it."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        raise Interrupted(signal.Signals(number).name)

    before = signal.signal(signal.SIGTERM, interrupt)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_signal_is_heard_when_the_block_is_over() -> None:
    did = []
    with pytest.raises(Interrupted, match="SIGTERM"), interrupts.held():
        os.kill(os.getpid(), signal.SIGTERM)
        did.append("all of it")
    assert did == ["all of it"]
    with pytest.raises(Interrupted):
        os.kill(os.getpid(), signal.SIGTERM)


def test_it_goes_before_an_error_of_the_block() -> None:
    with pytest.raises(Interrupted), interrupts.held():
        os.kill(os.getpid(), signal.SIGTERM)
        raise OSError("what it made a library say")


def test_without_a_signal_nothing_happens() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with interrupts.held():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before

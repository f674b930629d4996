"""Signals that end golden, held back where an exception in the middle would be lost, or do harm."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def hold() -> Callable[[], None]:
    """Have them wait until what is returned is called, by which the first that came is heard."""
    came: list[tuple[int, FrameType | None]] = []
    # Only the main thread hears of signals, and only there handlers can be set.
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in SIGNALS} if is_main else {}
    caught = {number: handler for number, handler in before.items() if callable(handler)}
    for number in caught:
        signal.signal(number, lambda number, frame: came.append((number, frame)))

    def let_go() -> None:
        for number, handler in caught.items():
            signal.signal(number, handler)
        if came:
            first, frame = came[0]
            caught[signal.Signals(first)](first, frame)

    return let_go


@contextlib.contextmanager
def held() -> Iterator[None]:
    """For a library that makes an error of its own of the exception, as if what it reads were damaged."""
    let_go = hold()
    try:
        yield
    finally:
        let_go()

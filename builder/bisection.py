"""Delta debugging: which of many changes is it? Pure; what trying a set of changes means is the caller's.

As `git bisect` it halves; unlike it, changes have no order, more than one may be needed to break things, and a change
brings others along that it requires. Source: Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing
Input", 2002, ddmin.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True)
class Attempt(Generic[T]):
    """applied: what was asked for, and all that came along. is_bad: None if it could not be tried."""

    applied: frozenset[T]
    is_bad: bool | None


@dataclass(frozen=True)
class Guilty(Generic[T]):
    """asked: no smaller part of it is bad. applied: `asked` with what it brings along. attempts: how many it took."""

    asked: tuple[T, ...]
    applied: tuple[T, ...]
    attempts: int


def find_guilty(changes: Sequence[T], attempt: Callable[[frozenset[T]], Attempt[T]]) -> Guilty[T] | None:
    """A smallest set of `changes` that is bad; None if all of them together are not.

    attempt: applies a set to what was good, with whatever that requires, and looks. Nothing is tried twice, nor is a
    set that lies between one that was tried and what that one brought along.
    """
    trials = _Trials(changes, attempt)
    if not trials.is_bad(changes):
        return None
    found = _narrowed(_minimal(list(changes), trials), trials)
    applied = trials.look(found).applied
    return Guilty(
        asked=tuple(found),
        applied=tuple(change for change in changes if change in applied),
        attempts=trials.count,
    )


class _Trials(Generic[T]):
    """What was tried. changes: all of them, in the caller's order."""

    def __init__(self, changes: Sequence[T], attempt: Callable[[frozenset[T]], Attempt[T]]) -> None:
        self.changes = changes
        self._attempt = attempt
        self._known: dict[frozenset[T], Attempt[T]] = {}

    @property
    def count(self) -> int:
        return len(self._known)

    def is_bad(self, asked: Iterable[T]) -> bool:
        return self.look(asked).is_bad is True

    def look(self, asked: Iterable[T]) -> Attempt[T]:
        wanted = frozenset(asked)
        for tried, found in self._known.items():
            if tried <= wanted <= found.applied:
                return found
        found = self._attempt(wanted)
        self._known[wanted] = found
        return found


def _minimal(bad: list[T], trials: _Trials[T]) -> list[T]:
    """ddmin: a part of `bad` that is bad and of which no element can be left out."""
    parts = 2
    while len(bad) > 1:
        chunks = _split(bad, parts)
        rests = [[change for change in bad if change not in chunk] for chunk in chunks] if parts > 2 else []
        for number, smaller in enumerate([*chunks, *rests]):
            if trials.is_bad(smaller):
                bad, parts = smaller, 2 if number < len(chunks) else max(parts - 1, 2)
                break
        else:
            if parts >= len(bad):
                break
            parts = min(2 * parts, len(bad))
    return bad


def _narrowed(bad: list[T], trials: _Trials[T]) -> list[T]:
    """What came along may be the guilty one: one that is bad by itself and brings less is a better answer."""
    while True:
        applied = trials.look(bad).applied
        for change in [change for change in trials.changes if change in applied and change not in bad]:
            smaller = trials.look([change])
            if smaller.is_bad and smaller.applied < applied:
                bad = [change]
                break
        else:
            return bad


def _split(items: list[T], parts: int) -> list[list[T]]:
    """Into `parts` runs of nearly equal length."""
    bounds = [round(number * len(items) / parts) for number in range(parts + 1)]
    return [items[begin:end] for begin, end in itertools.pairwise(bounds)]

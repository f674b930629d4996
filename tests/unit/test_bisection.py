"""Delta debugging: on packages that require each other, as hypothesis makes them up."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from builder.bisection import Attempt, find_guilty


class World:
    """Packages 0…n-1, what each requires, and the set that together breaks things."""

    def __init__(self, size: int, requires: dict[int, set[int]], guilty: set[int], unresolved: set[int]) -> None:
        self.changes = list(range(size))
        self.requires = requires
        self.guilty = guilty
        self.unresolved = unresolved
        self.tried: list[frozenset[int]] = []

    def closure(self, asked: frozenset[int]) -> frozenset[int]:
        found, new = set(asked), set(asked)
        while new:
            new = {other for one in new for other in self.requires.get(one, ())} - found
            found |= new
        return frozenset(found)

    def attempt(self, asked: frozenset[int]) -> Attempt[int]:
        assert asked not in self.tried, "tried twice"
        self.tried.append(asked)
        applied = self.closure(asked)
        # What does not go by itself goes with all the others.
        if asked & self.unresolved and len(applied) < len(self.changes):
            return Attempt(applied=applied, is_bad=None)
        return Attempt(applied=applied, is_bad=self.guilty <= applied)


@st.composite
def worlds(draw: st.DrawFn, *, most_guilty: int = 3, unresolved: bool = False) -> World:
    size = draw(st.integers(1, 24))
    numbers = st.integers(0, size - 1)
    return World(
        size,
        draw(st.dictionaries(numbers, st.sets(numbers, max_size=3), max_size=8)),
        draw(st.sets(numbers, min_size=1, max_size=most_guilty)),
        draw(st.sets(numbers, max_size=3)) if unresolved else set(),
    )


@given(worlds())
def test_what_is_found_is_bad_and_no_part_of_it_is(world: World) -> None:
    found = find_guilty(world.changes, world.attempt)
    assert found is not None
    assert frozenset(found.applied) == world.closure(frozenset(found.asked))
    assert world.guilty <= set(found.applied)
    for left_out in found.asked:
        assert not world.guilty <= world.closure(frozenset(found.asked) - {left_out})


@given(worlds(most_guilty=1))
def test_one_guilty_package_is_found_itself_and_not_what_requires_it(world: World) -> None:
    (guilty,) = world.guilty
    found = find_guilty(world.changes, world.attempt)
    assert found is not None
    # Packages that require each other cannot be told apart.
    assert set(found.applied) == world.closure(frozenset({guilty}))
    assert len(found.asked) == 1


@given(worlds(unresolved=True))
def test_what_cannot_be_tried_is_no_proof(world: World) -> None:
    found = find_guilty(world.changes, world.attempt)
    assert found is not None
    assert world.guilty <= set(found.applied)


@given(st.integers(2, 200), st.data())
def test_one_of_many_takes_as_many_trials_as_halving(size: int, data: st.DataObject) -> None:
    world = World(size, {}, {data.draw(st.integers(0, size - 1))}, set())
    found = find_guilty(world.changes, world.attempt)
    assert found is not None and set(found.asked) == world.guilty
    assert found.attempts == len(world.tried) <= 2 * math.ceil(math.log2(size)) + 1


def test_nothing_is_guilty_if_all_of_it_together_is_good() -> None:
    world = World(5, {}, {7}, set())
    assert find_guilty(world.changes, world.attempt) is None
    assert len(world.tried) == 1

"""What collecting keeps, and why: the marks alone, over trees that hypothesis makes."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.channels.retention import Candidate, mark
from builder.model import ImageId, version_key
from builder.publication import DAY_S, Rule

NOW_S = 1_800_000_000.0
LAYERS = {
    "a-base": None,
    "a-upgrade": "a-base",
    "a-web": "a-upgrade",
    "a-db": "a-upgrade",
    "b-base": None,
    "b-x": "b-base",
}


def candidate(
    image: str, day: int, *, parent: str | None = None, age_days: float = 100, is_good: bool = False
) -> Candidate:
    return Candidate(
        id=ImageId(image=image, version=f"202601{day:02d}.1", sha256="0" * 64),
        needs=(parent,) if parent else (),
        distribution=image.partition("-")[0],
        finished_s=NOW_S - age_days * DAY_S,
        is_good=is_good,
    )


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Candidate]:
    """Nights in which some images were built, each on the newest build of its parent or on an older one."""
    found: dict[str, Candidate] = {}
    built: dict[str, list[str]] = defaultdict(list)
    for day in range(1, draw(st.integers(1, 8)) + 1):
        for image, parent in LAYERS.items():
            if not draw(st.booleans()) or (parent and not built[parent]):
                continue
            below = draw(st.sampled_from(built[parent])) if parent else None
            made = candidate(
                image, day, parent=below, age_days=draw(st.sampled_from([0.5, 3, 8, 30])), is_good=draw(st.booleans())
            )
            found[made.stem] = made
            built[image].append(made.stem)
    return found


@given(trees(), st.integers(1, 4), st.integers(1, 10), st.sets(st.sampled_from(sorted(LAYERS))), st.data())
def test_nothing_that_is_needed_goes(
    tree: dict[str, Candidate], keep: int, age_days: int, images: set[str], data: st.DataObject
) -> None:
    leased = set(data.draw(st.lists(st.sampled_from(sorted(tree)), max_size=3))) if tree else set()
    rule = Rule(keep=keep, age_s=age_days * DAY_S)
    kept = mark(tree, rule=rule, now_s=NOW_S, images=images, held=dict.fromkeys(leased, "leased"))

    assert kept.keys() <= tree.keys()
    assert all(kept.values())  # each has a reason
    for stem in kept:  # never a package whose requirement is gone
        assert set(tree[stem].needs) <= kept.keys()
    assert leased <= kept.keys()
    assert {stem for stem, it in tree.items() if NOW_S - it.finished_s < rule.age_s} <= kept.keys()
    by_image = defaultdict(list)
    for it in sorted(tree.values(), key=lambda it: version_key(it.id.version)):
        by_image[it.id.image].append(it)
    for image, builds in by_image.items():
        if image in images:
            assert {it.stem for it in builds[-keep:]} <= kept.keys()
            good = [it for it in builds if is_good(it, tree)]
            assert not good or good[-1].stem in kept
    for distribution in {it.distribution for it in tree.values()}:
        mine = [it for it in tree.values() if it.distribution == distribution]
        assert any(it.stem in kept for it in mine)
    needed = {parent for it in tree.values() if it.stem in kept for parent in it.needs}
    for stem, reasons in kept.items():  # and nothing stays for nothing
        if all("stands on it" in reason for reason in reasons):
            assert stem in needed


def is_good(it: Candidate, tree: dict[str, Candidate]) -> bool:
    return it.is_good and all(is_good(tree[parent], tree) for parent in it.needs)


def test_the_reasons_are_said() -> None:
    tree = {
        it.stem: it
        for it in (
            candidate("a-base", 1),
            candidate("a-base", 2, age_days=1),
            candidate("a-web", 1, parent="a-base-20260101.1", is_good=True),
        )
    }
    kept = mark(tree, rule=Rule(keep=1, age_s=2 * DAY_S), now_s=NOW_S, images={"a-base", "a-web"}, held={})
    assert kept == {
        "a-base-20260101.1": ["a-web-20260101.1 stands on it"],
        "a-base-20260102.1": ["young", "among the newest 1", "the last good set of a"],
        "a-web-20260101.1": ["among the newest 1"],
    }


@pytest.mark.parametrize(("is_defined", "expected"), [(True, 3), (False, 1)])
def test_of_an_image_that_is_no_longer_defined_only_the_last_set_of_its_distribution_stays(
    is_defined: bool, expected: int
) -> None:
    tree = {it.stem: it for it in (candidate("a-base", day) for day in range(1, 6))}
    images = {"a-base"} if is_defined else set()
    kept = mark(tree, rule=Rule(keep=3, age_s=1), now_s=NOW_S, images=images, held={})
    assert len(kept) == expected
    assert "a-base-20260105.1" in kept


def test_a_private_channel_may_become_empty() -> None:
    tree = {it.stem: it for it in (candidate("a-base", 1),)}
    rule = Rule(keep=3, age_s=1)
    assert mark(tree, rule=rule, now_s=NOW_S, images=set(), held={}, keeps_last_good=False) == {}

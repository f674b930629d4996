"""Plans: what is reused, what is built, and the reason given."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.checks import Check
from builder.config import load
from builder.inputs import Inputs
from builder.model import Build, ImageId, Project, Refresh
from builder.plan import Known, Planned, content_key, order, plan

TREE = """\
[distribution.sandbox]
inherits = "el9"
[image.sandbox-base]
distribution = "sandbox"
[image.sandbox-upgrade]
parent = "sandbox-base"
[image.sandbox-bootstrapped]
parent = "sandbox-upgrade"
[image.sandbox-tools]
parent = "sandbox-upgrade"
"""
NAMES = ["sandbox-base", "sandbox-upgrade", "sandbox-bootstrapped", "sandbox-tools"]
INPUTS: dict[str, dict[str, str]] = {name: {"recipe": name} for name in NAMES}
NIGHT = datetime(2026, 11, 22, 2, tzinfo=UTC)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    file = tmp_path / "golden.toml"
    file.write_text(TREE, encoding="utf-8")
    return load(file)


def built(planned: list[Planned]) -> dict[str, Build]:
    """The builds that carrying out a plan leaves behind."""
    found: dict[str, Build] = {}
    for step in planned:
        found[step.image] = step.build or Build(
            id=ImageId(image=step.image, version="20261121.1", sha256=step.key),
            parent=found[step.parent].id if step.parent else None,
            distribution="sandbox",
            description="",
            key=step.key,
            inputs=step.inputs,
            size_bytes=1,
            virtual_bytes=1,
            packages=1,
            packages_sha256="",
            memory_mib=1,
            cpus=1,
            accelerator="tcg",
            started="2026-11-21T02:00:00+00:00",
            finished="2026-11-21T02:10:00+00:00",
            times=(),
            commands=(),
            tools={},
        )
    return found


def make(
    project: Project,
    *,
    wanted: Sequence[str] = NAMES,
    inputs: Mapping[str, Mapping[str, str]] = INPUTS,
    builds: Mapping[str, Build] | None = None,
    older: Iterable[Build] = (),
    gone: str = "",
    rebuild: tuple[str, ...] = (),
    refresh: tuple[str, ...] = (),
    standing: Mapping[str, Build] | None = None,
    checks: Mapping[str, Check] | None = None,
    is_blind: bool = False,
    now: datetime = NIGHT,
) -> list[Planned]:
    return plan(
        project,
        wanted,
        inputs={name: Inputs(values=dict(values), is_blind=is_blind) for name, values in inputs.items()},
        known=Known(
            builds=[*(builds or {}).values(), *older],
            fault=lambda build: f"the file of {build.version} is gone" if build.image == gone else "",
            checks=checks or {},
        ),
        now=now,
        rebuild=rebuild,
        refresh=refresh,
        standing=standing,
    )


def reasons(planned: list[Planned]) -> dict[str, str]:
    return {step.image: step.reason for step in planned if step.action != "reuse"}


def test_parents_come_first_and_once(project: Project) -> None:
    assert order(project, ["sandbox-bootstrapped", "sandbox-tools", "sandbox-base"]) == [
        "sandbox-base",
        "sandbox-upgrade",
        "sandbox-bootstrapped",
        "sandbox-tools",
    ]


def test_everything_is_built_the_first_time(project: Project) -> None:
    assert reasons(make(project)) == {
        "sandbox-base": "never built",
        "sandbox-upgrade": "never built",
        "sandbox-bootstrapped": "never built",
        "sandbox-tools": "never built",
    }


def test_nothing_is_built_the_second_time(project: Project) -> None:
    planned = make(project, builds=built(make(project)))
    assert reasons(planned) == {}
    assert planned[0].reason == "nothing changed since 20261121.1"


def test_a_change_rebuilds_the_layer_and_what_stands_on_it(project: Project) -> None:
    builds = built(make(project))
    changed = INPUTS | {"sandbox-upgrade": {"recipe": "sandbox-upgrade", "repository updates": "sha256 x"}}
    assert reasons(make(project, inputs=changed, builds=builds)) == {
        "sandbox-upgrade": "repository updates is new",
        "sandbox-bootstrapped": "sandbox-upgrade will be built",
        "sandbox-tools": "sandbox-upgrade will be built",
    }


def test_the_reason_names_the_input(project: Project) -> None:
    builds = built(make(project))
    changed = INPUTS | {"sandbox-tools": {"step 1: install": "tree"}}
    assert reasons(make(project, inputs=changed, builds=builds)) == {
        "sandbox-tools": "step 1: install is new, recipe is gone"
    }


def test_a_reason_of_many_changes_is_one_line(project: Project) -> None:
    builds = built(make(project))
    changed = INPUTS | {"sandbox-tools": {"recipe": "sandbox-tools"} | {f"file f/{n}": "sha256 x" for n in range(8)}}
    first_five = ", ".join(f"file f/{n} is new" for n in range(5))
    assert reasons(make(project, inputs=changed, builds=builds)) == {"sandbox-tools": f"{first_five}, and 3 more"}


def test_a_build_without_its_file_does_not_count(project: Project) -> None:
    builds = built(make(project))
    assert reasons(make(project, builds=builds, gone="sandbox-tools")) == {
        "sandbox-tools": "the file of 20261121.1 is gone"
    }


def test_a_child_of_another_build_of_its_parent_does_not_count(project: Project) -> None:
    builds = built(make(project))
    other = builds["sandbox-upgrade"]
    builds["sandbox-upgrade"] = other.model_copy(update={"id": other.id.model_copy(update={"version": "20261121.2"})})
    assert reasons(make(project, builds=builds)) == {
        "sandbox-bootstrapped": "20261121.1 stands on another build of sandbox-upgrade",
        "sandbox-tools": "20261121.1 stands on another build of sandbox-upgrade",
    }


def test_a_rebuild_can_be_asked_for(project: Project) -> None:
    builds = built(make(project))
    assert reasons(make(project, builds=builds, rebuild=("sandbox-tools",))) == {"sandbox-tools": "asked for"}


@given(st.dictionaries(st.text(), st.text(), max_size=5), st.text(), st.text())
def test_a_key_follows_its_inputs_and_nothing_else(inputs: dict[str, str], name: str, value: str) -> None:
    backwards = dict(reversed(inputs.items()))
    assert content_key(inputs) == content_key(backwards)
    if inputs.get(name) != value:
        assert content_key(inputs) != content_key({**inputs, name: value})


def test_builds_that_stand_are_taken_whatever_has_changed(project: Project) -> None:
    builds = built(make(project))
    standing = {name: builds[name] for name in NAMES[:2]}
    found = make(
        project,
        wanted=["sandbox-bootstrapped"],
        inputs={"sandbox-bootstrapped": INPUTS["sandbox-bootstrapped"]},
        builds=builds,
        standing=standing,
    )
    assert [(step.image, step.action, step.reason) for step in found] == [
        ("sandbox-base", "reuse", "it is taken as it stands"),
        ("sandbox-upgrade", "reuse", "it is taken as it stands"),
        ("sandbox-bootstrapped", "reuse", "nothing changed since 20261121.1"),
    ]
    assert found[1].build == builds["sandbox-upgrade"]


def test_a_flat_form_follows_its_source(project: Project) -> None:
    flat = project.images["sandbox-upgrade"].flat()
    project = project.model_copy(update={"images": {**project.images, flat.name: flat}})
    inputs = {**INPUTS, flat.name: {}}

    def planned(inputs: dict[str, dict[str, str]], builds: dict[str, Build]) -> Planned:
        return make(project, wanted=[flat.name], inputs=inputs, builds=builds)[-1]

    first = make(project, wanted=[flat.name], inputs=inputs)
    builds = built(first)
    builds[flat.name] = builds[flat.name].model_copy(update={"parent": None, "flattened": builds["sandbox-upgrade"].id})
    assert planned(inputs, builds).reason == "nothing changed since 20261121.1"
    other = {**inputs, "sandbox-base": {"recipe": "another"}}
    assert planned(other, builds).reason == "sandbox-upgrade will be built"
    assert planned(other, builds).key != first[-1].key
    newer = builds["sandbox-upgrade"].model_copy(
        update={"id": ImageId(image="sandbox-upgrade", version="20261122.1", sha256="0" * 64)}
    )
    assert planned(inputs, {**builds, "sandbox-upgrade": newer}).reason == (
        "20261121.1 stands on another build of sandbox-upgrade"
    )


# --- by the clock ----------------------------------------------------------------------------------------------


UPDATED = INPUTS | {
    name: {"recipe": name, "repository updates": "sha256 new"} for name in ("sandbox-upgrade", "sandbox-bootstrapped")
}
BEFORE = INPUTS | {
    name: {"recipe": name, "repository updates": "sha256 old"} for name in ("sandbox-upgrade", "sandbox-bootstrapped")
}


def refreshed(project: Project, **periods: Refresh) -> Project:
    """sandbox_upgrade="weekly": as golden.toml would say it."""
    images = dict(project.images)
    for name, period in periods.items():
        key = name.replace("_", "-")
        images[key] = images[key].model_copy(update={"refresh": period})
    return project.model_copy(update={"images": images})


def actions(planned: list[Planned]) -> dict[str, str]:
    return {step.image.removeprefix("sandbox-"): step.action for step in planned}


@pytest.mark.parametrize(
    ("period", "hours", "action"),
    [
        ("on-change", 0, "rebuild"),
        ("nightly", 11, "reuse"),
        ("nightly", 12, "refresh"),
        ("weekly", 6 * 24, "reuse"),
        ("weekly", 6 * 24 + 12, "refresh"),
        ("monthly", 29 * 24, "reuse"),
        ("monthly", 29 * 24 + 12, "refresh"),
    ],
)
def test_a_repository_that_changed_waits_for_its_time(
    project: Project, period: Refresh, hours: int, action: str
) -> None:
    builds = built(make(project, inputs=BEFORE))
    now = datetime(2026, 11, 21, 2, tzinfo=UTC) + timedelta(hours=hours)
    weekly = refreshed(project, sandbox_upgrade=period)
    found = make(weekly, wanted=["sandbox-upgrade"], inputs=UPDATED, builds=builds, now=now)
    assert found[-1].action == action


def test_what_waits_says_what_for_and_keeps_its_key(project: Project) -> None:
    builds = built(make(project, inputs=BEFORE))
    weekly = refreshed(project, sandbox_upgrade="weekly", sandbox_bootstrapped="weekly")
    found = make(weekly, inputs=UPDATED, builds=builds)
    assert set(actions(found).values()) == {"reuse"}
    assert found[1].reason == "repository updates changed; it is refreshed weekly, next from 2026-11-27 14:00 UTC"
    assert found[1].due == "2026-11-27T14:00+00:00"
    assert (found[1].key, found[1].inputs) == (builds["sandbox-upgrade"].key, builds["sandbox-upgrade"].inputs)


def test_a_recipe_does_not_wait(project: Project) -> None:
    builds = built(make(project, inputs=BEFORE))
    weekly = refreshed(project, sandbox_upgrade="weekly", sandbox_bootstrapped="monthly", sandbox_tools="monthly")
    changed = BEFORE | {"sandbox-upgrade": BEFORE["sandbox-upgrade"] | {"step 1: install": "{}"}}
    found = make(weekly, inputs=changed, builds=builds)
    assert actions(found) == {"base": "reuse", "upgrade": "rebuild", "bootstrapped": "rebuild", "tools": "rebuild"}
    assert found[2].reason == "sandbox-upgrade will be built"
    assert found[2].why == "sandbox-upgrade will be built: step 1: install is new"


def test_a_child_may_wait_longer_than_its_parent_and_stands_on_the_older_build(project: Project) -> None:
    builds = built(make(project, inputs=BEFORE))
    both = refreshed(project, sandbox_upgrade="nightly", sandbox_tools="monthly")
    found = make(both, inputs=UPDATED, builds=builds)
    assert actions(found) == {"base": "reuse", "upgrade": "refresh", "bootstrapped": "rebuild", "tools": "reuse"}
    assert found[2].reason == "sandbox-upgrade will be refreshed"
    newer = built(found)["sandbox-upgrade"].model_copy(
        update={"id": ImageId(image="sandbox-upgrade", version="20261122.1", sha256="0" * 64)}
    )
    done = {"sandbox-base": builds["sandbox-base"], "sandbox-upgrade": newer}
    after = make(both, wanted=["sandbox-tools"], inputs=UPDATED, builds=builds, older=[newer], standing=done)[-1]
    assert after.build == builds["sandbox-tools"]
    gone = make(
        both, wanted=["sandbox-tools"], inputs=UPDATED, builds=builds, older=[newer], standing=done, gone="sandbox-base"
    )[-1]
    assert gone.reason == "20261121.1 stands on sandbox-base: the file of 20261121.1 is gone"


def test_its_time_came_and_nothing_changed(project: Project) -> None:
    builds = built(make(project))
    nightly = refreshed(project, **dict.fromkeys((name.replace("-", "_") for name in NAMES), "nightly"))
    assert {step.reason for step in make(nightly, builds=builds)} == {
        "its time came (nightly), and nothing changed since 20261121.1"
    }
    blind = make(nightly, builds=builds, is_blind=True)
    assert blind[0].action == "refresh"
    assert blind[0].reason == "its time came (nightly), and golden cannot see all that decides it"
    early = make(nightly, builds=builds, is_blind=True, now=NIGHT - timedelta(hours=13))
    assert reasons(early) == {}


def test_a_refresh_can_be_asked_for(project: Project) -> None:
    builds = built(make(project))
    found = make(project, builds=builds, refresh=("sandbox-upgrade",))
    assert actions(found) == {"base": "reuse", "upgrade": "refresh", "bootstrapped": "rebuild", "tools": "rebuild"}
    assert found[1].reason == "a refresh was asked for"


# --- nothing new -----------------------------------------------------------------------------------------------


def test_a_build_may_go_on_standing_only_if_time_alone_speaks_against_it(project: Project) -> None:
    builds = built(make(project, inputs=BEFORE))
    by_time = make(project, inputs=UPDATED, builds=builds)[1]
    assert (by_time.action, by_time.standing) == ("rebuild", builds["sandbox-upgrade"])
    asked = make(project, inputs=BEFORE, builds=builds, refresh=("sandbox-upgrade",))[1]
    assert asked.standing == builds["sandbox-upgrade"]
    forced = make(project, inputs=UPDATED, builds=builds, rebuild=("sandbox-upgrade",))[1]
    assert forced.standing is None
    gone = make(project, inputs=UPDATED, builds=builds, gone="sandbox-upgrade")[1]
    assert gone.standing is None
    recipe = UPDATED | {"sandbox-upgrade": {"recipe": "other", "repository updates": "sha256 new"}}
    assert make(project, inputs=recipe, builds=builds)[1].standing is None
    # A child of what will be new cannot stand on the old one; it is asked again when its parent is there.
    assert make(project, inputs=UPDATED, builds=builds)[2].standing is None


def test_what_was_checked_is_not_built_again(project: Project) -> None:
    builds = built(make(project, inputs=BEFORE))
    upgrade = make(project, inputs=UPDATED, builds=builds)[1]
    check = Check(
        build=builds["sandbox-upgrade"].id,
        key=upgrade.key,
        inputs=upgrade.inputs,
        texts={},
        reason="",
        at="2026-11-22T02:00:00+00:00",
    )
    found = make(project, inputs=UPDATED, builds=builds, checks={"sandbox-upgrade": check})
    assert actions(found) == {"base": "reuse", "upgrade": "reuse", "bootstrapped": "rebuild", "tools": "reuse"}
    assert found[1].key == builds["sandbox-upgrade"].key
    newest = UPDATED | {"sandbox-upgrade": {"recipe": "sandbox-upgrade", "repository updates": "sha256 newest"}}
    again = make(project, inputs=newest, builds=builds, checks={"sandbox-upgrade": check})
    assert again[1].action == "rebuild"
    other = check.model_copy(update={"build": check.build.model_copy(update={"sha256": "of another build"})})
    assert make(project, inputs=UPDATED, builds=builds, checks={"sandbox-upgrade": other})[1].action == "rebuild"
    # The check counts as the last refresh: from it the period runs.
    nightly = refreshed(project, sandbox_upgrade="nightly")
    kept = make(nightly, inputs=newest, builds=builds, checks={"sandbox-upgrade": check}, now=NIGHT)
    assert (kept[1].action, kept[1].due) == ("reuse", "2026-11-22T14:00+00:00")


# --- properties ------------------------------------------------------------------------------------------------

names = st.sampled_from(["recipe", "step 1: install", "file f", "repository updates", "kickstart"])
some_inputs = st.fixed_dictionaries({name: st.dictionaries(names, st.text(max_size=3), max_size=4) for name in NAMES})


@given(some_inputs, st.permutations(NAMES))
def test_the_same_inputs_give_the_same_keys_whatever_is_asked_for_first(
    inputs: dict[str, dict[str, str]], wanted: list[str]
) -> None:
    project = load_tree()
    one = {step.image: step.key for step in make(project, inputs=inputs)}
    other = {step.image: step.key for step in make(project, inputs=inputs, wanted=wanted)}
    assert one == other
    assert reasons(make(project, inputs=inputs, wanted=wanted, builds=built(make(project, inputs=inputs)))) == {}


@given(some_inputs, st.sampled_from(NAMES), names, st.text(max_size=3))
def test_a_change_reaches_exactly_what_stands_on_it(
    inputs: dict[str, dict[str, str]], changed: str, name: str, value: str
) -> None:
    project = load_tree()
    before = make(project, inputs=inputs)
    after = make(project, inputs=inputs | {changed: {**inputs[changed], name: value}}, builds=built(before))
    is_changed = inputs[changed].get(name) != value
    for old, new in zip(before, after, strict=True):
        stands_on_it = changed in [image.name for image in project.chain(new.image)]
        assert (new.action != "reuse") == (is_changed and stands_on_it)
        assert (new.key != old.key) == (is_changed and stands_on_it)


@given(some_inputs, st.sampled_from(["description", "refresh"]), st.sampled_from(["weekly", "monthly"]))
def test_what_is_no_input_changes_no_key(inputs: dict[str, dict[str, str]], field: str, value: str) -> None:
    project = load_tree()
    images = {name: image.model_copy(update={field: value}) for name, image in project.images.items()}
    other = project.model_copy(update={"images": images})
    assert [step.key for step in make(project, inputs=inputs)] == [step.key for step in make(other, inputs=inputs)]


@cache
def load_tree() -> Project:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "golden.toml"
        file.write_text(TREE, encoding="utf-8")
        return load(file)

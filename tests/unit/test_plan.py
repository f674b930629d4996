"""Plans: what is reused, what is built, and the reason given."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.config import load
from builder.model import Build, ImageId, Project
from builder.plan import Planned, content_key, order, plan

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
INPUTS = {name: {"recipe": name} for name in NAMES}


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
            started="",
            finished="",
            times=(),
            commands=(),
            tools={},
        )
    return found


def make(
    project: Project,
    *,
    inputs: dict[str, dict[str, str]] = INPUTS,
    builds: dict[str, Build] | None = None,
    gone: str = "",
    rebuild: tuple[str, ...] = (),
) -> list[Planned]:
    return plan(
        project,
        NAMES,
        inputs=inputs,
        builds=builds or {},
        is_present=lambda build: build.image != gone,
        rebuild=rebuild,
    )


def reasons(planned: list[Planned]) -> dict[str, str]:
    return {step.image: step.reason for step in planned if step.action == "build"}


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
    found = plan(
        project,
        ["sandbox-bootstrapped"],
        inputs={"sandbox-bootstrapped": INPUTS["sandbox-bootstrapped"]},
        builds=builds,
        is_present=lambda build: True,
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
        return plan(project, [flat.name], inputs=inputs, builds=builds, is_present=lambda build: True)[-1]

    first = plan(project, [flat.name], inputs=inputs, builds={}, is_present=lambda build: True)
    builds = built(first)
    builds[flat.name] = builds[flat.name].model_copy(update={"parent": None, "flattened": builds["sandbox-upgrade"].id})
    assert planned(inputs, builds).reason == "nothing changed since 20261121.1"
    other = {**inputs, "sandbox-base": {"recipe": "another"}}
    assert planned(other, builds).reason == "sandbox-upgrade will be built"
    assert planned(other, builds).key != first[-1].key
    newer = builds["sandbox-upgrade"].model_copy(
        update={"id": ImageId(image="sandbox-upgrade", version="20261122.1", sha256="x")}
    )
    assert planned(inputs, {**builds, "sandbox-upgrade": newer}).reason == (
        "20261121.1 stands on another build of sandbox-upgrade"
    )

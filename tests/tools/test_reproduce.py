"""What `golden reproduce` says of a build, without making it again; tests/vm does that."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import config
from builder.decision import Decision
from builder.errors import ConfigError
from builder.model import Build, Project
from builder.reproduce import recipe
from builder.store import Store, write_atomically
from tests.builds import add_build

TEXT = """
[distribution.sandbox]
inherits = "el9"
source = { dvd = "x.iso" }
[image.sandbox-base]
distribution = "sandbox"
[image.sandbox-app]
parent = "sandbox-base"
steps = [{ run = "%s" }]
"""


def project(folder: Path, command: str = "true") -> Project:
    (folder / "golden.toml").write_text(TEXT % command)
    return config.load(folder / "golden.toml")


@pytest.fixture
def app(store: Store, tmp_path: Path) -> Build:
    """A build whose key is the one that its recipe has."""
    base = add_build(store, "sandbox-base")
    (step,) = [
        it
        for it in Decision(project(tmp_path), store, ["sandbox-app"], standing={"sandbox-base": base}).plan()
        if it.image == "sandbox-app"
    ]
    made = add_build(store, "sandbox-app", parent=base)
    made = made.model_copy(update={"inputs": step.inputs, "key": step.key, "commands": ("true",)})
    write_atomically(store.facts(made), made.model_dump_json() + "\n", mode=0o444)
    return made


def test_nothing_changed(store: Store, app: Build, tmp_path: Path) -> None:
    found = recipe(project(tmp_path), store, app)
    assert found.changed == ()
    assert (found.stands_on, found.commands, found.key) == ("sandbox-base-20261121.1", ("true",), app.key)
    add_build(store, "sandbox-base", version="20261122.1")  # a newer parent does not matter: the old one is taken
    assert recipe(project(tmp_path), store, app).changed == ()


def test_the_input_that_changed_is_named(store: Store, app: Build, tmp_path: Path) -> None:
    (difference,) = recipe(project(tmp_path, "false"), store, app).changed
    assert difference.input == "step 1: run"
    assert "true" in str(difference.then) and "false" in str(difference.now)


def test_what_cannot_be_made_again_is_said(store: Store, app: Build, tmp_path: Path) -> None:
    gone = project(tmp_path).model_copy(update={"images": {}})
    with pytest.raises(ConfigError, match="does not define 'sandbox-app' any more"):
        recipe(gone, store, app)
    flat = app.model_copy(update={"flattened": app.id, "parent": None})
    with pytest.raises(ConfigError, match="is the flat form of") as refused:
        recipe(project(tmp_path), store, flat)
    assert refused.value.try_next == "golden reproduce sandbox-app@20261121.1"
    image = project(tmp_path).images["sandbox-app"].model_copy(update={"parent": None})
    moved = project(tmp_path).model_copy(update={"images": {"sandbox-app": image}})
    with pytest.raises(ConfigError, match="stands on nothing now"):
        recipe(moved, store, app)

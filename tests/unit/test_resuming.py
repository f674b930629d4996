"""Which checkpoint a failed build is gone on from: the newest before which nothing of the recipe changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from builder import rewind
from builder.checkpoints import FILE, Checkpoint, Record, Trail, boot_id
from builder.cli import golden as commands
from builder.config import load
from builder.errors import ConfigError, GoldenError
from builder.inputs import Repositories, image_inputs
from builder.layer import phases
from builder.model import Image, ImageId, Project
from builder.resuming import Found, find, remaining
from builder.steps import Install, Shell

TREE = """\
[project]
ssh_key = "id"
[distribution.s]
inherits = "el9"
repositories = { updates = "updates" }
[image.s-base]
distribution = "s"
[image.s-app]
parent = "s-base"
steps = [
  { copy = { "files" = "/opt" } },
  { install = ["one"] },
  { shell = "two" },
  { shell = "three" },
]
"""
PARENT = ImageId(image="s-base", version="20261121.1", sha256="0" * 64)
CHECKPOINTS = tuple(Checkpoint(after=number, disk=f"disk.{number}.qcow2") for number in (2, 3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path, text in {
        "golden.toml": TREE,
        "id.pub": "ssh-ed25519 AAAA golden",
        "files/a": "text",
        "updates/repodata/repomd.xml": "<repomd/>",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def current(folder: Path) -> tuple[Project, Image, dict[str, str]]:
    project = load(folder / "golden.toml")
    image = project.images["s-app"]
    known = Repositories(state=folder / "state")
    return project, image, image_inputs(project, image, state=folder, repositories=known).values


@pytest.fixture
def trail(folder: Path) -> Trail:
    """A build that failed at step 4."""
    work = folder / "work"
    work.mkdir()
    for it in CHECKPOINTS:
        (work / it.disk).touch()
    record = Record(
        image="s-app",
        version="20261121.1",
        parent=PARENT,
        inputs=current(folder)[2],
        files=("disk.2.qcow2", "disk.3.qcow2", "disk.4.qcow2"),
        checkpoints=CHECKPOINTS,
        boot=boot_id(),
    )
    return Trail(work, record)


def found(folder: Path, trail: Trail, *, parent: ImageId = PARENT) -> Found:
    project, image, inputs = current(folder)
    return find(project, image, inputs, parent=parent, trail=trail)


def change(folder: Path, old: str, new: str) -> None:
    text = (folder / "golden.toml").read_text()
    assert old in text
    (folder / "golden.toml").write_text(text.replace(old, new))


def after(it: Found) -> int | None:
    return it.checkpoint.after if it.checkpoint else None


def test_from_the_newest_if_only_what_failed_was_mended(folder: Path, trail: Trail) -> None:
    assert after(found(folder, trail)) == 3
    change(folder, '"three"', '"mended"')
    it = found(folder, trail)
    assert after(it) == 3
    assert it.inputs["step 4: shell"] == '{"commands":["mended"]}'


def test_from_an_earlier_one_if_a_step_before_was_changed(folder: Path, trail: Trail) -> None:
    change(folder, '"two"', '"other"')
    assert after(found(folder, trail)) == 2


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"one"', '"two"', "step 2: install changed"),
        ("{ copy =", '{ run = "x" }, { copy =', "step 1: run is new, step 2: copy is new, "),
        ('"/opt"', '"/srv"', "step 1: copy changed"),
    ],
)
def test_not_at_all_if_all_are_after_the_change(folder: Path, trail: Trail, old: str, new: str, reason: str) -> None:
    change(folder, old, new)
    it = found(folder, trail)
    assert it.checkpoint is None
    assert it.reason.startswith(reason)


def test_files_count_with_the_step_that_reads_them(folder: Path, trail: Trail) -> None:
    (folder / "files" / "b").write_text("new")
    it = found(folder, trail)
    assert (it.checkpoint, it.reason) == (None, "file files/b is new")
    (folder / "files" / "b").unlink()
    (folder / "files" / "a").unlink()
    assert found(folder, trail).reason == "file files/a is gone"


def test_packages_that_were_taken_are_those_of_then(folder: Path, trail: Trail) -> None:
    """No step that is left takes any, so what the repository holds now does not matter; the key says what was taken."""
    (folder / "updates/repodata/repomd.xml").write_text("<repomd>newer</repomd>")
    it = found(folder, trail)
    assert after(it) == 3
    assert it.inputs == trail.record.inputs
    change(folder, '{ shell = "three" }', '{ shell = "three" }, { install = ["three"] }')
    it = found(folder, trail)
    assert (it.checkpoint, it.reason) == (None, "repository updates changed")


def test_a_parent_that_moved_and_a_host_that_went_down(folder: Path, trail: Trail) -> None:
    newer = ImageId(image="s-base", version="20261122.1", sha256="1" * 64)
    assert (
        found(folder, trail, parent=newer).reason
        == "it stands on s-base-20261121.1, and the newest is s-base-20261122.1"
    )
    rebooted = Trail(trail.work, trail.record.model_copy(update={"boot": "another"}))
    assert found(folder, rebooted).reason == "this machine went down since, or its files are gone"


STEPS = (Install(packages=("a",)), Install(packages=("b",)), Shell(commands=("c",)), Shell(commands=("d",)))


@pytest.mark.parametrize(
    ("checkpoint", "titles"),
    [
        (None, ["install + install", "shell + shell", "seal"]),
        (Checkpoint(after=0, disk="d"), ["install + install", "shell + shell", "seal"]),
        (Checkpoint(after=2, disk="d"), ["shell + shell", "seal"]),
        (Checkpoint(after=3, disk="d"), ["shell", "seal"]),
        (Checkpoint(after=4, disk="d"), ["seal"]),
        (Checkpoint(after=4, disk="d", is_sealed=True), []),
    ],
)
def test_what_is_left_to_do(checkpoint: Checkpoint | None, titles: list[str]) -> None:
    assert [phase.title for phase in remaining(phases(STEPS), checkpoint)] == titles


def test_an_imported_image_is_prepared_once() -> None:
    all_phases = phases((Shell(commands=("a",)),), prepares=True)
    raw, prepared = (Checkpoint(after=0, disk="d", is_prepared=it) for it in (False, True))
    assert [phase.title for phase in remaining(all_phases, raw)] == ["prepare", "shell", "seal"]
    assert [phase.title for phase in remaining(all_phases, prepared)] == ["shell", "seal"]


@pytest.mark.parametrize(
    ("step", "expected"),
    [(None, 3), ("4", 3), ("4-shell", 3), ("seal", 3), ("3", 2), ("3-shell", 2), ("2", None), ("1", None)],
)
def test_the_state_before_a_step(folder: Path, trail: Trail, step: str | None, expected: int | None) -> None:
    checkpoint = rewind.state_before(current(folder)[1], trail, step)
    assert (checkpoint.after if checkpoint else None) == expected


def test_a_step_that_there_is_not(folder: Path, trail: Trail) -> None:
    with pytest.raises(
        ConfigError, match="'s-app' has no step '7'; there are 1-copy, 2-install, 3-shell, 4-shell, seal"
    ):
        rewind.state_before(current(folder)[1], trail, "7")
    base = Trail(trail.work, trail.record.model_copy(update={"parent": None}))
    with pytest.raises(ConfigError, match="the failed build of 's-app' has kept no state before step 1"):
        rewind.state_before(current(folder)[1], base, "1")


# --- on the command line ---------------------------------------------------------------------------------------


def golden(folder: Path, *words: str) -> Result:
    argv = ["--file", str(folder / "golden.toml"), "--state", str(folder / "state"), *words]
    result = CliRunner().invoke(commands, argv)
    if isinstance(result.exception, GoldenError):
        raise result.exception
    return result


def test_there_is_nothing_to_resume(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no failed build has left a checkpoint"):
        golden(folder, "resume")
    with pytest.raises(ConfigError, match=r"there is no image 's-ap' in golden\.toml"):
        golden(folder, "resume", "s-ap")
    with pytest.raises(ConfigError, match="no failed build of 's-app' has left a checkpoint") as none:
        golden(folder, "shell", "s-app")
    assert none.value.try_next == "golden clone create NAME --image s-app, for a machine of what is built"


def test_a_dry_run_says_from_where_it_would_go_on(folder: Path, trail: Trail) -> None:
    name = load(folder / "golden.toml").name
    place = folder / "state" / name / "work" / "s-app-20261121.1"
    place.mkdir(parents=True)
    (place / FILE).write_text(trail.record.model_dump_json())
    found = json.loads(golden(folder, "resume", "--dry-run", "--json").stdout)
    assert found == [{"image": "s-app", "version": "20261121.1", "state": "after step 3-shell"}]
    with pytest.raises(ConfigError, match="'s-app' has no step '9'"):
        golden(folder, "shell", "s-app", "--at", "9", "--", "true")

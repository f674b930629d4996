"""Files that recipes read: what counts of them, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder.errors import ConfigError
from builder.inputs import image_inputs, need_unchanged
from builder.model import Distribution, Image, Project
from builder.steps import Ansible, Copy, Run, SshKeys, Step
from builder.trees import digests, entries

NAMES = ["a b", "it's", '"q"', "-rf", "$(touch x)", "é ü", "back\\slash", "semi;colon"]


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "files" / "app"
    (folder / "empty").mkdir(parents=True)
    for name in NAMES:
        (folder / name).write_text(name)
    (folder / "run").write_text("#!/bin/sh\n")
    (folder / "run").chmod(0o755)
    (folder / "link").symlink_to("/etc/shadow")
    return folder


def test_everything_is_found_and_links_stay_links(tmp_path: Path, app: Path) -> None:
    found = {entry.relative: entry for entry in entries(tmp_path, "files/app")}
    assert set(found) == {"", "empty", "run", "link", *NAMES}
    assert (found["link"].kind, found["link"].target) == ("link", "/etc/shadow")
    assert [name for name, entry in found.items() if entry.is_executable] == ["run"]


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda app: (app / "run").write_text("#!/bin/bash\n"), ["files/app/run"]),
        (lambda app: (app / "run").chmod(0o644), ["files/app/run"]),
        (lambda app: (app / "new").write_text(""), ["files/app/new"]),
        (lambda app: (app / "empty").rmdir(), ["files/app/empty"]),
        (lambda app: ((app / "link").unlink(), (app / "link").symlink_to("/etc/group")), ["files/app/link"]),
        (lambda app: (app / "run").chmod(0o775), []),
        (lambda app: os.utime(app / "run", (1, 1)), []),
        (lambda app: ((app / "__pycache__").mkdir(), (app / "__pycache__" / "x.pyc").write_text("")), []),
    ],
    ids=["bytes", "executable", "new", "gone", "target", "group may write", "time", "python's own"],
)
def test_what_counts(tmp_path: Path, app: Path, change: object, names: list[str]) -> None:
    before = digests(tmp_path, "files/app")
    change(app)  # type: ignore[operator]
    after = digests(tmp_path, "files/app")
    assert [name for name in {**before, **after} if before.get(name) != after.get(name)] == names


def test_a_folder_of_very_many_files_is_one_input(tmp_path: Path, app: Path) -> None:
    for number in range(600):
        (app / str(number)).write_text("")
    (name, text), *others = digests(tmp_path, "files/app").items()
    assert (name, others) == ("files/app", [])
    assert text.startswith("612 files, sha256 ")


def test_what_is_refused(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_text("")
    (project / "way-out").symlink_to(tmp_path / "outside")
    os.mkfifo(project / "pipe")
    (project / "f").mkdir()
    (project / "f" / "a\nb").write_text("")
    for source, message in (
        ("nothing", "'nothing' is not in the project: there is no "),
        ("way-out/x", "'way-out/x' leads out of the project: "),
        ("pipe", "is no file, folder or link, and cannot be copied"),
        ("f", "a file has control characters in its name: "),
    ):
        with pytest.raises(ConfigError) as caught:
            entries(project, source)
        assert message in caught.value.what
        assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("step", "changed"),
    [
        (Copy(paths={"files/app": "/opt/app"}), "file files/app/run"),
        (Run(script="files/app/run"), "file files/app/run"),
        (SshKeys(keys=("files/app/run",)), "file files/app/run"),
        (Ansible(playbook="files/app/site.yml"), "file files/app/run"),
        (Ansible(playbook="other/site.yml", roles=("files/app",)), "file files/app/run"),
    ],
    ids=["copy", "script", "sshkeys", "playbook", "roles"],
)
def test_a_changed_file_changes_the_layer_s_inputs(tmp_path: Path, app: Path, step: Step, changed: str) -> None:
    (tmp_path / "other").mkdir()
    project = Project(
        file=tmp_path / "golden.toml",
        name="p",
        prefix="golden",
        ssh_key=tmp_path / "key",
        url="",
        distributions={
            "s": Distribution(name="s", title="S", kickstart_version="RHEL9", kickstart="k", osinfo="rocky9")
        },
        images={"s-app": Image(name="s-app", distribution="s", layer="app", parent="s-base", steps=(step,))},
    )
    before = image_inputs(project, project.images["s-app"], state=tmp_path).values
    (app / "run").write_text("other")
    after = image_inputs(project, project.images["s-app"], state=tmp_path).values
    assert [name for name in before if before[name] != after[name]] == [changed]
    need_unchanged(project, project.images["s-app"], after)
    with pytest.raises(ConfigError) as caught:
        need_unchanged(project, project.images["s-app"], before)
    assert caught.value.what == f"the project changed while 's-app' was being built: {changed}"

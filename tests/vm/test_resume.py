"""A failed last step costs that step alone; a build in which nothing new came out changes nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.conftest import Golden, what_is_left

DEFINITION = """
[image.sandbox-resumed]
parent = "sandbox-upgrade"
steps = [
  { shell = "cat /proc/sys/kernel/random/boot_id >> /etc/first" },
  { shell = "cat /proc/sys/kernel/random/boot_id >> /etc/second" },
  { shell = "touch /etc/third; ls /nowhere" },
]
"""

MENDED = """\
test $(wc -l < /etc/first) = 1
test $(wc -l < /etc/second) = 1
test "$(cat /etc/first)" = "$(cat /etc/second)"
test ! -e /etc/third
"""


@pytest.fixture
def project(golden: Golden, open_folder: Path) -> Iterator[Golden]:
    yield golden.with_images(open_folder, DEFINITION)
    for path in [*golden.store.glob("images/sandbox-resumed-*"), *golden.store.glob("images/.sandbox-resumed-*")]:
        path.unlink()
    for folder in [*golden.store.glob("work/*"), *golden.store.glob("logs/sandbox-resumed-*")]:
        shutil.rmtree(folder)


def test_a_failed_last_step_costs_that_step(project: Golden) -> None:
    ended = project("build", "sandbox-resumed", expect=4)
    assert "could not run step 3 (shell) in the guest" in ended.stderr
    assert "checkpoint: the state after step 2: shell" in ended.stderr
    assert "golden resume sandbox-resumed  once the cause is mended" in ended.stderr
    (work,) = project.store.glob("work/*")

    before = project("shell", "sandbox-resumed", "--at", "2", "--", "ls /etc/first /etc/second", expect=2)
    assert before.stdout == "/etc/first\n"
    assert not list((project.store / "shell").iterdir())

    text = project.file.read_text()
    project.file.write_text(text.replace('"touch /etc/third; ls /nowhere"', f"'''{MENDED}'''"))
    resumed = project("resume")
    version = work.name.removeprefix("sandbox-resumed-")
    assert f"sandbox-resumed: {version} goes on after step 2: shell" in resumed.stderr
    logs = project.store / "logs" / work.name
    assert (logs / "1-shell.log").read_text().count("$ ssh") == 1
    assert (logs / "3-shell.log").read_text().count("$ ssh") == 2
    assert what_is_left(project) == []

    (*_, planned) = project("plan", "sandbox-resumed", "--json").json
    assert (planned["action"], planned["build"]) == ("reuse", version)
    found = project("show", "sandbox-resumed", "--json").json
    backing = subprocess.run(
        ["qemu-img", "info", "--output=json", found["file"]], capture_output=True, check=True
    ).stdout
    parent = found["parent"]
    assert json.loads(backing)["backing-filename"] == f"{parent['image']}-{parent['version']}.qcow2"


@pytest.mark.usefixtures("store_is_untouched")
def test_new_metadata_without_a_new_package_changes_nothing(project: Golden) -> None:
    """The repomd.xml differs, as of a repository that was made again; what is in it does not."""
    updates = project.file.parent / "updates"
    source = updates.resolve()
    updates.unlink()
    shutil.copytree(source, updates)
    with (updates / "repodata" / "repomd.xml").open("a") as file:
        file.write("<!-- made again -->\n")
    try:
        (_, planned) = project("plan", "sandbox-upgrade", "--json").json
        assert (planned["action"], planned["reason"]) == ("rebuild", "repository updates changed")
        before = project("show", "sandbox-upgrade", "--json").json
        ended = project("build", "sandbox-upgrade", "--json")
        version = before["id"]["version"]
        assert f"sandbox-upgrade: nothing new: the same recipe and packages; {version} stands" in ended.stderr
        assert ended.json[1] == before
        rows = project("plan", "sandbox-upgrade", "sandbox-tools-installed", "--json").json
        assert [(row["image"], row["action"]) for row in rows] == [
            ("sandbox-base", "reuse"),
            ("sandbox-upgrade", "reuse"),
            # Its own packages are of that repository, too; its parent has not moved.
            ("sandbox-tools-installed", "rebuild"),
        ]
        assert rows[2]["reason"] == "repository updates changed"
        assert what_is_left(project) == []
    finally:
        shutil.rmtree(project.store / "checked", ignore_errors=True)

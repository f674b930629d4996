"""A failed last step costs that step alone; a build in which nothing new came out changes nothing."""

from __future__ import annotations

import json
import mmap
import re
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

OFFLINE = """
[image.sandbox-resumed]
parent = "sandbox-upgrade"
steps = [
  { run = "cat /proc/sys/kernel/random/boot_id >> /etc/first" },
  { run = "touch /etc/begun; ls /nowhere" },
]
"""

MENDED_OFFLINE = """[
  "test ! -e /etc/begun",
  "cat /proc/sys/kernel/random/boot_id >> /etc/second",
  "cat /etc/first /etc/second",
]"""

MENDED = """\
test $(wc -l < /etc/first) = 1
test $(wc -l < /etc/second) = 1
test "$(cat /etc/first)" = "$(cat /etc/second)"
test ! -e /etc/third
"""


@pytest.fixture
def project(golden: Golden, open_folder: Path, request: pytest.FixtureRequest) -> Iterator[Golden]:
    """With the image sandbox-resumed, of DEFINITION if the test does not say of what."""
    yield golden.with_images(open_folder, getattr(request, "param", DEFINITION))
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


@pytest.mark.parametrize("project", [OFFLINE], indirect=True, ids=["offline"])
def test_an_offline_step_that_failed_costs_that_step(project: Golden, open_folder: Path) -> None:
    ended = project("build", "sandbox-resumed", expect=4)
    assert "checkpoint: the state after step 1: run" in ended.stderr
    assert "ls: cannot access '/nowhere'" in ended.stderr
    assert "golden resume sandbox-resumed  once the cause is mended" in ended.stderr
    (work,) = project.store.glob("work/*")

    text = project.file.read_text()
    project.file.write_text(text.replace('"touch /etc/begun; ls /nowhere"', MENDED_OFFLINE))
    resumed = project("resume", "sandbox-resumed", "--json")
    (*_, build) = resumed.json
    assert build["id"]["version"] == work.name.removeprefix("sandbox-resumed-")
    assert f"{build['id']['version']} goes on after step 1: run" in resumed.stderr
    assert what_is_left(project) == []

    # Each step ran once, in a start of the appliance of its own.
    said = (project.store / "logs" / work.name / "2-run.log").read_text()
    first, second = re.findall(r"^[0-9a-f]{8}-[0-9a-f-]{27}$", said, flags=re.MULTILINE)
    assert first != second
    # And both are in the image: a file's block has that one line, and nothing behind it.
    raw = open_folder / "raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", build["file"], raw], check=True)
    with raw.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as disk:
        for line in (first, second):
            assert disk.find(f"{line}\n".encode().ljust(4096, b"\0")) % 4096 == 0, line


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

"""Builds that fail and are gone on from, and builds of which nothing new comes: the real pipeline on real qcow2 files.

Only libguestfs' appliance is a stand-in: a `virt-customize` that writes a byte for each step into the disk it is given,
at a place of the step's own, fails where a step says so, and leaves a package list as a guest does.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from builder import pipeline as pipelines
from builder.checkpoints import left
from builder.errors import ToolError
from builder.model import Build, Image, Project, Repository
from builder.pipeline import Host, Pipeline, decide
from builder.plan import Planned
from builder.preflight import Accelerator
from builder.progress import Reporter
from builder.run import query
from builder.steps import Install, Run, Step
from builder.store import Store
from builder.tools import qemu_img
from builder.tools.libvirt import connect
from tests.builds import add_build, make_project

APPLIANCE = f"""\
#!{sys.executable}
import io, re, subprocess, sys, tarfile
from pathlib import Path
if "--version" in sys.argv:
    sys.exit(print("virt-customize 1.48"))
words = sys.argv[1:]
added = [words[n + 1] for n, word in enumerate(words) if word == "--add"]
with open({{calls!r}}, "a") as calls:
    for script in [words[n + 1] for n, word in enumerate(words) if word == "--run"]:
        print(f"[   1.0] Running: {{{{script}}}}", flush=True)
        calls.write(Path(script).stem + "\\n")
        if step := re.match(r"([0-9]+)-", Path(script).name):
            text = Path(script).read_text()
            if "FAIL" in text:
                sys.exit("it was to fail")
            said = re.search(r"echo ([0-9]+)", text)
            byte = int(said[1]) if said else 99
            place = 1024 + 64 * int(step[1])
            subprocess.run(["qemu-io", "-c", f"write -q -P {{{{byte}}}} {{{{place}}}}k 64k", added[0]], check=True)
    calls.write("---\\n")
with tarfile.open(added[1], "w:") as archive:
    for name, text in (("packages", {{packages!r}}), ("log", "")):
        member = tarfile.TarInfo(name)
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text.encode()))
"""


class Stage:
    """A project whose image sandbox-app stands on a small base, its store, and the stand-in on PATH."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        (folder / "keys").mkdir()
        (folder / "keys/id_ed25519.pub").write_text("ssh-ed25519 AAAA golden\n")
        (folder / "bin").mkdir()
        self.packages("bash-5-1.x86_64\n")
        monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
        self.store = Store(folder / "state", "demo")
        self.base = add_build(self.store, "sandbox-base")

    def packages(self, text: str) -> None:
        """What every guest has from now on."""
        program = self.folder / "bin" / "virt-customize"
        program.write_text(APPLIANCE.format(calls=str(self.folder / "calls"), packages=text))
        program.chmod(0o755)

    def project(self, *steps: Step) -> Project:
        found = make_project(self.folder)
        image = Image(
            name="sandbox-app",
            distribution="sandbox",
            layer="app",
            parent="sandbox-base",
            steps=steps,
        )
        return found.model_copy(update={"images": {"sandbox-base": found.images["sandbox-base"], image.name: image}})

    def build(self, *steps: Step, resume: bool = False, refresh: bool = False) -> Build:
        (self.folder / "calls").write_text("")
        pipeline = Pipeline(
            self.project(*steps),
            self.store,
            host=Host(uri="qemu:///system", accelerator=Accelerator(kind="tcg", reason="test")),
            reporter=Reporter("quiet"),
            standing={"sandbox-base": self.base},
        )
        names = ["sandbox-app"]
        with connect() as connection:
            *_, made = pipeline.build(
                names, resume=names if resume else [], refresh=names if refresh else [], connection=connection
            )
        return made

    def plan(self, *steps: Step) -> Planned:
        return decide(self.project(*steps), self.store, ["sandbox-app"], standing={"sandbox-base": self.base})[-1]

    def calls(self) -> list[list[str]]:
        """The scripts of each start of the appliance."""
        text = (self.folder / "calls").read_text()
        return [start.split() for start in text.split("---\n") if start]

    def steps(self) -> list[list[str]]:
        """The recipe's steps among them."""
        return [[name for name in start if name[0].isdigit()] for start in self.calls()]

    def bytes(self, build: Build, *steps: int) -> list[int | None]:
        """What the disk holds at the places of `steps`."""
        disk, found = self.store.qcow2(build), []
        for step in steps:
            line = query(["qemu-io", "-r", "-c", f"read -v {(1024 + 64 * step) * 1024} 16", disk], why="read")
            found.append(int(line.split()[1], 16))
        return found


@pytest.fixture
def stage(open_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(open_path, monkeypatch)


def say(number: int) -> Run:
    return Run(commands=(f"echo {number}",))


FAIL = Run(commands=("FAIL",))


def test_an_offline_step_that_failed_twice_is_repeated_alone(stage: Stage) -> None:
    with pytest.raises(ToolError) as failed:
        stage.build(say(11), say(12), FAIL)
    assert failed.value.try_next == "golden resume sandbox-app  once the cause is mended"
    assert stage.steps() == [["1-run", "2-run", "3-run"]]

    with pytest.raises(ToolError) as again:
        stage.build(say(11), say(12), FAIL, resume=True)
    assert dict(again.value.details)["checkpoint"] == "the state after step 2: run"
    assert "golden shell sandbox-app" in (again.value.try_next or "")
    assert stage.steps() == [["1-run", "2-run"], ["3-run"]]

    made = stage.build(say(11), say(12), say(13), resume=True)
    assert stage.steps() == [["3-run"]]
    assert stage.bytes(made, 1, 2, 3) == [11, 12, 13]
    assert made.parent == stage.base.id
    assert made.reason.endswith(", after step 2: run")
    qemu_img.verify_chain(stage.store.qcow2(made), [stage.store.qcow2(stage.base)])
    assert left(stage.store) == []
    assert not list(stage.store.work.iterdir())
    assert stage.plan(say(11), say(12), say(13)).action == "reuse"


def test_a_step_before_the_checkpoint_was_changed(stage: Stage) -> None:
    for resume in (False, True):
        with pytest.raises(ToolError):
            stage.build(say(11), FAIL, resume=resume)
    made = stage.build(say(21), say(22), resume=True)
    assert stage.bytes(made, 1, 2) == [21, 22]
    assert stage.steps() == [["1-run"], ["2-run"]]


def test_a_build_begins_anew_and_forgets_what_failed(stage: Stage) -> None:
    for resume in (False, True):
        with pytest.raises(ToolError):
            stage.build(say(11), FAIL, resume=resume)
    assert len(left(stage.store)) == 1
    made = stage.build(say(11), say(12))
    assert stage.steps() == [["1-run", "2-run"]]
    assert stage.bytes(made, 1, 2) == [11, 12]
    assert left(stage.store) == []


def test_what_cannot_be_compressed_is_not_done_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything in the guest is done: only what comes after it is tried again."""
    for resume in (False, True):
        with pytest.raises(ToolError):
            stage.build(say(11), FAIL, resume=resume)

    def no_room(*_: object, **__: object) -> None:
        raise ToolError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(pipelines.seal, "compress", no_room)
        with pytest.raises(ToolError, match="no room"):
            stage.build(say(11), say(12), resume=True)
    made = stage.build(say(11), say(12), resume=True)
    assert stage.calls() == []
    assert stage.bytes(made, 1, 2) == [11, 12]


def test_a_refresh_with_nothing_new_keeps_the_old_build(stage: Stage) -> None:
    first = stage.build(say(11))
    again = stage.build(say(11), refresh=True)
    assert again == first
    assert stage.calls() != []
    assert [build.stem for build in stage.store.builds("sandbox-app")] == [first.stem]
    assert not list(stage.store.work.iterdir())
    assert stage.plan(say(11)).action == "reuse"

    stage.packages("bash-5-2.x86_64\n")
    newer = stage.build(say(11), refresh=True)
    assert newer.version != first.version


def test_the_same_repository_is_not_tried_twice(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stage.folder / "updates"
    (folder / "repodata").mkdir(parents=True)
    repomd = folder / "repodata" / "repomd.xml"
    repomd.write_text("<repomd>one</repomd>")
    plain = stage.project

    def project(*steps: Step) -> Project:
        found = plain(*steps)
        updates = (Repository(name="updates", location=str(folder)),)
        sandbox = found.distributions["sandbox"].model_copy(update={"repositories": updates})
        return found.model_copy(update={"distributions": {"sandbox": sandbox}})

    monkeypatch.setattr(stage, "project", project)
    step = Install(packages=("bash",))
    first = stage.build(step)
    repomd.write_text("<repomd>two</repomd>")
    assert stage.plan(step).reason == "repository updates changed"
    assert stage.build(step) == first
    assert stage.calls() != []
    assert stage.plan(step).action == "reuse"
    assert stage.build(step) == first
    assert stage.calls() == []
    repomd.write_text("<repomd>three</repomd>")
    assert stage.plan(step).action == "rebuild"

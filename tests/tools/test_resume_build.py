"""Builds that fail and are gone on from, and builds of which nothing new comes: the real pipeline on real qcow2 files.

Machines are real ones of libvirt's, with no operating system in them. Stand-ins are `ssh`, which writes down what it is
to run in the guest, fails where that says so, and switches the machine off when it is asked to; and `virt-customize`,
which has a real QEMU write a byte for each step into the disk it is given, at a place of the step's own, fails where a
step says so, and leaves a package list as a guest does.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from builder import pipeline as pipelines
from builder import rewind
from builder.checkpoints import left
from builder.decision import Decision
from builder.errors import ToolError, VerifyError
from builder.layer import domain_prefix
from builder.media import Repository
from builder.model import Build, Image, Project
from builder.pipeline import Pipeline
from builder.plan import Planned
from builder.preflight.kvm import Accelerator
from builder.progress import Reporter
from builder.run import query
from builder.steps import Install, Run, Shell, Step
from builder.store import Store
from builder.tools import qcow2
from builder.tools.libvirt import connect
from builder.workshop import Host
from tests.builds import add_build, make_project

APPLIANCE = f"""\
#!{sys.executable}
import io, json, os, re, subprocess, sys, tarfile
from pathlib import Path
if "--version" in sys.argv:
    sys.exit(print("virt-customize 1.48"))
words = sys.argv[1:]
added = [words[n + 1] for n, word in enumerate(words) if word == "--add"]
qemu = subprocess.Popen(
    [os.environ.get("LIBGUESTFS_HV", "qemu-system-x86_64"), "-machine", "none", "-nodefaults", "-display", "none"]
    + ["-drive", f"file={{{{added[0]}}}},format=qcow2,id=hd0,if=none", "-qmp", "stdio"],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
)
def ask(command, **arguments):
    print(json.dumps({{{{"execute": command, "arguments": arguments}}}}), file=qemu.stdin, flush=True)
    while not (line := qemu.stdout.readline()).startswith('{{{{"return"'):
        assert line and "error" not in line, line  # what QEMU says beside its answers
def quit(word=None):
    ask("quit")
    qemu.wait()
    if word:
        sys.exit(word)
qemu.stdout.readline()
ask("qmp_capabilities")
with open({{calls!r}}, "a") as calls:
    for script in [words[n + 1] for n, word in enumerate(words) if word == "--run"]:
        print(f"[   1.0] Running: {{{{script}}}}", flush=True)
        text = Path(script).read_text()
        calls.write(Path(script).stem + "\\n")
        if step := re.match(r"([0-9]+)-", Path(script).name):
            if "FAIL" in text:
                quit("it was to fail")
            said = re.search(r"echo ([0-9]+)", text)
            byte = int(said[1]) if said else 99
            place = 1024 + 64 * int(step[1])
            write = f'qemu-io hd0 "write -q -P {{{{byte}}}} {{{{place}}}}k 64k"'
            ask("human-monitor-command", **{{{{"command-line": write}}}})
    calls.write("---\\n")
quit()
with tarfile.open(added[1], "w:") as archive:
    for name, text in (("packages", {{packages!r}}), ("log", "")):
        member = tarfile.TarInfo(name)
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text.encode()))
"""


SSH = """\
#!/bin/sh
for last; do :; done
case $last in
    *poweroff*) virsh -q -c qemu:///system destroy {domain} >/dev/null ;;
    *FAIL*) echo ran-and-failed >> {calls}; exit 1 ;;
    *VANISH*) virsh -q -c qemu:///system destroy {domain} >/dev/null ;;
    *sync) virsh -q -c qemu:///system domstate {domain} >/dev/null || exit 255; echo sync >> {calls} ;;
    *"echo "*) echo "$last" | sed -n "s/.*echo \\([0-9]*\\).*/\\1/p" >> {calls} ;;
esac
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
        program = folder / "bin" / "ssh"
        domain = f"{domain_prefix(self.store.id)}sandbox-app-{self.store.next_version('sandbox-app')}"
        program.write_text(SSH.format(calls=folder / "calls", domain=domain))
        program.chmod(0o755)
        # Nobody says its name at the port of a machine without an operating system.
        monkeypatch.setattr("builder.tools.ssh.wait_until_answers", lambda *_, **__: 0.1)

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
        return Decision(self.project(*steps), self.store, ["sandbox-app"], standing={"sandbox-base": self.base}).plan()[
            -1
        ]

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


def test_an_offline_step_that_failed_costs_that_step(stage: Stage) -> None:
    with pytest.raises(ToolError) as failed:
        stage.build(say(11), say(12), FAIL)
    assert dict(failed.value.details)["checkpoint"] == "the state after step 2: run"
    assert "golden shell sandbox-app" in (failed.value.try_next or "")
    assert stage.steps() == [["1-run", "2-run", "3-run"]]
    (trail,) = left(stage.store)
    assert trail.record.files == ("disk.qcow2", "disk.1.qcow2", "disk.2.qcow2")
    assert [(it.after, it.disk) for it in trail.record.checkpoints] == [(1, "disk.qcow2"), (2, "disk.1.qcow2")]
    # For whoever looks at them or pastes the commands: no pipe is left.
    assert all(path.is_file() for path in (trail.work / "steps").iterdir())

    with pytest.raises(ToolError):
        stage.build(say(11), say(12), FAIL, resume=True)
    assert stage.steps() == [["3-run"]]

    made = stage.build(say(11), say(12), say(13), resume=True)
    assert stage.steps() == [["3-run"]]
    assert stage.bytes(made, 1, 2, 3) == [11, 12, 13]
    assert made.parent == stage.base.id
    assert made.reason.endswith(", after step 2: run")
    qcow2.verify_chain(stage.store.qcow2(made), [stage.store.qcow2(stage.base)])
    assert left(stage.store) == []
    assert not list(stage.store.work.iterdir())
    assert stage.plan(say(11), say(12), say(13)).action == "reuse"


def test_before_the_first_step_is_the_parent(stage: Stage) -> None:
    with pytest.raises(ToolError) as failed:
        stage.build(FAIL, say(12))
    assert (failed.value.try_next or "").startswith("golden shell sandbox-app  to look around in its parent; ")
    (trail,) = left(stage.store)
    assert rewind.state_before(stage.project(FAIL, say(12)).images["sandbox-app"], trail, None) is None
    made = stage.build(say(11), say(12), resume=True)
    assert stage.steps() == [["1-run", "2-run"]]
    assert stage.bytes(made, 1, 2) == [11, 12]


def test_a_machine_that_dies_behind_its_last_step_is_not_one_that_was_switched_off(stage: Stage) -> None:
    """What the guest had not written out yet would be missing, and nobody would have said so."""
    # Whichever sees it first: ssh, or the look at the machine.
    with pytest.raises(ToolError, match=r"could not have the guest write out its disk|the guest died: it went off"):
        stage.build(Shell(commands=("VANISH",)))
    assert [build.image for build in stage.store.builds()] == ["sandbox-base"]


def test_an_online_step_that_failed_costs_that_step(stage: Stage) -> None:
    first, second, failing = (Shell(commands=(text,)) for text in ("echo 41", "echo 42", "FAIL"))
    with pytest.raises(ToolError) as failed:
        stage.build(say(11), first, second, failing)
    assert dict(failed.value.details)["checkpoint"] == "the state after step 3: shell"
    said = (stage.folder / "calls").read_text().split("---\n")
    assert said[1].split() == ["41", "sync", "42", "sync", "ran-and-failed"]
    (trail,) = left(stage.store)
    assert trail.record.files == ("disk.qcow2", "disk.1.qcow2", "disk.2.qcow2", "disk.3.qcow2")
    assert [it.after for it in trail.record.checkpoints] == [1, 2, 3]
    assert {path.name for path in trail.work.glob("scratch*")} == {"scratch.raw"}

    made = stage.build(say(11), first, second, Shell(commands=("echo 43",)), resume=True)
    assert (stage.folder / "calls").read_text().split() == ["43", "sync", "seal", "---"]
    assert stage.bytes(made, 1) == [11]
    qcow2.verify_chain(stage.store.qcow2(made), [stage.store.qcow2(stage.base)])
    assert not list(stage.store.work.iterdir())


def test_a_shell_in_the_state_before_a_step(stage: Stage) -> None:
    """As it was, whatever was done there; and gone."""
    steps = (say(11), Shell(commands=("echo 41",)), Shell(commands=("FAIL",)))
    with pytest.raises(ToolError):
        stage.build(*steps)
    (trail,) = left(stage.store)
    before = {path.name: path.stat().st_mtime_ns for path in trail.work.glob("disk*")}
    project = stage.project(*steps)
    for step, files in (("3", ["disk.1.qcow2", "disk.qcow2"]), ("2", ["disk.qcow2"]), ("1", [])):
        checkpoint = rewind.state_before(project.images["sandbox-app"], trail, step)
        with connect() as connection:
            with rewind.opened(
                trail,
                checkpoint,
                store=stage.store,
                distribution=project.distribution_of("sandbox-app"),
                key=project.ssh_key,
                connection=connection,
                is_kvm=False,
                time_factor=1,
                note=lambda _: None,
            ) as target:
                (work,) = (stage.store.root / "shell").iterdir()
                (name,) = [it.name for it in connection.domains() if it.name.startswith("golden-shell-sandbox-app-")]
                below = [link.path for link in qcow2.chain(work / "disk.qcow2")][1:]
                assert below == [*(trail.work / file for file in files), stage.store.qcow2(stage.base)]
                assert target.key == project.ssh_key
            assert connection.find(name) is None
    assert not list((stage.store.root / "shell").iterdir())
    assert {path.name: path.stat().st_mtime_ns for path in trail.work.glob("disk*")} == before


def test_a_step_before_the_checkpoint_was_changed(stage: Stage) -> None:
    with pytest.raises(ToolError):
        stage.build(say(11), FAIL)
    made = stage.build(say(21), say(22), resume=True)
    assert stage.bytes(made, 1, 2) == [21, 22]
    assert stage.steps() == [["1-run", "2-run"]]


def test_a_build_begins_anew_and_forgets_what_failed(stage: Stage) -> None:
    with pytest.raises(ToolError):
        stage.build(say(11), FAIL)
    assert len(left(stage.store)) == 1
    made = stage.build(say(11), say(12))
    assert stage.steps() == [["1-run", "2-run"]]
    assert stage.bytes(made, 1, 2) == [11, 12]
    assert left(stage.store) == []


def test_a_parent_that_is_not_what_it_was_leaves_nothing_under_way(stage: Stage) -> None:
    """One bit is another one, and the file's times tell nothing."""
    disk = stage.store.qcow2(stage.base)
    times, data = disk.stat(), bytearray(disk.read_bytes())
    data[-1] ^= 1
    disk.chmod(0o644)
    disk.write_bytes(data)
    os.utime(disk, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(VerifyError, match="was changed after it was built"):
        stage.build(Run(commands=("echo 1",)))
    assert list((stage.store.root / "work").glob("*")) == []


def test_what_cannot_be_compressed_is_not_done_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything in the guest is done: only what comes after it is tried again."""
    with pytest.raises(ToolError):
        stage.build(say(11), FAIL)

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

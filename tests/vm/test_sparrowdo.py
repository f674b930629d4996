"""Sparrowdo's step and tests on clones over real SSH, in real guests; only the program itself is a stand-in.

All guests of this module but the first run at the same time, since most of their time is their boot.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import clones
from builder.errors import ToolError
from builder.steps import Sparrowdo
from builder.tools import ssh
from builder.tools.sparrowdo import bootstrap
from tests import sparrowdo_stand_in as stand_in
from tests.commands import Ended
from tests.vm.conftest import Golden, what_is_left

DEFINITIONS = """
[image.sandbox-sparrow]
parent = "sandbox-upgrade"
steps = [
  { shell = ["useradd --create-home tester", "install -d -m 700 -o tester /home/tester/.ssh", '''
install -m 600 -o tester /root/.ssh/authorized_keys /home/tester/.ssh/
echo 'tester ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/tester
'''] },
  { sparrowdo = { sparrowfile = "sparrow/ci.raku", user = "tester", secrets = "secrets.env", tags = { os = "el9" } } },
]

[image.sandbox-dying]
parent = "sandbox-upgrade"
steps = [{ sparrowdo = { sparrowfile = "sparrow/die.raku" } }]
"""
SPARROWFILES = {
    "ci.raku": 'bash "id -un > /root/ran; cat files/greeting >> /root/ran; echo $SP6_TAGS >> /root/ran";\n',
    "die.raku": 'say "going";\nbash "echo o > /proc/sysrq-trigger; sleep 100";\n',
    "good.raku": 'bash "cat files/greeting";\nexit 0;\n',
    "bad.raku": 'say "this is wrong";\nexit 42;\n',
}


@pytest.fixture(scope="module")
def project(golden: Golden, shared_path: Path) -> Iterator[Golden]:
    """The project with the stand-in on PATH; everything that it built is gone in the end."""
    folder = shared_path / "sparrowdo"
    project = golden.with_images(folder, DEFINITIONS)
    (folder / "sparrow" / "files").mkdir(parents=True)
    (folder / "sparrow" / "files" / "greeting").write_text("hello\n")
    for name, text in SPARROWFILES.items():
        (folder / "sparrow" / name).write_text(text)
    (folder / "secrets.env").write_text("TOKEN=t0p\n")
    (folder / "bin").mkdir()
    stand_in.install(folder / "bin")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
        yield project
    for name in clones_of(project):
        golden("clone", "destroy", name)
    for path in (golden.store / "images").glob("sandbox-sparrow-*"):
        path.unlink()
    for path in golden.store.glob("work/sandbox-dying-*"):
        shutil.rmtree(path)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def built(project: Golden) -> Ended:
    return project("build", "sandbox-sparrow")


@pytest.fixture(scope="module")
def ended(project: Golden, built: Ended) -> dict[str, Ended]:
    """What is run on clones, and a build whose guest dies, all at the same time."""
    sparrow = project.file.parent / "sparrow"
    words: dict[str, list[str | Path]] = {
        "dying": ["build", "sandbox-dying"],
        "validate": ["validate", "sandbox-sparrow", "--user", "tester", "--json"],
        "tests": ["sparrowdo", "sandbox-sparrow", "--json", "--jobs", "2", "--user", "tester", "--keep"],
    }
    for name in ("good.raku", "bad.raku"):
        words["tests"] += ["--sparrowfile", sparrow / name]
    processes = {name: project.started(*line) for name, line in words.items()}
    found = {}
    for name, process in processes.items():
        stdout, stderr = process.communicate(timeout=1800)
        print(f"$ golden {' '.join(map(str, words[name]))}\n{stdout}{stderr}")
        found[name] = Ended(process.returncode, stdout, stderr)
    return found


def clones_of(project: Golden) -> list[str]:
    return [name for name in clones.names(project.state) if name.startswith("sparrowdo-")]


def test_the_build_says_where_it_is(built: Ended) -> None:
    said = [line for line in built.stderr.splitlines() if "/4] " in line]
    stages = [line.partition(" ")[2].partition(" in ")[0] for line in said]
    assert stages == [
        *("[1/4] Provisioning temporary VM …", "[1/4] Provisioning temporary VM: done"),
        *("[2/4] Waiting for SSH …", "[2/4] Waiting for SSH: done"),
        *("[3/4] Running Sparrowdo bootstrap …", "[3/4] Running Sparrowdo bootstrap: done"),
        *("[4/4] Shutting down to save changes …", "[4/4] Shutting down to save changes: done"),
    ]


def test_the_build_s_facts_and_log(project: Golden, built: Ended) -> None:
    found = project("show", "sandbox-sparrow", "--json").json
    assert found["software"] == {"raku": "2022.12", "sparrow6": "0.0.94"}
    assert "software:    sparrow6 0.0.94\n" in project("show", "sandbox-sparrow").stdout
    log = project.store / "logs" / f"sandbox-sparrow-{found['id']['version']}" / "2-sparrowdo.log"
    assert "Congratulations!" in log.read_text()
    assert "t0p" not in log.read_text()


@pytest.fixture
def kept(ended: dict[str, Ended]) -> str:
    """The clone of the sparrowfile that passed."""
    return str(json.loads(ended["tests"].stdout)[0]["clone"])


def test_a_clone_is_bootstrapped_and_clean(project: Golden, kept: str) -> None:
    script = "cat /root/ran; ls -A /root/.sparrowdo 2> /dev/null; grep -rl t0p /home /root || :"
    ran = project("clone", "ssh", kept, "--", script).stdout.splitlines()
    # By sudo, with its files and tags; and no secret is left.
    assert ran == ["root", "hello", "os=el9"]


def test_sparrowfiles_on_clones_end_with_their_own_result(project: Golden, ended: dict[str, Ended]) -> None:
    found = json.loads(ended["tests"].stdout)
    assert ended["tests"].status == 42
    assert [(Path(it["sparrowfile"]).name, it["exit"], it["cause"]) for it in found] == [
        ("good.raku", 0, ""),
        ("bad.raku", 42, "the sparrowfile ended with 42"),
    ]
    assert "hello" in found[0]["output"]
    assert "this is wrong" in found[1]["output"]
    # Kept, as asked; the one of `validate` is gone.
    assert sorted(it["clone"] for it in found) == clones_of(project)


def test_an_interrupt_leaves_no_clone(project: Golden, ended: dict[str, Ended]) -> None:
    before = clones_of(project)
    files = [project.file.parent / "sparrow" / name for name in ("good.raku", "bad.raku")]
    words = [word for file in files for word in ("--sparrowfile", file)]
    with project.started("sparrowdo", "sandbox-sparrow", "--jobs", "2", *words) as process:
        deadline = time.monotonic() + 60
        while len(clones_of(project)) < len(before) + 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 130
    assert clones_of(project) == before


def test_validate_says_what_is_in_the_image(ended: dict[str, Ended]) -> None:
    found = ended["validate"].json
    assert (found["image"], found["raku"], found["sparrow6"]) == ("sandbox-sparrow", "2022.12", "0.0.94")


def test_a_guest_that_dies_in_the_middle(project: Golden, ended: dict[str, Ended]) -> None:
    """Sparrowdo itself would hang for minutes. Nothing can be taken for a build; the log is kept."""
    assert ended["dying"].status == 4
    assert "golden: error: the guest died" in ended["dying"].stderr
    assert "[3/4] Running Sparrowdo bootstrap: failed in" in ended["dying"].stderr
    (kept,) = project.store.glob("work/sandbox-dying-*")
    assert "going" in (kept / "logs" / "1-sparrowdo.log").read_text()
    assert not list((project.store / "images").glob("*sandbox-dying*"))
    shutil.rmtree(kept)
    assert what_is_left(project) == []
    sparrowdos = subprocess.run(["pgrep", "-f", str(project.file.parent / "bin")], capture_output=True, check=False)
    assert sparrowdos.stdout == b""


class TestKeptClone:
    """The step against a running guest that is not as it should be."""

    def fails(self, project: Golden, kept: str, tmp_path: Path, **fields: str) -> ToolError:
        lease = clones.find(project.state, kept)
        assert lease.key is not None
        with pytest.raises(ToolError) as caught:
            bootstrap.carry_out(
                Sparrowdo.model_validate(fields),
                ssh.Target(port=lease.ssh_port, key=lease.key),
                project=project.file.parent,
                time_factor=5,
                log=tmp_path / "log",
                watch=lambda: None,
                note=lambda text: None,
            )
        return caught.value

    def test_sudo_that_asks_for_a_password(self, project: Golden, kept: str, tmp_path: Path) -> None:
        project("clone", "ssh", kept, "--", "echo 'tester ALL=(ALL) ALL' > /etc/sudoers.d/tester")
        error = self.fails(project, kept, tmp_path, user="tester")
        assert error.what == "sudo in the guest wants a password of 'tester', and Sparrowdo would wait for it for ever"
        assert "sudo: a password is required" in dict(error.details)["output"]

    def test_a_key_that_the_guest_does_not_know(self, project: Golden, kept: str, tmp_path: Path) -> None:
        project("clone", "ssh", kept, "--", "useradd --create-home stranger")
        error = self.fails(project, kept, tmp_path, user="stranger")
        assert error.what == "the guest does not let 'stranger' in over SSH"
        assert "Permission denied" in dict(error.details)["ssh says"]

"""What the shell completes, asked as the shell asks; bash itself, once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import BashComplete

from builder import clones
from builder.cli import golden
from builder.cli.completion import Bash
from builder.store import Store
from tests.builds import add_chain

PROGRAM = "from builder.cli import golden; golden(prog_name='golden')"
OWN = """
[project]
name = "demo"
ssh_key = "key"
[distribution.sandbox]
inherits = "el9"
source = { dvd = "sandbox.iso" }
[image.sandbox-base]
distribution = "sandbox"
disk = "4 GiB"
[image.sandbox-upgrade]
parent = "sandbox-base"
steps = [{ upgrade = true }]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clones, one of them with snapshots, an installed image, two builds of another, and two tests."""
    tmp_path = tmp_path_factory.mktemp("project")
    (tmp_path / "golden.toml").write_text(OWN)
    store = Store(tmp_path / "state", "demo")
    add_chain(store, "sandbox-base", version="20261121.1")
    add_chain(store, "sandbox-base", version="20261122.1")
    images = Store(tmp_path / "elsewhere", "demo")
    for version in ("20261120.1", "20261120.2"):
        (installed,) = add_chain(images, "sandbox-base", version=version).values()
    (images.images / "sandbox-net.qcow2").symlink_to(f"{installed.stem}.qcow2")
    images.images.rename(tmp_path / "images")
    for name in ("web1", "web2"):
        clones.directory(store.state, name).mkdir(parents=True)
    for snapshot in ("before", "broken"):
        kept = clones.directory(store.state, "web1") / "snapshots" / snapshot / "snapshot.json"
        kept.parent.mkdir(parents=True)
        kept.write_text(f'{{"name": "{snapshot}", "has_memory": false, "size_bytes": 1, "made": "{snapshot}"}}')
    for test in ("net/dns", "net/dhcp", "disk"):
        (tmp_path / test).mkdir(parents=True)
        (tmp_path / test / "golden-test.toml").write_text('image = "sandbox-base"\nscripts = ["a.sh"]\n')
        (tmp_path / test / "a.sh").touch()
    return tmp_path


def completed(project: Path, *words: str, begun: str = "") -> list[str]:
    before = ["--file", str(project / "golden.toml"), "--state", str(project / "state")]
    found = BashComplete(golden, {}, "golden", "_GOLDEN_COMPLETE").get_completions([*before, *words], begun)
    return [item.value if item.type == "plain" else f"({item.type})" for item in found]


@pytest.mark.parametrize("command", ["ssh", "console", "logs", "snapshot", "revert", "start", "check", "exec"])
def test_clones(project: Path, command: str) -> None:
    assert completed(project, "clone", command) == ["web1", "web2"]
    assert completed(project, "clone", command, begun="web2") == ["web2"]


@pytest.mark.parametrize("command", ["start", "stop", "destroy", "check", "repair", "exec"])
def test_several_clones_each_once(project: Path, command: str) -> None:
    assert completed(project, "clone", command, "web1") == ["web2"]


def test_what_the_guest_is_to_run_is_not_golden_s(project: Path) -> None:
    assert completed(project, "clone", "exec", "web1", "cat") == []


def test_a_path_in_a_clone_or_one_of_this_host(project: Path) -> None:
    assert completed(project, "clone", "cp", begun="web") == ["web1:", "web2:"]
    assert completed(project, "clone", "cp", "web1:/etc/hosts", begun="w1") == ["(file)"]
    assert completed(project, "clone", "cp", begun="") == ["(file)"]


@pytest.mark.parametrize("command", ["snapshot", "revert"])
def test_snapshots_of_the_clone_that_is_named(project: Path, command: str) -> None:
    assert completed(project, "clone", command, "web1", begun="b") == ["before", "broken"]
    assert completed(project, "clone", command, "web2") == []
    assert completed(project, "clone", command, "nobody") == []


@pytest.mark.parametrize("words", [("clone", "create", "--image"), ("clone", "warm"), ("clone", "pool")])
def test_images_installed_and_built_and_their_versions(project: Path, words: tuple[str, ...]) -> None:
    more = ("--images", str(project / "images"))
    asked = (*words[:2], *more, *words[2:])
    assert completed(project, *asked) == ["sandbox-base", "sandbox-net"]
    found = ["sandbox-base@20261120.1", "sandbox-base@20261120.2", "sandbox-base@20261121.1", "sandbox-base@20261122.1"]
    assert completed(project, *asked, begun="sandbox-base@") == found
    assert completed(project, *asked, begun="sandbox-base@20261122") == found[3:]


def test_images_and_patterns_of_tests(project: Path) -> None:
    assert completed(project, "test", "--images", str(project / "images"), "--image") == ["sandbox-base", "sandbox-net"]
    assert completed(project, "test") == ["disk", "net/dhcp", "net/dns"]
    assert completed(project, "test", begun="net/dn") == ["net/dns"]
    assert completed(project, "test", "--folder", str(project / "net")) == ["dhcp", "dns"]


def test_images_of_the_project_and_versions_that_were_built(project: Path) -> None:
    assert completed(project, "show", begun="sand") == ["sandbox-base", "sandbox-upgrade"]
    assert completed(project, "show", begun="sandbox-base@") == ["sandbox-base@20261121.1", "sandbox-base@20261122.1"]


def test_what_is_damaged_is_not_complained_of_at_the_prompt(project: Path, tmp_path: Path) -> None:
    project = shutil.copytree(project, tmp_path / "damaged", symlinks=True)
    (clones.directory(project / "state", "web1") / "snapshots/before/snapshot.json").write_text("{")
    assert completed(project, "clone", "revert", "web1") == []
    (project / "golden.toml").write_text("[")
    assert completed(project, "show") == []
    assert completed(project, "clone", "create", "--images", str(project / "images"), "--image") == ["sandbox-net"]
    (project / "disk/golden-test.toml").write_text("[")
    assert completed(project, "test") == []


@pytest.mark.parametrize(
    ("words", "at", "offered"),
    [
        # As bash has them: it takes @ and : for words of their own, and replaces only what comes after.
        (["show", "sandbox-base", "@", "20261122"], 8, ["20261122.1"]),
        (["show", "sandbox-base", "@"], 7, ["20261121.1", "20261122.1"]),
        (["show", "sandbox-base@20261122"], 6, ["sandbox-base@20261122.1"]),
        (["show", "sandbox-u"], 6, ["sandbox-upgrade"]),
        (["diff", "sandbox-base", "@", "20261121.1", ""], 9, ["sandbox-base", "sandbox-upgrade"]),
        (["clone", "cp", "web1"], 7, ["web1:"]),
    ],
)
def test_bash_gets_what_it_has_to_append(project: Path, words: list[str], at: int, offered: list[str]) -> None:
    program = project / "bin/golden"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{PROGRAM}"\n')
    program.chmod(0o755)
    line = [str(program), "--file", str(project / "golden.toml"), "--state", str(project / "state"), *words]
    assert len(line) == at + 1
    script = Bash(golden, {}, "golden", "_GOLDEN_COMPLETE").source()
    script += f'\nCOMP_WORDS=("${{@}}"); COMP_CWORD={at}; _golden_completion "$1"; printf "%s\\n" "${{COMPREPLY[@]}}"\n'
    ended = subprocess.run(["bash", "-c", script, "bash", *line], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == offered, ended.stderr

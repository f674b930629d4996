"""The pytest plugin with machines that are given, which is how `golden test` hands them over: a fake ssh answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from junitparser import JUnitXml

from builder.harness.guest import Address
from tests.fake.conftest import Fake

TOP = Path(__file__).parents[2]


@dataclass
class Suite:
    """A folder with tests, run by a pytest of its own."""

    folder: Path

    def run(self, text: str, *options: str, expect: int, attach: bool = True) -> str:
        (self.folder / "test_it.py").write_text(text)
        environment = os.environ | {"PYTHONPATH": str(TOP), "GOLDEN_STATE": str(self.folder / "state")}
        environment |= {"GOLDEN_FILE": str(self.folder / "golden.toml"), "PYTEST_ADDOPTS": ""}
        if attach:
            environment["GOLDEN_TEST_MACHINES"] = str(self.folder / "machines.json")
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "builder.pytest_golden", "-p", "no:cacheprovider", "-v", *options],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        print(ended.stdout, ended.stderr)
        assert ended.returncode == expect
        return ended.stdout + ended.stderr


@pytest.fixture
def suite(tmp_path: Path, fake: Fake) -> Suite:
    """Two machines are given; commands for either run on this machine."""
    fake("ssh", 'for last; do :; done\nexec sh -c "$last"')
    fake("journalctl", 'echo "the last thing in the journal"')
    fake("rpm", "printf 'zlib-1\\nbash-5\\n'")
    folder = tmp_path / "suite"
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    machines = []
    for port, role in enumerate(("engine", "host0"), start=2201):
        console = folder / f"{role}-console.log"
        console.write_text(f"{role} login: \n")
        machines.append(
            Address(
                name=role,
                clone=f"{role}-1",
                image="demo-base@20261121.1",
                port=port,
                key=folder / "id",
                console=console,
            ).model_dump(mode="json")
        )
    (folder / "machines.json").write_text(json.dumps(machines))
    return Suite(folder)


def test_the_package_brings_the_plugin() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    assert list(project["entry-points"]["pytest11"].values()) == ["builder.pytest_golden"]


def test_a_clone_is_a_testinfra_host(suite: Suite) -> None:
    text = """
def test_host(golden_clone, golden_image):
    assert golden_image == "demo-base@20261121.1"
    assert golden_clone.host.check_output("echo from there") == "from there"
    assert golden_clone.host.file("/").is_directory
    assert golden_clone.run("printf", "%s", "two words") == "two words"
"""
    assert "1 passed" in suite.run(text, expect=0)


def test_a_cluster_has_its_machines_by_their_roles(suite: Suite) -> None:
    text = """
import pytest

@pytest.mark.golden_cluster("engine", "host0")
def test_roles(golden_cluster):
    assert {name: guest.address.port for name, guest in golden_cluster.items()} == {"engine": 2201, "host0": 2202}

@pytest.mark.golden_cluster("storage")
def test_no_such_role(golden_cluster):
    pass
"""
    out = suite.run(text, expect=1)
    assert "1 passed, 1 error" in out
    assert "this test's declaration has no machine 'storage'; it has engine, host0" in out


def test_a_failure_brings_console_and_journal(suite: Suite) -> None:
    text = """
def test_good(golden_clone):
    pass

def test_bad(golden_clone):
    assert golden_clone.run("true") == "something"

def test_without_a_machine():
    assert False
"""
    out = suite.run(text, "--junitxml=junit.xml", "--golden-keep-logs=kept", expect=1)
    assert out.count("golden console of engine (demo-base@20261121.1)") == 1
    assert out.count("golden journal of engine (demo-base@20261121.1)") == 1
    assert "engine login:" in out
    assert "the last thing in the journal" in out
    assert "host0" not in out
    (found,) = JUnitXml.fromfile(str(suite.folder / "junit.xml"))
    assert (found.tests, found.failures) == (3, 2)
    (kept,) = (suite.folder / "kept").iterdir()
    assert {path.name: path.read_text() for path in kept.iterdir()} == {
        "engine-console.log": "engine login: \n",
        "engine-journal.log": "the last thing in the journal\n",
        "engine-packages.log": "bash-5\nzlib-1\n",
    }


def test_a_dead_machine_is_no_second_failure(suite: Suite, fake: Fake) -> None:
    fake("ssh", "echo 'ssh: connection refused' >&2; exit 255")
    out = suite.run("def test_it(golden_clone):\n    golden_clone.run('true')\n", expect=1)
    assert "could not run 'true' on engine" in out
    assert "golden: could not run 'journalctl' on engine: ssh: connection refused" in out


@pytest.mark.parametrize(
    ("options", "scope", "made"),
    [((), "function", 2), (("--golden-scope=module",), "module", 1)],
    ids=["test", "module"],
)
def test_scopes(suite: Suite, options: tuple[str, ...], scope: str, made: int) -> None:
    text = "def test_one(golden_clone):\n    pass\n\ndef test_two(golden_clone):\n    pass\n"
    assert (
        suite.run(text, "--setup-show", *options, expect=0).count(f"SETUP    {scope[0].upper()} golden_clone") == made
    )


def test_each_image_in_its_turn_and_by_the_ini_file(suite: Suite) -> None:
    text = """
import pytest

def test_all(golden_image):
    pass

@pytest.mark.golden_image("c")
def test_own(golden_image):
    assert golden_image == "c"
"""
    out = suite.run(text, "--golden-image=a", "--golden-image=b@20261121.1", expect=0)
    # pytest decides about their order, and has done so differently.
    assert sorted(line.split()[0] for line in out.splitlines() if "PASSED" in line) == [
        "test_it.py::test_all[a]",
        "test_it.py::test_all[b@20261121.1]",
        "test_it.py::test_own[c]",
    ]
    (suite.folder / "pytest.ini").write_text("[pytest]\ngolden_images = d\n")
    assert "test_all[d] PASSED" in suite.run(text, expect=0)


def test_it_works_under_xdist(suite: Suite) -> None:
    text = """
import pytest

@pytest.mark.parametrize("number", range(4))
def test_it(golden_clone, number):
    assert golden_clone.run("echo", "x").strip() == "x"
    assert number != 3, "the last one fails"
"""
    out = suite.run(text, "-n", "2", expect=1)
    assert "1 failed, 3 passed" in out
    assert "golden console of engine" in out


def test_no_image_is_named(suite: Suite) -> None:
    out = suite.run("def test_it(golden_clone):\n    pass\n", attach=False, expect=1)
    assert "no image is named: --golden-image IMAGE, or golden_images in the ini file" in out


def test_an_unknown_scope(suite: Suite) -> None:
    (suite.folder / "pytest.ini").write_text("[pytest]\ngolden_scope = forever\n")
    ended = suite.run("def test_it(golden_clone):\n    pass\n", expect=4)
    assert "golden_scope = forever: it is one of function, class, module, package, session" in ended

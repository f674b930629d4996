"""Machines for tests: the pytest plugin, `golden test`, and what is left of a test that failed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from junitparser import JUnitXml

from tests.vm.conftest import Golden

TOP = Path(__file__).parents[2]
IMAGE = "sandbox-bootstrapped"


@pytest.fixture
def no_clones_are_left(golden: Golden) -> Iterator[None]:
    yield
    left = [clone["name"] for clone in golden("clone", "list", "--json").json]
    if left:
        golden("clone", "destroy", *left)
    assert left == []


@pytest.mark.usefixtures("no_clones_are_left")
def test_the_suite_in_the_documentation(golden: Golden, tmp_path: Path) -> None:
    """In two processes: one deployment of two machines, and a machine of its own for each test of the other file."""
    failing = tmp_path / "test_that_fails.py"
    failing.write_text("def test_it(golden_clone):\n    assert golden_clone.run('uname', '-s') == 'Windows'\n")
    suite, kept = TOP / "docs/examples/ost-suite", tmp_path / "kept"
    argv = [sys.executable, "-m", "pytest", "-c", suite / "pytest.ini", f"--rootdir={tmp_path}"]
    argv += ["-p", "builder.pytest_golden", "-p", "no:cacheprovider", "-n", "2", "--dist=loadfile"]
    argv += [f"--junitxml={tmp_path}/junit.xml", f"--golden-keep-logs={kept}", f"--golden-image={IMAGE}"]
    ended = subprocess.run(
        [str(word) for word in (*argv, suite, failing)],
        env=golden.environment | {"PYTEST_ADDOPTS": "", "PYTHONPATH": os.pathsep.join([str(TOP), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    print(ended.stdout, ended.stderr)
    assert ended.returncode == 1
    (found,) = JUnitXml.fromfile(str(tmp_path / "junit.xml"))
    assert (found.tests, found.failures, found.errors) == (7, 1, 0)
    assert "golden console of clone" in ended.stdout
    assert "golden journal of clone" in ended.stdout
    (folder,) = [path for path in kept.iterdir() if path.is_dir()]
    assert "login:" in (folder / "clone-console.log").read_text()
    assert "systemd" in (folder / "clone-journal.log").read_text()
    packages = (kept / "engine-pkglist.txt").read_text().splitlines()
    assert packages == sorted(packages)
    assert any(name.startswith("rakudo-") for name in packages)

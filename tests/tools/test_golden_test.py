"""`golden test` as a command, with machines that have no operating system: what it says and what it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from junitparser import JUnitXml

from builder import clones
from builder.clones import Owner
from builder.errors import ConfigError
from builder.harness import suite
from builder.store import Store
from builder.tools import ssh
from builder.tools.libvirt import connect
from tests.builds import add_chain

TOP = Path(__file__).parents[2]


@dataclass
class Project:
    """A golden.toml, a key, two images, and a test that would run for an hour on machines that never boot."""

    folder: Path
    state: Path

    def start(self, *words: str | Path, **more: str) -> subprocess.Popen[str]:
        environment = {"GOLDEN_FILE": str(self.folder / "golden.toml"), "GOLDEN_STATE": str(self.state)}
        environment |= {"GOLDEN_PROGRESS": "plain", "PYTHONPATH": str(TOP)}
        return subprocess.Popen(
            [sys.executable, "-m", "builder", *map(str, words)],
            env=os.environ | environment | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str | Path, expect: int, **more: str) -> tuple[str, str]:
        with self.start(*words, **more) as golden:
            try:
                out, err = golden.communicate(timeout=240)
            finally:
                golden.terminate()
        print(out, err)
        assert golden.returncode == expect
        return out, err


@pytest.fixture
def project(open_path: Path) -> Iterator[Project]:
    made = Project(open_path / "project", open_path / "state")
    (made.folder / "tests/slow").mkdir(parents=True)
    (made.folder / "golden.toml").write_text('[project]\nname = "demo"\nssh_key = "id"\n')
    ssh.make_key(made.folder / "id", comment="test")
    (made.folder / "tests/slow/golden-test.toml").write_text(
        'scripts = ["a.sh"]\nmemory = "64 MiB"\nlimits = { boot = "1 h" }\n'
    )
    (made.folder / "tests/slow/a.sh").touch()
    add_chain(Store(made.state, "demo"), "sandbox-base", "sandbox-upgrade")
    yield made
    with connect() as connection:
        for name in clones.names(made.state):
            with contextlib.suppress(ConfigError):
                clones.destroy(name, state=made.state, connection=connection)


def test_what_is_kept_below_the_folder_is_no_test(project: Project) -> None:
    """Results of a failed test, which hold its declaration, in the folder of golden.toml."""
    file = project.folder / "tests/slow/golden-test.toml"
    file.write_text(file.read_text().replace("1 h", "1s"))
    results = project.folder / "results"
    project.run("test", "--image", "sandbox-base", "--results", results, "--keep-fail", "boot,install", expect=5)
    assert list(results.rglob("install/golden-test.toml.txt"))
    out, _ = project.run("test", "--list", "--json", expect=0)
    assert [it["name"] for it in json.loads(out)] == ["tests/slow"]


def test_what_would_run(project: Project) -> None:
    out, _ = project.run("test", "--list", expect=0)
    assert out.splitlines()[1].split() == ["tests/slow", "-", "main", "a.sh"]
    (planned,) = json.loads(project.run("test", "--image", "sandbox-base", "--dry-run", "--json", expect=0)[0])
    assert (planned["image"], planned["memory_mib"], planned["tests"][0]["name"]) == ("sandbox-base", 64, "tests/slow")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ((), 2, "no image is named for tests/slow"),
        (("--image", "sandbox-bsae"), 2, "there is no image 'sandbox-bsae', neither installed"),
        (("--image", "sandbox-base@20200101.1"), 2, "20200101.1"),
        (("slwo", "--image", "sandbox-base"), 2, "no test matches 'slwo'"),
        (("--keep-fail", "disk", "--image", "sandbox-base"), 2, "'disk' is none of boot, install, disks"),
        (("--keep-for", "14", "--image", "sandbox-base"), 2, "'14' is not a duration"),
    ],
)
def test_what_cannot_run(project: Project, words: tuple[str, ...], status: int, said: str) -> None:
    assert said in project.run("test", *words, expect=status)[1]
    assert not (project.state / "tests").exists()


def test_a_test_that_no_memory_of_this_host_is_enough_for(project: Project) -> None:
    text = (project.folder / "tests/slow/golden-test.toml").read_text().replace("64 MiB", "64 TiB")
    (project.folder / "tests/slow/golden-test.toml").write_text(text)
    said = project.run("test", "--image", "sandbox-base", expect=3)[1]
    assert "there is no memory for tests/slow on sandbox-base: 67108864 MiB are needed" in said


def test_what_the_host_cannot_run_is_no_failure(project: Project) -> None:
    away = {"GOLDEN_LIBVIRT_URI": "qemu+unix:///system?socket=/nowhere/libvirt-sock"}
    out, err = project.run("test", "--image", "sandbox-base", "--json", "--retries", "1", expect=3, **away)
    assert "golden: error: this host could not run 1 of 1 tests; no test failed" in err
    assert "tests/slow on sandbox-base: libvirt is not reachable at" in err
    (result,) = json.loads(out)["results"]
    assert (result["verdict"], len(result["outcomes"])) == ("host", 2)
    results = Path(json.loads(out)["folder"])
    (found,) = JUnitXml.fromfile(str(results / "merged.xml"))
    assert (found.tests, found.errors, found.failures) == (1, 1, 0)


def test_a_failure_ends_with_5_and_says_where_its_bundle_is(project: Project) -> None:
    text = (project.folder / "tests/slow/golden-test.toml").read_text().replace("1 h", "1s")
    (project.folder / "tests/slow/golden-test.toml").write_text(text)
    out, err = project.run("test", "--image", "sandbox-upgrade", "--retries", "1", "--keep-fail", "boot", expect=5)
    assert "1 failed" in out
    assert "golden: error: 1 of 1 tests failed" in err
    assert "did not boot" in err
    (results,) = (project.state / "tests/demo").iterdir()
    bundle = results / "sandbox-upgrade/tests.slow/run-2"
    assert f"golden clone revive {bundle}" in err
    assert sorted(path.name for path in bundle.iterdir()) == ["boot", "bundle.json"]
    assert {path.name for path in results.glob("*.*")} >= {"run-1.tap", "run-2.xml", "merged.tap", "merged.xml"}
    said = project.run("clone", "revive", bundle, expect=2)[1]
    assert "has no disk" in said
    assert "golden test --keep-fail all" in said


def test_what_all_machines_may_have_together_is_heeded(project: Project) -> None:
    words = ("test", "--image", "sandbox-base")
    said = "there is no memory for tests/slow on sandbox-base: 64 MiB are needed, 32 MiB are there"
    assert said in project.run(*words, "--host-memory", "32 MiB", expect=3)[1]
    assert said in project.run(*words, expect=3, GOLDEN_HOST_MEMORY="32 MiB")[1]


def test_a_test_that_waits_for_memory_says_so(project: Project) -> None:
    name = f"held-{os.getpid()}"
    project.run("clone", "create", name, "--image", "sandbox-base", "--memory", "1 GiB", "--no-wait", expect=0)
    words = ("test", "--image", "sandbox-base", "--host-memory", "1 GiB", "--wait-memory", "1s")
    out, err = project.run(*words, "--json", expect=3)
    assert re.search(r"main-\d+-\d+: waiting for 64 MiB of memory", err)
    assert "this host could not run 1 of 1 tests" in err
    assert "there is no memory for main-" in json.loads(out)["results"][0]["outcomes"][0]["why"]
    assert clones.names(project.state) == [name]


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_pytest_ends_with_what_golden_had_to_say(project: Project, workers: tuple[str, ...]) -> None:
    (project.folder / "test_it.py").write_text(
        "def test_it(golden_lab):\n"
        "    golden_lab.reporter.note('web1 boots')\n"
        "    golden_lab.reporter.note('web1 boots')\n"
        "    assert golden_lab.capacity().total_mib == 32\n"
    )
    environment = {"GOLDEN_FILE": str(project.folder / "golden.toml"), "GOLDEN_STATE": str(project.state)}
    environment |= {"GOLDEN_HOST_MEMORY": "32 MiB", "PYTHONPATH": str(TOP), "PYTEST_ADDOPTS": ""}
    words = ["-m", "pytest", "-p", "builder.pytest_golden", "-p", "no:cacheprovider", *workers, "test_it.py"]

    def ended(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words, *more],
            cwd=project.folder,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    found = ended()
    assert found.returncode == 0, found.stdout + found.stderr
    assert re.search(r"=+ golden =+\s+web1 boots\n=", found.stdout)
    assert "--golden-host-memory, or GOLDEN_HOST_MEMORY: '16' is not a size" in ended("--golden-host-memory=16").stdout


CONFTEST = """
import pytest


@pytest.fixture(scope="session")
def golden_lab(golden_lab):
    running = golden_lab.running
    golden_lab.running = lambda wanted: running(wanted, is_waited=False)  # they never answer
    return golden_lab
"""
DYING = """
def test_it(golden_clone):
    with golden_clone.address.console.open("a") as console:
        console.write("[ 9.1] Kernel panic - not syncing: said by the test\\n")
    golden_clone.run("true", timeout_s=3600)


def test_the_next(golden_clone):
    golden_clone.run("true", timeout_s=3600)
"""


def test_a_machine_that_dies_under_pytest_ends_what_waits_for_it(project: Project) -> None:
    (project.folder / "conftest.py").write_text(CONFTEST)
    (project.folder / "test_it.py").write_text(DYING)
    environment = {"GOLDEN_FILE": str(project.folder / "golden.toml"), "GOLDEN_STATE": str(project.state)}
    words = ["-m", "pytest", "-p", "builder.pytest_golden", "-p", "no:cacheprovider", "--golden-scope=module"]
    ended = subprocess.run(
        [sys.executable, *words, "--golden-image=sandbox-base", "test_it.py"],
        cwd=project.folder,
        env=os.environ | environment | {"PYTHONPATH": str(TOP), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    print(ended.stdout, ended.stderr)
    why = "clone (sandbox-base@20261121.1) is dead: the kernel panicked: [ 9.1] Kernel panic - not syncing: said by the"
    assert ended.returncode == 1
    assert "2 failed" in ended.stdout
    assert ended.stdout.count(f"\n{why}") >= 1
    assert f"golden: {why}" in ended.stdout
    assert clones.names(project.state) == []


def test_results_that_nobody_came_back_for_are_collected(project: Project) -> None:
    results = project.state / "tests/demo/20260101-000000"
    (results / "sandbox-base/tests.slow/run-1").mkdir(parents=True)
    dead = Owner(pid=os.getpid(), start=1, boot="of another time")
    (results / "run.json").write_text(suite.Run(owner=dead, keep_s=60).model_dump_json())
    assert json.loads(project.run("clone", "gc", "--dry-run", "--json", expect=0)[0]) == []
    os.utime(results, (0, 0))
    (found,) = json.loads(project.run("clone", "gc", "--dry-run", "--json", expect=0)[0])
    assert (found["kind"], found["name"]) == ("results", "demo/20260101-000000")
    assert results.exists()
    project.run("clone", "gc", expect=0)
    assert not results.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_no_machine(project: Project, number: signal.Signals) -> None:
    with project.start("test", "--image", "sandbox-base") as golden:
        end = time.monotonic() + 60
        with connect() as connection:
            while not any(clones.is_running(lease, connection) for lease in clones.whole_leases(project.state)):
                assert time.monotonic() < end
                assert golden.poll() is None
                time.sleep(0.2)
        golden.send_signal(number)
        _, err = golden.communicate(timeout=60)
    assert golden.returncode == 130
    assert "golden: interrupted" in err
    assert clones.names(project.state) == []

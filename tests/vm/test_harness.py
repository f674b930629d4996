"""Machines for tests: the pytest plugin, `golden test`, and what is left of a test that failed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from junitparser import JUnitXml

from tests.commands import Ended
from tests.vm.conftest import Golden

TOP = Path(__file__).parents[2]
IMAGE = "sandbox-bootstrapped"


def own_clones(golden: Golden) -> list[str]:
    """Of the plugin and of `golden test`; other tests may have theirs."""
    names = [clone["name"] for clone in golden("clone", "list", "--json").json]
    own = r"(clone|engine|host0|main|server|client)-\d+-\d+|quick-fails-main"
    return [name for name in names if re.fullmatch(own, name)]


@pytest.fixture
def no_clones_are_left(golden: Golden) -> Iterator[None]:
    yield
    left = own_clones(golden)
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
    assert (found.tests, found.failures, found.errors) == (10, 1, 0)
    assert "golden console of clone" in ended.stdout
    assert "golden journal of clone" in ended.stdout
    (folder,) = [path for path in kept.iterdir() if path.is_dir()]
    assert "Linux version" in (folder / "clone-console.log").read_text()
    assert "systemd" in (folder / "clone-journal.log").read_text()
    packages = (kept / "engine-pkglist.txt").read_text().splitlines()
    assert packages == sorted(packages)
    assert any(name.startswith("rakudo-") for name in packages)


TESTS = {
    "quick/passes": 'suite = "quick"\nscripts = ["run.sh"]\nenvironment = { ANSWER = "forty two" }\n',
    "quick/flaky": 'suite = "quick"\nscripts = ["run.sh"]\n',
    "quick/fails": 'suite = "quick"\nscripts = ["run.sh"]\n',
    "quick/in-pytest": 'suite = "quick"\npytest = "test_it.py"\n',
    # It reads the boot on its console.
    "quick/ost-guest": 'cold = true\npytest = "ost_guest.py"\n',
    "panics": 'scripts = ["run.sh"]\nlimits = { run = "30 min" }\nbug = "https://bugs.example.org/1"\n',
    "offline": 'results = "disk"\nscripts = ["run.sh", "more.sh"]\nenvironment = { ANSWER = "it\'s" }\n',
    "restarts": 'scripts = ["run.sh", "check.sh"]\nmay_reboot = true\n',
}
FILES = {
    "quick/passes/run.sh": 'echo "$ANSWER" > "$GOLDEN_RESULTS/answer"; ls "$PWD"\n',
    "quick/flaky/run.sh": 'echo "this is run $GOLDEN_RUN"; [ "$GOLDEN_RUN" != 1 ]\n',
    "quick/fails/run.sh": "echo the reason >&2; exit 3\n",
    "quick/in-pytest/test_it.py": "def test_it(golden_clone):\n    assert golden_clone.host.user().name == 'root'\n",
    "quick/ost-guest/ost_guest.py": Path(__file__).with_name("ost_guest.py").read_text(),
    "panics/run.sh": "sync; echo c > /proc/sysrq-trigger; sleep 1000\n",
    "offline/run.sh": 'systemctl is-active multi-user.target && echo "$ANSWER" > "$GOLDEN_RESULTS/answer"\n',
    "offline/more.sh": "[ $GOLDEN_TEST = offline ] && [ $GOLDEN_MACHINE = main ]\n",
    "restarts/run.sh": "cat /proc/sys/kernel/random/boot_id > /root/before; systemctl reboot; sleep 60\n",
    "restarts/check.sh": "[ $(cat /root/before) != $(cat /proc/sys/kernel/random/boot_id) ]\n",
}


@pytest.fixture(scope="module")
def summary(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ended, Path]:
    """`golden test` on all of the tests above, run once for what is looked at below."""
    top, results = tmp_path_factory.mktemp("tests"), tmp_path_factory.mktemp("results")
    for name, text in TESTS.items():
        (top / name).mkdir(parents=True)
        (top / name / "golden-test.toml").write_text(text)
    for name, text in FILES.items():
        (top / name).write_text(text)
    words = ("test", "--folder", top, "--image", IMAGE, "--jobs", "2", "--retries", "1", "--results", results)
    # As users have it: machines go on from the image's memory where they can.
    return golden(*words, "--warm", "--json", expect=5), results


def test_every_test_has_its_verdict(golden: Golden, summary: tuple[Ended, Path]) -> None:
    ended, _ = summary
    verdicts = {it["test"]: (it["verdict"], len(it["outcomes"])) for it in ended.json["results"]}
    assert verdicts == {
        "quick/passes": ("passed", 1),
        "quick/flaky": ("flaky", 2),
        "quick/fails": ("failed", 2),
        "quick/in-pytest": ("passed", 1),
        "quick/ost-guest": ("passed", 1),
        "panics": ("known", 1),
        "offline": ("passed", 1),
        "restarts": ("passed", 1),
    }
    assert "1 of 8 tests failed" in ended.stderr
    assert f"quick/fails on {IMAGE}: run.sh on main: exit 3: the reason" in ended.stderr
    assert own_clones(golden) == []


def test_a_guest_that_panics_fails_long_before_its_limit(summary: tuple[Ended, Path]) -> None:
    (panics,) = [it for it in summary[0].json["results"] if it["test"] == "panics"]
    (outcome,) = panics["outcomes"]
    assert outcome["cause"] == "panic"
    assert "main: the kernel panicked after" in outcome["why"]
    assert "sysrq triggered crash" in outcome["why"]
    # Its limit is 30 min, and longer without an accelerator; a panic takes a second, the rest is a busy host.
    assert outcome["seconds"] - outcome["boot_s"] < 5 * 60


def test_a_failure_leaves_a_bundle(summary: tuple[Ended, Path]) -> None:
    results = summary[1]
    bundle = results / IMAGE / "panics" / "run-1"
    assert "Kernel panic" in (bundle / "boot/main-console.log").read_text()
    assert "<domain" in (bundle / "install/main.xml").read_text()
    assert "qemu-img create" in (bundle / "install/commands.sh").read_text()
    assert (bundle / "install/golden-test.toml.txt").read_text() == TESTS["panics"]
    assert (bundle / "disks/main.qcow2").stat().st_size > 0
    fails = results / IMAGE / "quick.fails" / "run-2"
    assert "the reason" in (fails / "logs/1-run.sh-main.log").read_text()
    assert "systemd" in (fails / "logs/main-journal.txt").read_text()
    assert "rakudo-" in (fails / "install/main-packages.txt").read_text()
    passed = results / IMAGE / "quick.passes" / "run-1"
    assert (passed / "collect/main/answer").read_text() == "forty two\n"
    assert sorted(path.name for path in passed.iterdir()) == ["boot", "collect", "logs"]


def test_results_come_on_a_disk(summary: tuple[Ended, Path]) -> None:
    place = summary[1] / IMAGE / "offline" / "run-1"
    assert (place / "collect/main/answer").read_text() == "it's\n"
    assert (place / "logs/1-run.sh-main.log").read_text() == "active\n"
    assert "systemd" in (place / "logs/main-journal.txt").read_text()
    assert "reboot: Power down" in (place / "boot/main-console.log").read_text()


@pytest.mark.usefixtures("no_clones_are_left")
def test_a_bundle_is_opened_again(golden: Golden, summary: tuple[Ended, Path]) -> None:
    bundle = summary[1] / IMAGE / "quick.fails" / "run-2"
    (revived,) = golden("clone", "revive", bundle, "--json").json
    try:
        assert revived["why_not"] is None
        said = golden("clone", "ssh", revived["name"], "--", "cat", "/var/tmp/golden-test-quick_fails/run.sh").stdout
        assert said == FILES["quick/fails/run.sh"]
    finally:
        golden("clone", "destroy", revived["name"])


TOGETHER = """\
machines = ["server", "client"]
lan = true
scripts = ["ask-client.sh", { run = "ask-server.sh", on = "client" }]
"""
# Each hears the other's sshd, by its name, on the network that is theirs.
ASK = """\
bash -c 'read -r -t 120 said < /dev/tcp/{other}/22; echo "$GOLDEN_MACHINE heard $said"' > "$GOLDEN_RESULTS/heard"
grep -q SSH- "$GOLDEN_RESULTS/heard"
"""


@pytest.mark.usefixtures("no_clones_are_left")
def test_two_machines_that_see_each_other_pass_together(golden: Golden, tmp_path: Path) -> None:
    """They are on a network of their own, so they boot: memory that is saved is of machines with one card."""
    folder = tmp_path / "tests/together"
    folder.mkdir(parents=True)
    (folder / "golden-test.toml").write_text(TOGETHER)
    for other in ("client", "server"):
        (folder / f"ask-{other}.sh").write_text(ASK.format(other=other))
    results = tmp_path / "results"
    ended = golden("test", "--folder", folder.parent, "--image", IMAGE, "--results", results, "--json", expect=0)
    assert [(it["test"], it["verdict"]) for it in ended.json["results"]] == [("together", "passed")]
    kept = results / IMAGE / "together/run-1/collect"
    for role in ("server", "client"):
        assert (kept / role / "heard").read_text().startswith(f"{role} heard SSH-2.0")


def test_reports_are_merged(summary: tuple[Ended, Path]) -> None:
    results = summary[1]
    tap = (results / "merged.tap").read_text()
    assert tap.splitlines()[0] == "1..8"
    assert "# flaky: run 1: run.sh on main: exit 1: this is run 1" in tap
    assert "- sandbox-bootstrapped panics # TODO https://bugs.example.org/1" in tap
    (suite,) = JUnitXml.fromfile(str(results / "merged.xml"))
    assert (suite.tests, suite.failures, suite.skipped) == (8, 1, 1)
    (second,) = JUnitXml.fromfile(str(results / "run-2.xml"))
    assert (second.tests, second.failures) == (2, 1)

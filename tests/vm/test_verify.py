"""A night over the shared chain: clones are tested once, what is good is published, and then there is nothing to do.

Then what comes after a bad night: the guilty package found on clones, and a build made once more.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from junitparser import JUnitXml

from tests.vm.conftest import Golden

CHAIN = ["sandbox-base", "sandbox-upgrade", "sandbox-bootstrapped"]
TABLE = '[image.sandbox-bootstrapped]\nparent = "sandbox-upgrade"\n'

GOOD = """verify = { boot_within = "120s", growth = "20%", size_below = "2 GiB", commands = ["raku -e 'say 42'"], \
services = ["sshd.service"], files = { "/etc/passwd" = { mode = "0644", owner = "root:root", contains = "root:" } }, \
tests = ["tests/test_raku.py"] }
"""

BAD = """verify = { packages = ["no-such-package"], commands = ["echo it is broken; exit 3", "true"], \
files = ["/no/such/file"], services = ["no-such.service"], size_below = "1 KiB" }
"""

OWN_TEST = """\
def test_zef_is_there(host):
    assert host.exists("zef")
"""


def with_promises(golden: Golden, folder: Path, table: str) -> Golden:
    """The same images, of which one promises something."""
    project = golden.with_images(folder, "")
    text = project.file.read_text()
    assert TABLE in text
    project.file.write_text(text.replace(TABLE, TABLE + table))
    (folder / "tests").mkdir()
    (folder / "tests/test_raku.py").write_text(OWN_TEST)
    return project


@pytest.fixture(scope="module")
def copied(golden: Golden, shared_path: Path) -> Iterator[Golden]:
    """The shared store as it is, a second time: nights write in many places of one."""
    state = shared_path / "verify-state"
    state.mkdir()
    for name in (golden.store.name, "host", "cache"):
        if (golden.state / name).exists():
            shutil.copytree(golden.state / name, state / name, symlinks=True, ignore=shutil.ignore_patterns("channels"))
    yield Golden(file=golden.file, state=state)
    shutil.rmtree(state)


@pytest.fixture(scope="module")
def project(copied: Golden, shared_path: Path) -> Golden:
    return with_promises(copied, shared_path / "promises", GOOD)


@pytest.fixture(scope="module")
def first_night(project: Golden, shared_path: Path) -> dict[str, object]:
    words = ("--channel", "night-test", "--report", shared_path / "report", "--json")
    night: dict[str, object] = project("nightly", "sandbox-bootstrapped", *words).json
    return night


def clones(golden: Golden) -> list[str]:
    """Of this store: other tests have clones of their own at the same time."""
    listing = subprocess.run(["virsh", "list", "--all", "--name"], capture_output=True, text=True, check=True).stdout
    found = [name for name in listing.split() if name.startswith("golden-verify-")]
    xml = {name: subprocess.run(["virsh", "dumpxml", name], capture_output=True, text=True).stdout for name in found}
    folders = [str(path) for path in (golden.state / "clones").glob("verify-*")]
    return [name for name in found if str(golden.state) in xml[name]] + folders


def test_a_night_verifies_what_is_built_and_publishes_it(
    project: Golden, first_night: dict[str, object], shared_path: Path
) -> None:
    assert first_night["exit_code"] == 0
    turns = {turn["image"]: turn for turn in first_night["turns"]}  # type: ignore[attr-defined]
    assert {image: turn["outcome"] for image, turn in turns.items()} == dict.fromkeys(CHAIN, "verified")
    assert all(turn["boot_s"] > 1 for turn in turns.values())
    # What every image promises, and what one promises on top of it.
    assert {image: turn["checks"] for image, turn in turns.items()} == dict(zip(CHAIN, (8, 8, 15), strict=True))
    assert sorted(first_night["publication"]["set"]) == sorted(CHAIN)  # type: ignore[index]
    assert project("repo", "check", "--channel", "night-test", "--json").json["packages"] == 6
    page = (shared_path / "report" / "index.html").read_text()
    assert "sandbox-bootstrapped" in page and "published to night-test" in page
    assert clones(project) == []


def test_a_clone_was_tested_for_all_that_its_image_promises(project: Golden, first_night: dict[str, object]) -> None:
    ended = project("verify", "sandbox-bootstrapped", "--json")
    (verdict,) = ended.json
    assert verdict["passed"] is True
    assert "nothing changed since" in ended.stderr  # the night's verdict stands, and so it does after a build
    built = project("build", "sandbox-bootstrapped", "--verify")
    assert "nothing changed since" in built.stderr
    results = {check["name"]: check["result"] for check in verdict["tests"]}
    expected = {
        "a clone boots and takes the project's key",
        "default target is reached",
        "boot is within its budget",
        "no unit failed",
        "package is installed: rakudo",
        "package is installed: raku-zef",
        "service runs and is enabled: sshd.service",
        "file is there: /etc/passwd",
        "command succeeds: raku -e 'say 42'",
        "address is from dhcp",
        "machine id is its own",
        "host keys are its own",
        "test_raku: zef is there",
        "budget: size is below 2.0 GiB",
    }
    assert {name: results.get(name) for name in expected} == dict.fromkeys(expected, "passed")
    assert results["selinux is as declared"] == "skipped"
    logs = project.store / "logs" / f"{verdict['image']}-{verdict['version']}" / "verify"
    assert JUnitXml.fromfile(str(logs / "junit.xml")).tests == len(verdict["tests"])
    assert "Linux version" in (logs / "console.log").read_text(errors="replace")
    facts = project("show", "sandbox-bootstrapped", "--json").json
    assert verdict["sha256"] == facts["id"]["sha256"]


def test_a_night_in_which_nothing_changed_starts_no_machine(project: Golden, first_night: dict[str, object]) -> None:
    again = project("nightly", "sandbox-bootstrapped", "--channel", "night-test", "--json").json
    assert [turn["outcome"] for turn in again["turns"]] == ["stands"] * 3
    assert (again["exit_code"], again["accelerator"], again["publication"]["is_new"]) == (0, None, False)
    # Nothing was started at all: a step of a night has a log.
    assert list((project.store / "nights" / again["version"] / "logs").iterdir()) == []


def test_a_build_that_is_not_what_it_promises_is_named_with_what_broke(
    copied: Golden, first_night: dict[str, object], shared_path: Path
) -> None:
    broken = with_promises(copied, shared_path / "broken", BAD)
    ended = broken("verify", "sandbox-bootstrapped", "--json", expect=5)
    (verdict,) = ended.json
    assert verdict["passed"] is False
    failed = {check["name"]: check["message"] for check in verdict["tests"] if check["result"] == "failed"}
    assert set(failed) == {
        "package is installed: no-such-package",
        "service runs and is enabled: no-such.service",
        "file is there: /no/such/file",
        "command succeeds: echo it is broken; exit 3",
        "budget: size is below 1.0 KiB",
    }
    assert failed["command succeeds: echo it is broken; exit 3"] == "exit 3\nit is broken"
    for text in ("is not what it promises: 5 tests failed", "no-such-package", "/no/such/file is not there", "kept"):
        assert text in ended.stderr
    logs = broken.store / "logs" / f"{verdict['image']}-{verdict['version']}" / "verify"
    assert {path.name for path in logs.iterdir()} >= {"console.log", "journal.log", "junit.xml", "promises.json"}
    assert "systemd" in (logs / "journal.log").read_text(errors="replace")
    record = broken.store / "verified" / f"{verdict['image']}-{verdict['version']}.json"
    assert json.loads(record.read_text())["passed"] is False
    assert clones(broken) == []


def with_tree(golden: Golden, folder: Path) -> Golden:
    """The same, but for a newer build of sandbox-upgrade that has the package tree, and was found broken by it.

    Of a bad build its package list and its verdict count; nothing of it is started.
    """
    project = golden.with_images(folder, "")
    text = project.file.read_text()
    parent = '[image.sandbox-upgrade]\nparent = "sandbox-base"\n'
    assert parent in text
    project.file.write_text(text.replace(parent, parent + 'verify = { commands = ["! command -v tree"] }\n'))
    lists = [path.read_text().split() for path in (project.store / "images").glob("sandbox-tools-installed-*.packages")]
    tree = next(nevra for nevra in lists[0] if nevra.startswith("tree-"))
    facts = project("show", "sandbox-upgrade", "--json").json
    good, bad = (f"sandbox-upgrade-{version}" for version in (facts["id"]["version"], "20991231.1"))
    facts["id"]["version"] = "20991231.1"
    images, verified = project.store / "images", project.store / "verified"
    packages = "".join(f"{line}\n" for line in sorted([*(images / f"{good}.packages").read_text().split(), tree]))
    facts["packages_sha256"] = hashlib.sha256(packages.encode()).hexdigest()
    (images / f"{bad}.packages").write_text(packages)
    shutil.copy(images / f"{good}.qcow2", images / f"{bad}.qcow2")
    (images / f"{bad}.json").write_text(json.dumps({key: facts[key] for key in facts if key != "file"}))
    verdict = json.loads((verified / f"{good}.json").read_text()) | {
        "version": "20991231.1",
        "passed": False,
        "tests": [{"name": "command succeeds: ! command -v tree", "result": "failed"}],
    }
    (verified / f"{bad}.json").write_text(json.dumps(verdict))
    return project


def test_the_package_that_broke_an_image_is_found_on_clones(
    copied: Golden, first_night: dict[str, object], shared_path: Path
) -> None:
    project = with_tree(copied, shared_path / "bisect")
    try:
        found = project("bisect", "sandbox-upgrade", "--no-reboot", "--json").json
    finally:
        for path in copied.store.glob("*/sandbox-upgrade-20991231.1*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert [(it["name"], it["kind"]) for it in found["guilty"]] == [("tree.x86_64", "added")]
    assert found["along"] == []
    assert found["tests"] == ["command succeeds: ! command -v tree"]
    assert found["trials"] == 2  # the good build as it is, and with the package
    assert clones(copied) == []


def test_a_build_is_made_once_more_beside_the_store_of_the_same_packages(
    copied: Golden, first_night: dict[str, object]
) -> None:
    before = {path.name for path in (copied.store / "images").iterdir()}
    again = copied("reproduce", "sandbox-upgrade", "--run", "--json").json
    facts = copied("show", "sandbox-upgrade", "--json").json
    assert again["build"] == f"sandbox-upgrade-{facts['id']['version']}"
    assert (again["packages"], again["changes"]) == (facts["packages"], [])
    assert {path.name for path in (copied.store / "images").iterdir()} == before
    assert not (copied.store / "reproduced").exists()

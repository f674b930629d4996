"""Budgets, generated tests, verdicts, and what is said of a build that is not what it promises."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from builder import verdicts, verification, verify
from builder.cli import golden
from builder.errors import ConfigError, HostError
from builder.model import Build
from builder.promises import Promises, promises
from builder.store import Store, write_atomically
from builder.tools import testinfra
from builder.units import MIB
from builder.verdicts import Check, Verdict
from tests.builds import make_build, make_project


def verdict(build: Build, *, passed: bool = True, boot_s: float | None = 20.0, promises: str = "") -> Verdict:
    tests = () if passed else (Check(name="command succeeds: raku", result="failed", message="exit 1\nno raku"),)
    return Verdict(
        image=build.image,
        version=build.version,
        sha256=build.id.sha256,
        passed=passed,
        at="2026-11-21T10:00:00+00:00",
        seconds=30,
        boot_s=boot_s,
        accelerator="tcg",
        promises=promises,
        tests=tests,
    )


def add(store: Store, version: str, packages: str, *, size_bytes: int = 1) -> Build:
    store.images.mkdir(parents=True, exist_ok=True)
    build = make_build(
        "sandbox-base", version=version, digest=hashlib.sha256(version.encode()).hexdigest(), size_bytes=size_bytes
    )
    store.qcow2(build).write_bytes(b"x" * min(size_bytes, 1))
    store.package_list(build).write_text(packages)
    write_atomically(store.facts(build), build.model_dump_json())
    return build


def failed(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.message for check in checks if check.result == "failed"}


OLD = make_build("sandbox-base", version="20261120.1", size_bytes=200 * MIB)


@pytest.mark.parametrize(
    ("size_mib", "boot_s", "broken"),
    [
        (239, 24.9, {}),
        (241, 20.0, {"budget: size grew by at most 20%": "200.0 MiB in 20261120.1, now 241.0 MiB"}),
        (200, 25.1, {"budget: boot time grew by at most 20%": "20.0 s in 20261120.1, now 25.1 s"}),
        (100, None, {}),
    ],
)
def test_growth_over_the_last_good_build(size_mib: int, boot_s: float | None, broken: dict[str, str]) -> None:
    build = make_build("sandbox-base", size_bytes=size_mib * MIB)
    found = verify.budgets(
        Promises(growth_percent=20), build, boot_s=boot_s, accelerator="tcg", last_good=(OLD, verdict(OLD))
    )
    assert failed(found) == broken


def test_a_little_growth_of_a_small_layer_is_noise() -> None:
    old = make_build("sandbox-base", version="20261120.1", size_bytes=MIB)
    build = make_build("sandbox-base", size_bytes=16 * MIB)
    asked = Promises(growth_percent=1)
    last = (old, verdict(old, boot_s=10.0))
    assert not failed(verify.budgets(asked, build, boot_s=14.9, accelerator="tcg", last_good=last))
    assert failed(verify.budgets(asked, build, boot_s=15.1, accelerator="tcg", last_good=last))


def test_boots_with_and_without_kvm_are_not_compared() -> None:
    found = verify.budgets(
        Promises(growth_percent=20), OLD, boot_s=90, accelerator="kvm", last_good=(OLD, verdict(OLD))
    )
    assert [check.name for check in found] == ["budget: size grew by at most 20%"]


def test_a_limit_of_its_own_needs_no_older_build() -> None:
    asked = Promises(size_below_bytes=200 * MIB, growth_percent=20)
    found = verify.budgets(asked, OLD, boot_s=20, accelerator="tcg", last_good=None)
    assert failed(found) == {"budget: size is below 200.0 MiB": "it has 200.0 MiB"}


def test_the_generated_tests_hold_what_is_promised(tmp_path: Path) -> None:
    asked = Promises(packages=("jq",), boot_within_s=30, commands=('it\'s "quoted" $HOME',))
    file = verify.write_tests(asked, OLD, work=tmp_path / "verify", boot_limit_s=600, time_factor=5)
    written = json.loads(file.with_name("promises.json").read_text())
    assert file.name == "golden_promises.py"
    assert written["packages"] == ["jq"]
    assert written["commands"] == ['it\'s "quoted" $HOME']
    assert (written["boot_within_s"], written["boot_limit_s"]) == (150, 600)
    assert written["built_at"] == datetime.fromisoformat(OLD.finished).timestamp()


def test_tests_that_the_project_lacks_are_named_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no tests/web.py beside golden.toml"):
        verify.check(make_project(tmp_path), Promises(tests=("tests/web.py",)))


def test_without_testinfra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(HostError, match="pytest-testinfra is not on this machine") as caught:
        testinfra.need()
    assert "pip install 'golden[verify]'" in (caught.value.try_next or "")


def test_a_verdict_is_of_one_file_alone(tmp_path: Path) -> None:
    store = Store(tmp_path, "demo")
    build = add(store, "20261121.1", "bash-5.1-1.x86_64\n")
    verdicts.write(store, verdict(build), build)
    assert verdicts.read(store, build) == verdict(build)
    other = build.model_copy(update={"id": build.id.model_copy(update={"sha256": "f" * 64})})
    assert verdicts.read(store, other) is None
    verdicts.place(store, build).write_text("{")
    assert verdicts.read(store, build) is None


def test_the_last_good_build_is_the_newest_older_one_that_passed_and_is_there(tmp_path: Path) -> None:
    store = Store(tmp_path, "demo")
    builds = [add(store, f"20261121.{number}", "bash-5.1-1.x86_64\n") for number in (1, 2, 9, 10)]
    for build, passed in zip(builds, (True, True, False, True), strict=True):
        verdicts.write(store, verdict(build, passed=passed), build)
    assert verdicts.last_good(store, builds[3]) == (builds[1], verdict(builds[1]))
    store.qcow2(builds[1]).unlink()
    assert verdicts.last_good(store, builds[3]) == (builds[0], verdict(builds[0]))
    assert verdicts.last_good(store, builds[0]) is None


def test_a_failure_names_what_broke_and_the_packages_since_the_last_good_build(tmp_path: Path) -> None:
    store = Store(tmp_path, "demo")
    good = add(store, "20261121.1", "bash-5.1-1.x86_64\njq-1.6-1.x86_64\n")
    bad = add(store, "20261121.2", "bash-5.2-1.x86_64\ntree-2-1.x86_64\n")
    verdicts.write(store, verdict(good), good)
    error = verification.failure(store, bad, verdict(bad, passed=False))
    assert error.exit_code == 5
    assert error.what == "'sandbox-base-20261121.2' is not what it promises: a test failed"
    rows = dict(error.rows())
    assert rows["failed"] == "command succeeds: raku\nexit 1\nno raku"
    assert rows["packages"].splitlines() == [
        "against 20261121.1, which was good:",
        "bash.x86_64 5.1-1 -> 5.2-1",
        "jq.x86_64 1.6-1 -> gone",
        "tree.x86_64 new -> 2-1",
    ]
    assert rows["try"] == "golden bisect sandbox-base"


def test_without_a_good_build_there_is_nothing_to_bisect(tmp_path: Path) -> None:
    store = Store(tmp_path, "demo")
    bad = add(store, "20261121.2", "bash-5.2-1.x86_64\n")
    assert dict(verification.failure(store, bad, verdict(bad, passed=False)).rows())["try"].startswith("golden clone")


def test_a_verdict_stands_until_something_else_is_promised(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    store = Store(tmp_path, "demo")
    build = add(store, "20261121.1", "bash-5.1-1.x86_64\n")
    same = promises(project, "sandbox-base").digest()
    verdicts.write(store, verdict(build, promises=same), build)
    assert verification.standing(project, store, build) is not None
    verdicts.write(store, verdict(build, promises="other"), build)
    assert verification.standing(project, store, build) is None
    verdicts.write(store, verdict(build, promises=same, passed=False), build)
    assert verification.standing(project, store, build) is None


def test_what_with_builds_is_not_verified(tmp_path: Path) -> None:
    ended = CliRunner().invoke(golden, ["--state", str(tmp_path), "build", "x", "--with", "y", "--verify"])
    assert isinstance(ended.exception, ConfigError)
    assert ended.exception.what == "--verify is for the images of golden.toml; what --with builds is yours to test"

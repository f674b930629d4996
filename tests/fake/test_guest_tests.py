"""The generated tests and pytest around them, for real; only ssh is one that runs commands on this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

import pytest

from builder import verify
from builder.errors import ToolError
from builder.model import FileCheck
from builder.promises import Promises
from builder.tools import ssh
from builder.verdicts import Check
from tests.builds import make_build
from tests.fake.conftest import Fake

# The last word is the command; the connection's own business (`-O exit`) is none.
SSH = 'for last; do :; done; [ "$last" = clone ] || exec sh -c "$last"'

OWN = """\
import pytest
def test_the_host_answers(host):
    assert host.run("echo it is me").stdout.strip() == "it is me"
@pytest.mark.parametrize("number", [41, 42])
def test_a_number(host, number):
    assert number == 42, "not the answer"
"""


def inspect(promises: Promises, folder: Path) -> dict[str, Check]:
    checks, _ = verify.inspect(
        ssh.Target(port=1, key=folder / "key"),
        promises,
        make_build("sandbox-base"),
        project=folder,
        work=folder / "verify",
        boot_limit_s=1,
        time_factor=1,
        watch=lambda: None,
    )
    return {check.name: check for check in checks}


def test_each_promise_is_a_test_with_what_was_found_instead(fake: Fake, tmp_path: Path) -> None:
    fake("ssh", SSH)
    file = tmp_path / "a 'file'"
    file.write_text("some text\n")
    file.chmod(0o640)
    (tmp_path / "test_own.py").write_text(OWN)
    asked = Promises(
        commands=("true", "echo 'so it \"ends\"' >&2; exit 7"),
        files={
            str(file): FileCheck(mode=0o640, contains="some"),
            f"{tmp_path}/gone": FileCheck(),
            str(tmp_path / "test_own.py"): FileCheck(mode=0o600, contains="no such text"),
        },
        tests=("test_own.py",),
    )
    found = inspect(asked, tmp_path)
    assert found["command succeeds: true"].result == "passed"
    broken = found["command succeeds: echo 'so it \"ends\"' >&2; exit 7"]
    assert (broken.result, broken.message) == ("failed", 'exit 7\nso it "ends"')
    assert found[f"file is there: {file}"].result == "passed"
    assert found[f"file is there: {tmp_path}/gone"].message == f"{tmp_path}/gone is not there"
    assert found[f"file is there: {tmp_path}/test_own.py"].message.endswith("test_own.py has mode 644, not 600")
    assert found["test_own: the host answers"].result == "passed"
    assert found["test_own: a number: 41"].message == "not the answer"
    assert found["test_own: a number: 42"].result == "passed"
    assert "no unit failed" in found and "machine id is its own" in found
    assert not list(tmp_path.rglob("__pycache__"))


@pytest.mark.parametrize(
    ("mode", "is_own", "result", "message"),
    [
        ("enforcing", False, "skipped", "the guest has no SELinux"),
        ("enforcing", True, "failed", "the guest has no SELinux; golden.toml says that it is enforcing"),
        ("permissive", True, "failed", "the guest has no SELinux; golden.toml says that it is permissive"),
        ("disabled", True, "passed", ""),
    ],
)
def test_a_guest_without_selinux_breaks_a_mode_of_the_projects(
    fake: Fake,
    tmp_path: Path,
    mode: Literal["enforcing", "permissive", "disabled"],
    is_own: bool,
    result: str,
    message: str,
) -> None:
    fake("ssh", SSH)
    fake("getenforce", "exit 1")
    found = inspect(Promises(selinux=mode, selinux_is_own=is_own), tmp_path)["selinux is as declared"]
    assert (found.result, found.message) == (result, message)


def test_a_configuration_of_the_projects_for_pytest_does_not_count(fake: Fake, tmp_path: Path) -> None:
    fake("ssh", SSH)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    assert inspect(Promises(commands=("true",)), tmp_path)["command succeeds: true"].result == "passed"


def test_tests_that_cannot_run_are_an_error_with_pytests_words(fake: Fake, tmp_path: Path) -> None:
    fake("ssh", SSH)
    (tmp_path / "test_own.py").write_text("import no_such_module\n")
    with pytest.raises(ToolError, match="could not test a clone of sandbox-base") as caught:
        inspect(Promises(tests=("test_own.py",)), tmp_path)
    assert "No module named 'no_such_module'" in dict(caught.value.details)["output"]


def test_a_guest_that_dies_ends_the_tests(fake: Fake, tmp_path: Path) -> None:
    fake("ssh", 'for last; do :; done; [ "$last" = clone ] || sleep 1000')
    begin = time.monotonic()

    def died() -> None:
        if time.monotonic() - begin > 2:
            raise ToolError("the clone died: the kernel panicked")

    with pytest.raises(ToolError, match="the kernel panicked"):
        verify.inspect(
            ssh.Target(port=1, key=tmp_path / "key"),
            Promises(),
            make_build("sandbox-base"),
            project=tmp_path,
            work=tmp_path / "verify",
            boot_limit_s=1,
            time_factor=1,
            watch=died,
        )
    assert time.monotonic() - begin < 500

"""One login that several commands go along with, at a real sshd."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import run
from builder.errors import ToolError
from builder.tools import scp, ssh
from tests.tools.test_push import sshd


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ssh.Target]:
    with sshd(tmp_path / "ssh", monkeypatch) as folder:
        port = int((folder / "sshd_config").read_text().partition("Port ")[2].split()[0])
        yield ssh.Target(port=port, key=folder / "user", user=getpass.getuser())


def connection(target: ssh.Target) -> str:
    """The address and port that a command there came from."""
    words = ssh.command(target, "sh", "-c", "echo $SSH_CONNECTION")
    return " ".join(run.query(words, why="ask", timeout_s=60).split()[:2])


def masters(folder: Path) -> list[str]:
    listed = subprocess.run(["ps", "-ewwo", "args"], check=True, capture_output=True, text=True).stdout
    return [line for line in listed.splitlines() if str(folder) in line]


def test_commands_and_copies_go_along_until_it_is_over(target: ssh.Target, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    with ssh.shared_login(target) as login:
        assert connection(login.target) != connection(login.target), "it has begun before it was told to"
        login.begin(timeout_s=60)
        first = connection(login.target)
        assert connection(login.target) == first != connection(target)
        scp.send(login.target, tmp_path / "file", str(tmp_path / "copy"))
        assert (tmp_path / "copy").read_text() == "content"
        login.begin(timeout_s=60)
        assert connection(login.target) not in ("", first)
        socket = login.target.shared
        assert socket is not None and socket.exists()
    assert not socket.parent.exists()
    assert wait_until_none(socket.parent)
    assert connection(login.target) != connection(login.target)


def test_what_ends_with_an_error_there_does_so_here(target: ssh.Target) -> None:
    with ssh.shared_login(target) as login:
        login.begin(timeout_s=60)
        with pytest.raises(ToolError) as caught:
            run.query(ssh.command(login.target, "sh", "-c", "echo no >&2; exit 7"), why="try", timeout_s=60)
    assert dict(caught.value.details) | {"command": ""} == {"command": "", "end": "exit 7", "output": "no"}


def test_that_of_a_golden_that_was_killed_goes_with_the_next(
    target: ssh.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of its own: the next golden may be that of another test.
    with tempfile.TemporaryDirectory(prefix="golden-", dir="/tmp") as place:
        monkeypatch.setattr(ssh, "_SHORT", Path(place))
        left = one_that_is_killed(target, place)
        assert left.is_dir()
        assert masters(left)
        with ssh.shared_login(target):
            assert not left.exists()
            assert wait_until_none(left)


def one_that_is_killed(target: ssh.Target, place: str) -> Path:
    code = f"""
import os, signal
from pathlib import Path
from builder.tools import ssh
ssh._SHORT = Path({place!r})
with ssh.shared_login(ssh.Target.model_validate_json({target.model_dump_json()!r})) as login:
    login.begin(timeout_s=60)
    print(login.target.shared, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    words = [sys.executable, "-c", code]
    said = subprocess.run(words, check=False, stdout=subprocess.PIPE, text=True, env=dict(os.environ)).stdout
    return Path(said.strip()).parent


def wait_until_none(folder: Path) -> bool:
    deadline = time.monotonic() + 60
    while masters(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not masters(folder)

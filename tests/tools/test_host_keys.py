"""Which sshd has to be told of new host keys, by the real sshd of this host: none may go on with the old ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from builder.clones import agent, saved
from builder.tools.free_port import free_port

CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/ssh_host_ed25519_key
PidFile none
"""


def host_key(port: int) -> str:
    """What sshd shows; empty as long as it does not answer."""
    words = ["ssh-keyscan", "-T", "30", "-t", "ed25519", "-p", str(port), "127.0.0.1"]
    answer = subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()
    return answer[-1] if answer else ""


def wait_for_key(port: int, wanted: str, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + 60
    while host_key(port) != wanted:
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@contextmanager
def sshd(folder: Path, *more: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """On loopback, with the key that lies in `folder`; and its port."""
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None
    old = (folder / "ssh_host_ed25519_key.pub").read_text().split()[1]
    for _ in range(5):  # somebody else may take the port
        port = free_port()
        (folder / "sshd_config").write_text(CONFIG.format(port=port, folder=folder))
        with subprocess.Popen([program, "-D", "-e", *more, "-f", folder / "sshd_config"]) as process:
            try:
                if wait_for_key(port, old, process):
                    yield process, port
                    return
            finally:
                process.terminate()
    pytest.fail("sshd does not start")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(agent, "SSH", tmp_path)
    for name in ("ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"):
        (tmp_path / name).touch(mode=0o600)
    agent.replace_host_keys(agent.open_host_keys(), saved.make_host_keys(["ed25519"]))
    return tmp_path


def replaced(folder: Path) -> str:
    agent.replace_host_keys(agent.open_host_keys(), saved.make_host_keys(["ed25519"]))
    return (folder / "ssh_host_ed25519_key.pub").read_text().split()[1]


def test_each_connection_sees_the_new_key(folder: Path) -> None:
    with sshd(folder) as (process, port):
        keeps = agent.keeps_its_keys(Path(f"/proc/{process.pid}"))
        new = replaced(folder)
        if keeps:
            agent.hang_up(process.pid)
            assert wait_for_key(port, new, process)
        else:
            # The very next one: nothing is waited for in a guest either.
            assert host_key(port) == new


def test_one_that_keeps_its_keys_is_told(folder: Path) -> None:
    old = (folder / "ssh_host_ed25519_key.pub").read_text().split()[1]
    with sshd(folder, "-r") as (process, port):
        assert agent.keeps_its_keys(Path(f"/proc/{process.pid}"))
        new = replaced(folder)
        assert host_key(port) == old
        agent.hang_up(process.pid)
        assert wait_for_key(port, new, process)

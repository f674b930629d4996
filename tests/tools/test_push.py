"""Channels copied to where clients are, by the real rsync: to a folder, to its daemon, and by a real sshd."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import run
from builder.channels import compose as composes
from builder.channels import push, rollback
from builder.errors import ConfigError, ToolError
from builder.model import Build
from builder.night_steps import attempt
from builder.store import Store
from builder.tools import rsync, ssh
from builder.tools.free_port import free_port
from builder.tools.webserver import serving
from tests.builds import add_build
from tests.clients import Client
from tests.mirror import silent
from tests.tools.conftest import Publisher

URL = "http://mirror.example/golden"

# Nothing of this machine's own sshd, and nothing of this user's own ssh.
SSHD = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PidFile none
Subsystem sftp internal-sftp
"""
SSH = """\
Host mirror.example
  HostName 127.0.0.1
  Port {port}
  IdentityFile {folder}/user
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile none
  HostKeyAlias mirror.example
"""


@pytest.fixture(params=["folder", "daemon", "ssh"])
def target(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Path]]:
    """What golden.toml says, and the folder that it is."""
    there = tmp_path / "srv"
    there.mkdir()
    if request.param == "folder":
        yield str(there), there
    elif request.param == "ssh":
        with sshd(tmp_path / "ssh", monkeypatch):
            yield f"{getpass.getuser()}@mirror.example:{there}", there
    else:
        with daemon(tmp_path, there) as address:
            yield address, there


@contextlib.contextmanager
def daemon(folder: Path, there: Path) -> Iterator[str]:
    port = free_port()
    config = folder / "rsyncd.conf"
    config.write_text(
        f"use chroot = no\npid file = {folder}/rsyncd.pid\nlog file = {folder}/rsyncd.log\n"
        f"[golden]\npath = {there}\nread only = no\nuid = {os.getuid()}\ngid = {os.getgid()}\n"
    )
    words = ["rsync", "--daemon", "--no-detach", "--address=127.0.0.1", f"--port={port}", f"--config={config}"]
    with subprocess.Popen(words) as process:
        try:
            address = f"rsync://127.0.0.1:{port}/golden"
            deadline = time.monotonic() + 20
            while subprocess.run(["rsync", f"{address}/"], capture_output=True, check=False).returncode:
                assert time.monotonic() < deadline and process.poll() is None
            yield address
        finally:
            process.send_signal(signal.SIGTERM)


@contextlib.contextmanager
def sshd(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A real one on loopback, and an `ssh` that reaches it as mirror.example; yields the folder of their keys."""
    folder.mkdir()
    for name in ("host", "user"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(words, check=True)
    (folder / "known_hosts").write_text(f"mirror.example {(folder / 'host.pub').read_text()}")
    wrapper = folder / "bin" / "ssh"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/config "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where it has no rights; its package makes it at boot
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None
    for _ in range(5):  # somebody else may take the port
        port = free_port()
        (folder / "sshd_config").write_text(SSHD.format(port=port, folder=folder))
        (folder / "config").write_text(SSH.format(port=port, folder=folder))
        with subprocess.Popen([program, "-D", "-e", "-f", folder / "sshd_config"]) as process:
            try:
                if is_up(["ssh", "mirror.example", "true"], process):
                    yield folder
                    return
            finally:
                process.terminate()
    pytest.fail("sshd does not start")


def is_up(question: list[str], process: subprocess.Popen[bytes]) -> bool:
    """Whether the question is answered well before the process ends."""
    deadline = time.monotonic() + 60
    while subprocess.run(question, capture_output=True, check=False).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_channel_is_copied_and_only_what_is_new_is_sent(
    store: Store, chain: dict[str, Build], publisher: Publisher, target: tuple[str, Path], tmp_path: Path
) -> None:
    address, there = target
    first = publisher.publish(chain["sandbox-base"])
    assert push(store, "candidate", target=address).compose == first.compose
    assert tree(there / "candidate") == tree(store.channels / "candidate")

    second = publisher.publish(chain["sandbox-bootstrapped"])
    push(store, "candidate", target=address)
    assert tree(there / "candidate") == tree(store.channels / "candidate")
    old, new = (there / "candidate/composes" / name / "Packages" for name in (first.compose, second.compose))
    for path in old.iterdir():
        assert path.samefile(new / path.name)  # linked over there, not sent

    with serving(there) as server:
        client = Client(tmp_path / "client", server.url, publisher.signer)
        client.install("golden-sandbox-bootstrapped")
        assert client.rpm("--verify", "--all") == []

    rollback(store, "candidate", prefix="golden", url=URL)
    push(store, "candidate", target=address)
    assert composes.current(there / "candidate") == there / "candidate/composes" / first.compose


def test_composes_that_were_collected_go_from_the_target_and_nothing_else(
    store: Store, chain: dict[str, Build], publisher: Publisher, target: tuple[str, Path]
) -> None:
    address, there = target
    first = publisher.publish(chain["sandbox-base"])
    push(store, "candidate", target=address)
    (there / "candidate/composes/README").write_text("theirs")
    (there / "other").mkdir()
    publisher.publish(chain["sandbox-upgrade"])
    gone = store.channels / "candidate/composes" / first.compose
    gone.rename(gone.with_name(".old"))
    assert push(store, "candidate", target=address).removed == (first.compose,)
    assert not (there / "candidate/composes" / first.compose).exists()
    assert (there / "candidate/composes/README").read_text() == "theirs"
    assert (there / "other").is_dir()
    client_sees = composes.need_current(there / "candidate")
    assert len(list((client_sees / "Packages").glob("*.rpm"))) == 4


@pytest.mark.parametrize("broken", [0, 1, 2, 3])
def test_a_transfer_that_breaks_off_leaves_the_target_s_clients_on_the_old_compose(
    store: Store,
    chain: dict[str, Build],
    publisher: Publisher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    broken: int,
) -> None:
    there = tmp_path / "srv"
    there.mkdir()
    first = publisher.publish(chain["sandbox-base"])
    push(store, "candidate", target=str(there))
    second = publisher.publish(chain["sandbox-upgrade"])
    calls: list[str] = []
    real = rsync._run

    def breaks(argv: object, *, why: str, log: Path) -> None:
        calls.append(why)
        if len(calls) > broken:
            raise ToolError(f"could not {why}")
        real(argv, why=why, log=log)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(ToolError, match="could not"):
        patch.setattr(rsync, "_run", breaks)
        push(store, "candidate", target=str(there))
    assert composes.need_current(there / "candidate").name == first.compose
    push(store, "candidate", target=str(there))
    assert composes.need_current(there / "candidate").name == second.compose
    assert tree(there / "candidate") == tree(store.channels / "candidate")


def test_a_machine_whose_key_is_not_known_is_not_written_to_and_nobody_is_asked(
    store: Store, chain: dict[str, Build], publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.publish(chain["sandbox-base"])
    (tmp_path / "srv").mkdir()
    with sshd(tmp_path / "ssh", monkeypatch) as keys:
        (keys / "known_hosts").write_text(f"mirror.example {(keys / 'user.pub').read_text()}")
        with pytest.raises(ToolError) as refused:
            push(store, "candidate", target=f"{getpass.getuser()}@mirror.example:{tmp_path / 'srv'}")
    assert "Host key verification failed" in dict(refused.value.details)["output"]
    assert list((tmp_path / "srv").iterdir()) == []


@pytest.mark.parametrize("greeting", [b"", b"@RSYNCD: 31.0 sha256 md5\n"])
def test_a_target_that_stalls_is_given_up_and_may_be_tried_again(
    store: Store, publisher: Publisher, monkeypatch: pytest.MonkeyPatch, chain: dict[str, Build], greeting: bytes
) -> None:
    monkeypatch.setattr(rsync, "_SILENCE_S", 1)
    publisher.publish(chain["sandbox-base"])
    with silent(greeting) as port, pytest.raises(ToolError, match="could not make rsync://") as told:
        push(store, "candidate", target=f"rsync://127.0.0.1:{port}/golden")
    details = dict(told.value.details)
    assert (details["end"], "io timeout after 1 seconds" in details["output"]) == ("exit 30", True)
    assert attempt("publish", told.value).cause == "network"
    with silent(greeting) as port, pytest.raises(ToolError, match="could not list") as told:
        rsync.names(f"rsync://127.0.0.1:{port}/golden")
    assert dict(told.value.details)["end"] == "exit 30"


def test_a_client_of_the_target_never_sees_half(store: Store, publisher: Publisher, tmp_path: Path) -> None:
    there = tmp_path / "srv"
    there.mkdir()
    builds = [add_build(store, "sandbox-base", version=f"20261121.{count}") for count in range(1, 12)]
    rpms = publisher.rpms(*builds)
    publisher.publish_rpms(rpms[:2])
    push(store, "candidate", target=str(there))
    wrong: list[str] = []
    counts: list[int] = []
    is_over = threading.Event()
    with serving(there) as server:
        client = Client(tmp_path / "client", server.url, publisher.signer)

        def ask() -> None:
            while not is_over.is_set():
                try:
                    counts.append(len(client.dnf("repoquery", "--quiet", "golden-sandbox-base").split()))
                except ToolError as error:
                    wrong.append(str(error.details))

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            for number in range(1, 11):
                publisher.publish_rpms(rpms[2 * number : 2 * number + 2])
                push(store, "candidate", target=str(there))
        finally:
            is_over.set()
            asking.join()
    assert not wrong
    assert counts == sorted(counts)
    assert counts


def test_what_cannot_be_pushed_is_said(
    store: Store, chain: dict[str, Build], publisher: Publisher, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="nothing was published to the channel 'candidate' yet"):
        push(store, "candidate", target=str(tmp_path))
    publisher.publish(chain["sandbox-base"])
    with pytest.raises(ToolError, match=r"could not make rsync://127\.0\.0\.1:1/golden/candidate/composes") as refused:
        push(store, "candidate", target="rsync://127.0.0.1:1/golden")
    assert "Connection refused" in dict(refused.value.details)["output"]


def test_a_key_in_a_folder_with_any_name_is_found_by_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A percent sign would be a token of ssh's configuration, which it looks up, and refuses to go on."""
    key = tmp_path / "100%x of 'it', \"all\" \\n" / "id"
    key.parent.mkdir()
    with sshd(tmp_path / "ssh", monkeypatch) as folder:
        shutil.copy(folder / "user", key)
        port = int((folder / "sshd_config").read_text().partition("Port ")[2].split()[0])
        target = ssh.Target(port=port, key=key, user=getpass.getuser())
        assert run.query(ssh.command(target, "echo", "$HOME %x"), why="log in") == "$HOME %x\n"

"""Channels copied to where clients are, by the real rsync: to a folder, to its daemon, and through ssh's pipe."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.channels import compose as composes
from builder.channels import push, rollback
from builder.errors import ConfigError, ToolError
from builder.model import Build
from builder.store import Store
from builder.tools import rsync
from builder.tools.free_port import free_port
from builder.tools.webserver import serving
from tests.builds import add_build
from tests.clients import Client
from tests.tools.conftest import Publisher

URL = "http://mirror.example/golden"

# Stands in for ssh: the command that it would run over there, run here. rsync talks its own protocol through it.
SSH = """#!/bin/sh
while case "$1" in -o | -l) true ;; *) false ;; esac; do shift 2; done
echo "$1" >> "$0.hosts"; shift
exec sh -c "$*"
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
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "ssh").write_text(SSH)
        (folder / "ssh").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        yield f"builder@mirror.example:{there}", there
        assert set((folder / "ssh.hosts").read_text().split()) == {"mirror.example"}
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

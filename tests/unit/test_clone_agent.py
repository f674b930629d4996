"""What the agent in the guest says at its serial port; a pseudo terminal is the port. What it renews: tests/vm."""

from __future__ import annotations

import argparse
import ast
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.clones import agent, saved


class Port:
    """The host's end. said: all that the agent has written."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.said = b""

    def send(self, data: bytes) -> None:
        os.write(self.handle, data)

    def wait_for(self, words: bytes) -> None:
        while words not in self.said:
            self.said += os.read(self.handle, 4096)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[Port]:
    host, guest = os.openpty()
    monkeypatch.setattr(agent, "PORT", Path(os.ttyname(guest)))
    # Nothing of this machine is opened.
    monkeypatch.setattr(agent, "Here", lambda: argparse.Namespace(sshd=0))
    yield Port(host)
    os.close(guest)
    os.close(host)


def started() -> tuple[threading.Thread, list[int]]:
    ends: list[int] = []
    thread = threading.Thread(target=lambda: ends.append(agent.main()), daemon=True)
    thread.start()
    return thread, ends


def test_it_says_that_it_waits_however_often_it_is_asked_and_then_obeys(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[Any] = []
    monkeypatch.setattr(agent, "renew", lambda order, _here, _say: bool(orders.append(order)))
    monkeypatch.setattr(agent, "restart_others", lambda _has_rsa, _sshd: None)
    monkeypatch.setattr(agent, "BREATH_S", 0)
    thread, ends = started()
    port.wait_for(agent.READY)
    port.send(b"?\n?\n")
    port.wait_for(agent.READY * 3)
    port.send(json.dumps({"hostname": "web1", "long": "x" * 3000}).encode() + b"\n")
    port.wait_for(agent.DONE)
    thread.join(10)
    assert ends == [0]
    assert [order["hostname"] for order in orders] == ["web1"]
    # Nothing that was sent came back.
    assert port.said == agent.READY * 3 + agent.DONE


def test_what_fails_is_said(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_order: Any, _here: Any, _say: Any) -> bool:
        raise OSError("no entropy")

    monkeypatch.setattr(agent, "renew", fail)
    thread, ends = started()
    port.wait_for(agent.READY)
    port.send(b"{}\n")
    port.wait_for(agent.FAILED + b"OSError('no entropy')\n")
    thread.join(10)
    assert ends == [1]


def test_the_host_may_log_in_once_keys_and_addresses_are_new_and_the_rest_is_done_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(agent.time, "clock_settime", lambda _clock, _now: done.append("clock"))
    monkeypatch.setattr(agent.socket, "sethostname", lambda _name: done.append("hostname"))
    for name in ("stir", "let_in", "replace_host_keys", "change_cards", "wait_for_addresses", "rewrite"):
        monkeypatch.setattr(agent, name, lambda *_words, name=name: done.append(name) or [])
    (tmp_path / "seed").touch()
    seed = os.open(tmp_path / "seed", os.O_RDWR)
    here = argparse.Namespace(
        **{"random": 0, "host_keys": {}, "certificates": [], "sshd": 0, "cards": {}, "with_address": [], "kept": []},
        **{"listeners": set(), "seeds": [seed], "ids": [1], "hostname": [2]},
    )
    order = {"now": 1.0, "entropy": "", "authorized_key": "ssh-ed25519 x", "host_keys": {}, "macs": {}}
    order |= {"machine_id": "0" * 32, "hostname": "web1"}
    try:
        agent.renew(order, here, lambda word: done.append(word.decode().strip()))
        assert os.fstat(seed).st_size == 512
    finally:
        os.close(seed)
    before = ["clock", "stir", "let_in", "replace_host_keys", "change_cards", "wait_for_addresses"]
    assert done == [*before, "golden: reachable", "rewrite", "hostname", "rewrite"]


@pytest.mark.parametrize(
    ("cmdline", "program", "keeps"),
    [
        (b"sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups\0", b"ELF", False),
        (b"sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups\0", b"/usr/libexec/openssh/sshd-session\0", True),
        (b"/usr/sbin/sshd\0-D\0-r\0", b"ELF", True),
        # An option with a value that only looks like it: to tell it once too often does no harm.
        (b"/usr/sbin/sshd\0-D\0-oCiphers=aes256-ctr\0", b"ELF", True),
    ],
)
def test_sshd_is_told_of_new_keys_if_it_keeps_the_old_ones(
    tmp_path: Path, cmdline: bytes, program: bytes, keeps: bool
) -> None:
    (tmp_path / "cmdline").write_bytes(cmdline)
    (tmp_path / "exe").write_bytes(program)
    assert agent.keeps_its_keys(tmp_path) is keeps


def test_networkd_is_told_to_keep_addresses_until_it_was_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    links, networks, calls = tmp_path / "links", tmp_path / "network", []
    links.mkdir()
    (links / "2").write_text("ADMIN_STATE=configured\nNETWORK_FILE=/etc/systemd/network/80-dhcp.network\n")
    (links / "1").write_text("ADMIN_STATE=unmanaged\n")
    monkeypatch.setattr(agent, "LINKS", links)
    monkeypatch.setattr(agent, "NETWORKS", networks)
    monkeypatch.setattr(agent, "LIB", tmp_path)
    monkeypatch.setattr(agent, "BREATH_S", 0)
    monkeypatch.setattr(agent, "has_address", lambda _card: True)
    monkeypatch.setattr(agent, "call", lambda *words: calls.append(words) or 0)
    (kept,) = agent.keep_addresses(["eth0"])
    assert kept == networks / "80-dhcp.network.d" / "zz-golden-agent.conf"
    assert kept.read_text() == "[Network]\nKeepConfiguration=dhcp\n"
    assert calls == [("networkctl", "reload")]
    monkeypatch.setattr(agent, "IPV6", tmp_path / "ipv6")
    monkeypatch.setattr(agent, "PROFILES", ())
    agent.restart_others(False, argparse.Namespace(sshd=0, kept=[kept], cards={}, with_address=["eth0"]))
    units = ("systemd-networkd", "NetworkManager")
    assert calls[-2:] == [("systemctl", "stop", *units), ("systemctl", "start", *units)]
    assert not kept.exists()


def test_addresses_that_follow_from_who_the_guest_was_go_before_its_network_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    switches = {card: tmp_path / card / "disable_ipv6" for card in ("eth0", "eth1")}
    for card, state in (("eth0", "0\n"), ("eth1", "1\n")):
        switches[card].parent.mkdir()
        switches[card].write_text(state)
    seen = []

    def write_text(path: Path, text: str) -> None:
        seen.append((path.parent.name, text))

    monkeypatch.setattr(agent, "IPV6", tmp_path)
    monkeypatch.setattr(Path, "write_text", write_text)
    agent.forget_ipv6(["eth0", "eth1", "without-ipv6"])
    assert seen == [("eth0", "1\n"), ("eth0", "0\n")]


def test_a_profile_that_was_for_the_card_of_the_saved_guest_is_for_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "PROFILES", (tmp_path / "missing", tmp_path))
    mine, other = tmp_path / "cloud-init-eth0.nmconnection", tmp_path / "ifcfg-eth1"
    mine.write_text("[ethernet]\nmac-address=52:54:00:AA:BB:01\n\n[ipv4]\nmethod=auto\n")
    mine.chmod(0o600)
    other.write_text('HWADDR="52:54:00:aa:bb:02"\n')
    (tmp_path / "no text").write_bytes(b"\xff\xfe=1")
    agent.untie({"52:54:00:aa:bb:01": "eth0"})
    assert mine.read_text() == "[ethernet]\n\n[ipv4]\nmethod=auto\n"
    assert mine.stat().st_mode & 0o777 == 0o600
    assert other.read_text() == 'HWADDR="52:54:00:aa:bb:02"\n'
    assert (tmp_path / "no text").read_bytes() == b"\xff\xfe=1"
    agent.untie({"52:54:00:aa:bb:02": "eth1"})
    assert other.read_text() == ""


def test_a_guest_without_networkd_has_nothing_to_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "LINKS", tmp_path / "none")
    assert agent.keep_addresses(["eth0"]) == []


def test_new_listeners_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([{"1"}, set(), {"1", "2"}, {"2", "3"}])
    monkeypatch.setattr(agent, "listeners", lambda: next(found))
    agent.wait_for_listener({"1"})
    assert list(found) == []


def test_nobody_listens_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "LISTEN_S", 0.05)
    monkeypatch.setattr(agent, "listeners", set)
    agent.wait_for_listener({"1"})
    assert agent.listeners() == set()


def test_the_sockets_that_listen_are_those_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(agent, "SSH_PORT", server.getsockname()[1])
        with socket.create_connection(server.getsockname()) as connected:
            inodes = [str(os.fstat(it.fileno()).st_ino) for it in (server, connected)]
            assert [inode in agent.listeners() for inode in inodes] == [True, False]


def test_it_runs_where_golden_is_not_and_with_an_old_python() -> None:
    tree = ast.parse(Path(str(agent.__file__)).read_text(encoding="utf-8"), feature_version=(3, 6))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert modules == {"pathlib", "typing"}


def test_host_keys_are_replaced_by_the_hosts_and_none_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "SSH", tmp_path)
    for kind in ("ed25519", "rsa"):
        for end in ("", ".pub"):
            (tmp_path / f"ssh_host_{kind}_key{end}").write_text("old, and longer than the new ones: " + "x" * 4000)
            (tmp_path / f"ssh_host_{kind}_key{end}").chmod(0o644 if end else 0o640)
    made = saved.make_host_keys(["ed25519"])
    assert agent.replace_host_keys(agent.open_host_keys(), made)
    assert {path.name for path in tmp_path.iterdir()} == {"ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"}
    private = tmp_path / "ssh_host_ed25519_key"
    assert private.read_text() == made["ed25519"][0]
    # EL's sshd reads keys of a group.
    assert private.stat().st_mode & 0o777 == 0o640
    assert saved.make_host_keys(["ed25519"])["ed25519"] != made["ed25519"]

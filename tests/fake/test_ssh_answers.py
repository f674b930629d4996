"""Waiting for SSH: a guest that is slow, silent, gone, or does not let anybody in."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.errors import ToolError
from builder.tools import ssh
from builder.tools.free_port import free_port
from tests.fake.conftest import Fake

BANNER = b"SSH-2.0-guest\r\n"


class Guest:
    """A port that takes connections. greeting: what it says on each; None: nothing, and it keeps the line open.

    later: what it says from the second on.
    """

    def __init__(self) -> None:
        self.greeting: bytes | None = BANNER
        self.later: bytes | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            if self.greeting is not None:
                connection.sendall(self.greeting)
                connection.close()
            if self.later is not None:
                self.greeting = self.later

    def close(self) -> None:
        self._listener.close()
        for connection in self._open:
            connection.close()


@pytest.fixture
def guest() -> Iterator[Guest]:
    made = Guest()
    yield made
    made.close()


def wait(port: int, *, timeout_s: float = 20, is_alive: bool = True) -> tuple[float, list[str]]:
    reasons: list[str] = []
    target = ssh.Target(port=port, key=Path("/keys/id"))
    return ssh.wait_until_answers(target, timeout_s=timeout_s, is_alive=lambda: is_alive, note=reasons.append), reasons


def why_not(port: int, **options: float) -> tuple[str, str]:
    """The error's headline and the last reason."""
    with pytest.raises(ToolError) as caught:
        wait(port, **options)  # type: ignore[arg-type]
    return caught.value.what, dict(caught.value.details)["last seen"]


def test_a_guest_that_answers_is_waited_for_no_longer(fake: Fake, guest: Guest) -> None:
    fake("ssh", 'echo "$@" > "$0.words"')
    _, reasons = wait(guest.port)
    assert reasons == []


def test_a_machine_that_is_said_to_be_up_is_logged_in_to_at_once(fake: Fake, tmp_path: Path) -> None:
    """Nothing listens: who asked for the name of an sshd first would not come to ssh at all."""
    fake("ssh", f"echo called > {tmp_path / 'called'}")
    target = ssh.Target(port=free_port(), key=Path("/keys/id"))
    ssh.wait_until_answers(target, timeout_s=20, is_alive=lambda: True, note=lambda _: None, is_up=True)
    assert (tmp_path / "called").exists()


def test_one_that_is_not_up_after_all_is_waited_for_as_ever(fake: Fake) -> None:
    fake("ssh", "echo 'Connection refused' >&2; exit 255")
    reasons: list[str] = []
    target = ssh.Target(port=free_port(), key=Path("/keys/id"))
    with pytest.raises(ToolError, match="no answer within"):
        ssh.wait_until_answers(target, timeout_s=1, is_alive=lambda: True, note=reasons.append, is_up=True)
    assert reasons[:2] == ["Connection refused", f"port {target.port} is closed"]


def test_ssh_is_tried_again_until_the_command_runs(fake: Fake, guest: Guest, tmp_path: Path) -> None:
    count = tmp_path / "count"
    fake(
        "ssh", f"echo >> {count}; [ $(wc -l < {count}) -ge 3 ] || {{ echo 'Connection reset by peer' >&2; exit 255; }}"
    )
    _, reasons = wait(guest.port)
    assert reasons == ["Connection reset by peer", "Connection reset by peer"]


def test_a_closed_port_is_named_as_the_reason(fake: Fake) -> None:
    fake("ssh", "exit 0")
    port = free_port()
    what, reason = why_not(port, timeout_s=0.5)
    assert what == f"the machine at port {port} cannot be reached over SSH: no answer within 0 s"
    assert reason == f"port {port} is closed"


def test_a_guest_without_network_is_named_as_the_reason(fake: Fake, guest: Guest) -> None:
    fake("ssh", "exit 0")
    guest.greeting = None
    _, reason = why_not(guest.port, timeout_s=0.5)
    assert reason == "connected, but no sshd says its name: the guest has no network yet"


def test_a_guest_without_sshd_is_named_as_the_reason(fake: Fake, guest: Guest) -> None:
    fake("ssh", "exit 0")
    guest.greeting = b""
    _, reason = why_not(guest.port, timeout_s=0.5)
    assert reason == "the connection is closed: sshd is not up yet"


def test_a_machine_that_went_off_is_not_waited_for(fake: Fake, guest: Guest) -> None:
    fake("ssh", "exit 0")
    what, _ = why_not(guest.port, timeout_s=60, is_alive=False)
    assert what.endswith("the machine went off")


def test_a_machine_that_goes_off_during_a_try_ends_the_try(fake: Fake, guest: Guest) -> None:
    fake("ssh", "exit 0")
    guest.greeting = None
    answers = iter([True, True])
    target = ssh.Target(port=guest.port, key=Path("/keys/id"))
    with pytest.raises(ToolError, match="the machine went off"):
        ssh.wait_until_answers(target, timeout_s=60, is_alive=lambda: next(answers, False), note=lambda _: None)


def test_a_refused_key_is_final(fake: Fake, guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "_REFUSED_GRACE_S", 0.3)
    monkeypatch.setattr(ssh, "_REFUSED_POLL_S", 0.2)
    fake("ssh", "echo 'root@127.0.0.1: Permission denied (publickey).' >&2; exit 255")
    what, reason = why_not(guest.port, timeout_s=60)
    assert what.endswith("the key /keys/id is refused")
    assert reason == "root@127.0.0.1: Permission denied (publickey)."


def test_an_sshd_that_punishes_refused_keys_hides_no_refusal(
    fake: Fake, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from OpenSSH 9.8 on: a few failures, and nobody is let in from there for a while."""
    monkeypatch.setattr(ssh, "_REFUSED_GRACE_S", 1.0)
    monkeypatch.setattr(ssh, "_REFUSED_POLL_S", 0.2)
    fake("ssh", "echo 'root@127.0.0.1: Permission denied (publickey).' >&2; exit 255")
    guest.later = b"Not allowed at this time\r\n"
    what, reason = why_not(guest.port, timeout_s=60)
    assert what.endswith("the key /keys/id is refused")
    assert reason == "root@127.0.0.1: Permission denied (publickey)."


def test_one_that_turns_away_at_first_is_waited_for(fake: Fake, guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "_REFUSED_GRACE_S", 0.0)
    fake("ssh", "exit 0")
    guest.greeting, guest.later = b"Exceeded MaxStartups\r\n", BANNER
    _, reasons = wait(guest.port)
    assert reasons == ["sshd turns connections away: Exceeded MaxStartups"]


def test_a_key_that_is_let_in_a_moment_later_is_fine(
    fake: Fake, guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "_REFUSED_POLL_S", 0.2)
    mark = tmp_path / "mark"
    fake("ssh", f"[ -e {mark} ] && exit 0; touch {mark}; echo 'Permission denied (publickey).' >&2; exit 255")
    _, reasons = wait(guest.port)
    assert reasons == ["Permission denied (publickey)."]


def test_an_ssh_that_hangs_is_ended_at_the_limit(fake: Fake, guest: Guest) -> None:
    fake("ssh", "sleep 60")
    _, reason = why_not(guest.port, timeout_s=1)
    assert reason.startswith("ended by golden: still running after")


def test_a_script_that_fails_in_the_guest_is_a_failure_here(fake: Fake, tmp_path: Path) -> None:
    # As sshd does: the words after "--" are one line for the user's shell.
    fake("ssh", 'for line; do :; done; exec sh -c "$line"')
    target = ssh.Target(port=1, key=Path("/keys/id"))
    log = tmp_path / "log"
    with pytest.raises(ToolError, match="could not run step 1") as caught:
        ssh.run_script(
            target, 'echo "it\'s" $((40 + 2))\nfalse\necho not reached', why="run step 1", timeout_s=9, log=log
        )
    assert dict(caught.value.details)["output"] == "it's 42"


def test_an_answer_from_the_boot_before_does_not_count(fake: Fake, guest: Guest, tmp_path: Path) -> None:
    """A guest told to reboot answers on for a while."""
    count = tmp_path / "count"
    asked = f"echo >> {count}; [ $(wc -l < {count}) = 3 ] && echo second || echo first"
    fake("ssh", f"case $* in *boot_id*) {asked};; esac")
    reasons: list[str] = []
    ssh.wait_until_answers(
        ssh.Target(port=guest.port, key=Path("/keys/id")),
        timeout_s=20,
        is_alive=lambda: True,
        note=reasons.append,
        but_not_boot="first",
    )
    assert reasons == ["the machine has not gone down yet"] * 2

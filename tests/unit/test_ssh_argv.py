"""The command lines for OpenSSH."""

from __future__ import annotations

from pathlib import Path

from builder.tools import ssh

TARGET = ssh.Target(port=40022, key=Path("/keys/id"))


def test_neither_configuration_nor_known_hosts_of_the_user_count() -> None:
    argv = ssh.command(TARGET)
    assert argv[:7] == ["ssh", "-F", "/dev/null", "-p", "40022", "-i", Path("/keys/id")]
    assert argv[-3:] == ["-l", "root", "127.0.0.1"]
    for option in ("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "IdentitiesOnly=yes"):
        assert argv[argv.index(option) - 1] == "-o"


def test_the_words_of_a_command_arrive_as_words() -> None:
    assert ssh.command(TARGET, "echo", "a b", "$HOME", "it's")[-2:] == ["--", "echo 'a b' '$HOME' 'it'\"'\"'s'"]


def test_a_terminal_is_asked_for_only_on_request() -> None:
    assert "-t" not in ssh.command(TARGET, "true")
    assert "-t" in ssh.command(TARGET, "top", tty=True)

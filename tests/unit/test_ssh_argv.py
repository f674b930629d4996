"""The command lines for OpenSSH."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.errors import ConfigError
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


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/a b/id", ["-i", Path("/a b/id")]),
        ("/100%d/id", ["-o", 'IdentityFile="/100%%d/id"']),
        ('/a "b" \\c/id', ["-o", 'IdentityFile="/a \\"b\\" \\\\c/id"']),
    ],
)
def test_no_part_of_a_keys_path_means_anything_to_ssh(path: str, words: list[object]) -> None:
    assert ssh.identity(Path(path)) == words


@pytest.mark.parametrize("path", ["/${HOME}/id", "/a\nb/id"])
def test_a_key_of_which_ssh_cannot_be_told(path: str) -> None:
    with pytest.raises(ConfigError, match="ssh cannot be told of a key with this path"):
        ssh.identity(Path(path))

"""The real ansible-playbook; instead of a guest's sshd, an `ssh` that runs what it is given here."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.errors import HostError, ToolError, VerifyError
from builder.steps import Ansible
from builder.tools import ansible, ssh

# The last word is the command, the one before it the host.
SSH = """\
printf '%s\\n' "$@" >> "{log}"
case "$*" in *"-O exit"*) exit 0 ;; esac
for last; do :; done
exec sh -c "$last"
"""
CONFIG = "[ssh_connection]\npipelining = True\n"

Play = Callable[..., Path]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """play(playbook, **fields of the step) -> the log."""
    folder = tmp_path / "project" / "ansible"
    folder.mkdir(parents=True)
    (folder / "ansible.cfg").write_text(CONFIG)
    fake = tmp_path / "bin" / "ssh"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\n{SSH.format(log=tmp_path / 'ssh.log')}")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def run(playbook: object, **fields: object) -> Path:
        (folder / "site.yml").write_text(json.dumps(playbook))
        log = tmp_path / "ansible.log"
        ansible.play(
            Ansible.model_validate({"playbook": "ansible/site.yml", **fields}),
            ssh.Target(port=2222, key=tmp_path / "key"),
            project=tmp_path / "project",
            work=tmp_path / "work",
            why="run step 1 (ansible) on the guest",
            timeout_s=120,
            log=log,
            watch=lambda: None,
        )
        return log

    return run


def tasks(*found: dict[str, object], hosts: str = "all") -> list[dict[str, object]]:
    interpreter = {"ansible_python_interpreter": sys.executable}
    return [{"hosts": hosts, "gather_facts": False, "vars": interpreter, "tasks": list(found)}]


def test_tasks_roles_and_variables_reach_the_guest(tmp_path: Path, play: Play) -> None:
    role = tmp_path / "project" / "more roles" / "greeter" / "tasks"
    role.mkdir(parents=True)
    copy = {"copy": {"content": "{{ greeting }}", "dest": str(tmp_path / "greeting")}}
    (role / "main.yml").write_text(json.dumps([copy]))
    include = {"include_role": {"name": "greeter"}}
    log = play(tasks(include), roles=["more roles"], variables={"greeting": "it's {here}"})
    assert (tmp_path / "greeting").read_text() == "it's {here}"
    assert "PLAY RECAP" in log.read_text()
    words = (tmp_path / "ssh.log").read_text().splitlines()
    for word in ("Port=2222", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "127.0.0.1"):
        assert word in words
    assert f'IdentityFile="{tmp_path / "key"}"' in words
    # Nothing of ansible's is left, here or in the user's home.
    assert not (tmp_path / "work").exists()
    assert not (tmp_path / "home" / ".ansible").exists()


def test_a_group_that_the_playbook_is_for(tmp_path: Path, play: Play) -> None:
    play(tasks({"file": {"path": str(tmp_path / "made"), "state": "touch"}}, hosts="web"), groups=["web"])
    assert (tmp_path / "made").exists()


def test_a_playbook_for_other_hosts_did_nothing_although_ansible_ended_well(tmp_path: Path, play: Play) -> None:
    """Here without a configuration of the project's, with a bad one of the user's."""
    (tmp_path / "project" / "ansible" / "ansible.cfg").unlink()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".ansible.cfg").write_text("[defaults]\nlibrary = [\n[[[")
    with pytest.raises(VerifyError) as caught:
        play(tasks({"command": "false"}, hosts="web"))
    assert caught.value.what == (
        "could not run step 1 (ansible) on the guest: "
        "ansible ended well, and no task of ansible/site.yml ran on the guest"
    )
    assert caught.value.try_next == "say hosts: all in the playbook, or in_groups = [...] in the step"


def test_a_failing_task_fails_the_step_and_is_quoted(play: Play) -> None:
    with pytest.raises(ToolError) as caught:
        play(tasks({"name": "look for it", "command": "ls /nowhere"}))
    assert caught.value.what == "could not run step 1 (ansible) on the guest"
    assert "/nowhere" in dict(caught.value.details)["output"]


def test_without_ansible_it_is_said_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    assert shutil.which("ansible-playbook") is None
    with pytest.raises(HostError) as caught:
        ansible.program()
    assert caught.value.what == "could not run a playbook: the program 'ansible-playbook' is not on this machine"
    assert caught.value.try_next == f"{tmp_path / 'python3'} -m pip install 'golden[ansible]'"

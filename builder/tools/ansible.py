"""ansible-core: a playbook of the project's against one running guest, apart from whatever this user has configured.

In the same environment as golden (`golden[ansible]`), or on PATH.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path

from builder import run
from builder.errors import HostError, ToolError, VerifyError
from builder.steps import Ansible
from builder.tools import ssh

# The guest's name in the inventory and in ansible's output.
HOST = "guest"

_PROGRAM = "ansible-playbook"

# An empty one: without it ansible reads the user's or the machine's, and it refuses /dev/null for its name.
_NO_CONFIG = "none.cfg"

_SSH_ARGUMENTS = "-F /dev/null -o IdentitiesOnly=yes -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"


def program() -> Path:
    """Where ansible-playbook is. Raises HostError with how to install it."""
    beside = Path(sys.executable).parent / _PROGRAM
    found = str(beside) if beside.exists() else shutil.which(_PROGRAM)
    if found is None:
        raise HostError(
            f"could not run a playbook: the program '{_PROGRAM}' is not on this machine",
            try_next=f"{sys.executable} -m pip install 'golden[ansible]'",
        )
    return Path(found)


def argv(step: Ansible, *, project: Path, work: Path) -> list[str | Path]:
    """The command for `step`. project: the folder of golden.toml. work: where `write_inputs` puts its files."""
    extra = ["--extra-vars", f"@{work / 'vars.json'}"] if step.variables else []
    return [_PROGRAM, "--inventory", work / "inventory.json", *extra, project / step.playbook]


def write_inputs(step: Ansible, target: ssh.Target, *, work: Path) -> None:
    """The inventory, and the extra vars, as JSON, which is YAML too."""
    work.mkdir(parents=True, exist_ok=True)
    host = {
        "ansible_host": target.host,
        "ansible_port": target.port,
        "ansible_user": target.user,
        "ansible_ssh_private_key_file": ssh.quoted(target.key),
        "ansible_ssh_common_args": _SSH_ARGUMENTS,
    }
    inventory = {"all": {"hosts": {HOST: host}, "children": {group: {"hosts": {HOST: {}}} for group in step.groups}}}
    (work / "inventory.json").write_text(json.dumps(inventory, indent=2), encoding="utf-8")
    (work / _NO_CONFIG).touch()
    (work / "vars.json").write_text(json.dumps(step.variables, indent=2, default=str), encoding="utf-8")


def environment(step: Ansible, *, project: Path, work: Path, control: Path) -> dict[str, str]:
    """What ansible is told by variables: the project's paths, private places for all that it writes.

    control: a folder with a short path, for the sockets of shared connections. The machine behind the forwarded port
    was made minutes ago and will be thrown away: there is no host key to check.
    """
    folder = (project / step.playbook).parent
    own = folder / "ansible.cfg"
    roles = [folder / "roles", *(project / path for path in step.roles)]
    collections = [folder / "collections", *(project / path for path in step.collections)]
    return {
        "ANSIBLE_CONFIG": str(own if own.exists() else work / _NO_CONFIG),
        "ANSIBLE_HOME": str(work / "home"),
        "ANSIBLE_LOCAL_TEMP": str(work / "tmp"),
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(control),
        "ANSIBLE_HOST_KEY_CHECKING": "False",
        "ANSIBLE_ROLES_PATH": ":".join(map(str, roles)),
        "ANSIBLE_COLLECTIONS_PATH": ":".join(map(str, collections)),
        "ANSIBLE_RETRY_FILES_ENABLED": "False",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_CALLBACKS_ENABLED": "ansible.builtin.junit",
        "JUNIT_OUTPUT_DIR": str(work / "results"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def play(
    step: Ansible,
    target: ssh.Target,
    *,
    project: Path,
    work: Path,
    why: str,
    timeout_s: float,
    log: Path,
    watch: Callable[[], None],
) -> None:
    """Run `step` to its end; its output goes to `log`.

    Raises HostError without ansible, ToolError if the playbook fails, VerifyError if no task of it ran on the guest:
    ansible ends with 0 when no play is for a host of its inventory.
    """
    ansible = program()
    write_inputs(step, target, work=work)
    with _control(target) as control:
        run.run(
            [ansible, *argv(step, project=project, work=work)[1:]],
            why=why,
            timeout_s=timeout_s,
            log=log,
            env=environment(step, project=project, work=work, control=control),
            cwd=(project / step.playbook).parent,
            watch=watch,
        )
    if not tasks_run(work / "results"):
        raise VerifyError(
            f"could not {why}: ansible ended well, and no task of {step.playbook} ran on the guest",
            log=log,
            try_next="say hosts: all in the playbook, or in_groups = [...] in the step",
        )
    shutil.rmtree(work)


def tasks_run(results: Path) -> int:
    """How many tasks ran on the guest, skipped ones left out. The callback junit names each "[HOST] PLAY: TASK".

    Raises ToolError for a report that is none.
    """
    count = 0
    for report in results.glob("*.xml"):
        try:
            cases = list(ET.parse(report).iter("testcase"))
        except (ET.ParseError, ValueError, LookupError) as error:  # also of an encoding that nobody knows
            raise ToolError(f"ansible's report of what ran cannot be read: {report}: {error}", log=report) from error
        for case in cases:
            count += case.get("name", "").startswith(f"[{HOST}]") and case.find("skipped") is None
    return count


@contextlib.contextmanager
def _control(target: ssh.Target) -> Iterator[Path]:
    """A folder for ssh's shared connections. They outlive ansible in sessions of their own; here they end with it."""
    with tempfile.TemporaryDirectory(prefix="golden-ssh-") as directory:
        control = Path(directory)
        try:
            yield control
        finally:
            for socket in control.iterdir():
                with contextlib.suppress(Exception):
                    run.query(
                        ["ssh", "-F", "/dev/null", "-o", f"ControlPath={socket}", "-O", "exit", target.host],
                        why="end ansible's shared connection",
                    )

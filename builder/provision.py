"""Parent -> overlay, online: boot it, wait for SSH, run the recipe's online steps, switch it off from inside."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from builder import run
from builder.errors import ToolError
from builder.media import Repository
from builder.model import Limits
from builder.steps import Ansible, Reboot, Shell, Sparrowdo, Step, name_of
from builder.tools import ansible, lent_repositories, proxies, scratch_disk, ssh
from builder.tools.console import GUEST_FATAL, Console
from builder.tools.domain import Machine, domain_xml
from builder.tools.free_port import free_port
from builder.tools.libvirt import Connection, Domain, PortTaken
from builder.tools.sparrowdo import bootstrap
from builder.tools.sparrowdo import command as sparrowdo

_PORT_TRIES = 5
_SYNC_S = 300
_CACHE_TIMEOUT_S = 30

# Where a guest with QEMU's user network reaches the host's loopback. Source: QEMU, "Network emulation"; measured.
HOST = "10.0.2.2"

# Powered off from inside: what the guest has in memory reaches its disk. The connection may end before the answer does.
POWER_OFF = ("systemctl", "poweroff")
REBOOT = ("systemctl", "reboot")

# How often libvirt is asked whether a guest is still on, in seconds.
_LOOK_S = 2.0

# The stages of a phase in which Sparrowdo runs, which takes long enough to be told about.
_STAGES = (
    "Provisioning temporary VM",
    "Waiting for SSH",
    "Running Sparrowdo bootstrap",
    "Shutting down to save changes",
)

Stage = Callable[[str], contextlib.AbstractContextManager[object]]


def provision(
    machine: Machine,
    steps: Sequence[tuple[int, Step]],
    *,
    repositories: Sequence[Repository] = (),
    connection: Connection,
    key: Path,
    project: Path,
    logs: Path,
    limits: Limits,
    time_factor: float,
    note: Callable[[str], None],
    stage: Stage,
    checkpoint: Callable[[int, Domain, Mapping[str, str]], None] = lambda _number, _domain, _versions: None,
) -> dict[str, str]:
    """Run `steps` on `machine`, and come back when it is off; only then is its disk whole.

    machine: its ssh_port is only a first try. steps: with their number in the recipe. repositories: at addresses that
    the guest reaches, for its dnf while the steps run. project: the folder of golden.toml. time_factor: what time
    limits are multiplied by. stage: reports the block as a stage, if Sparrowdo is among the steps. checkpoint: called
    after each step but the last, with its number and the versions found so far, when all that it did is on the disk;
    the last one's is the machine switched off.
    The machine is gone afterwards, whatever happened. Returns the versions that steps found.
    Raises ToolError, or VerifyError for a playbook or a Sparrowdo that did nothing.
    """
    stages = _Stages(stage if any(isinstance(step, Sparrowdo) for _, step in steps) else None)
    for remaining in reversed(range(_PORT_TRIES)):
        try:
            with contextlib.ExitStack() as stack:
                with stages.at(1):
                    domain = stack.enter_context(connection.running(domain_xml(machine)))
                target = ssh.Target(port=machine.ssh_port, key=key)
                guest = _Guest(
                    machine,
                    domain,
                    stack.enter_context(ssh.shared_login(target)),
                    target=target,
                    repositories=repositories,
                    project=project,
                    logs=logs,
                    limits=limits,
                    time_factor=time_factor,
                    note=note,
                )
                with stages.at(2):
                    guest.wait()
                    guest.put_downloads_aside()
                for number, step in steps:
                    with stages.at(3) if isinstance(step, Sparrowdo) else contextlib.nullcontext():
                        guest.do(number, step)
                    if number != steps[-1][0]:
                        guest.write_out()
                        checkpoint(number, domain, guest.versions)
                with stages.at(4):
                    guest.power_off()
            return guest.versions
        except PortTaken:
            if not remaining:
                raise
            machine = machine.model_copy(update={"ssh_port": free_port()})
    raise AssertionError("the last try returns or raises")


def argvs(step: Step, target: ssh.Target, *, project: Path, work: Path) -> list[run.Argv]:
    """The commands of one online step, for people. work: where `write_inputs` puts what they name."""
    match step:
        case Shell(commands=commands):
            return [ssh.command(target, "sh", "-euc", "\n".join(commands))]
        case Ansible():
            return [ansible.argv(step, project=project, work=work)]
        case Sparrowdo():
            user = target.model_copy(update={"user": step.user})
            return [
                sparrowdo.argv(job, user, place=work / str(number))
                for number, job in enumerate(_jobs(step, project=project), 1)
            ]
        case Reboot():
            return [ssh.command(target, *REBOOT)]
        case _:
            raise TypeError(f"{step.kind} is no online step")


def put_downloads_aside(repositories: Sequence[Repository]) -> str:
    """A script for the guest, after each boot: dnf's cache on the scratch disk, and our repositories beside its own."""
    return scratch_disk.MOUNT_ONLINE + lent_repositories.lend(repositories)


def write_inputs(step: Step, target: ssh.Target, *, project: Path, work: Path) -> None:
    """The files that the commands of `argvs` name."""
    if isinstance(step, Ansible):
        ansible.write_inputs(step, target, work=work)
    elif isinstance(step, Sparrowdo):
        user = target.model_copy(update={"user": step.user})
        for number, job in enumerate(_jobs(step, project=project), 1):
            place = work / str(number)
            sparrowdo.write(job.model_copy(update={"secrets": None}), user, place=place)
            if job.secrets is not None:
                # They stay where they are: what is written here may be kept.
                (place / "secrets.env").symlink_to(job.secrets)


def _jobs(step: Sparrowdo, *, project: Path) -> list[sparrowdo.Job]:
    first = [bootstrap.BOOTSTRAP] if step.bootstrap else []
    return [*first, *bootstrap.jobs(step, project=project), bootstrap.smoke_job("by-hand")]


def check(steps: Sequence[Step], *, project: Path) -> None:
    """Before anything is started: raises HostError for a program that these steps need and that is not there.

    Raises ConfigError for files of the project's that are no part of its key and that are not there.
    """
    for step in steps:
        if isinstance(step, Ansible):
            ansible.program()
        elif isinstance(step, Sparrowdo):
            bootstrap.check(step, project=project)


class _Stages:
    """`[2/4] Waiting for SSH`: reported if there is somebody to report to."""

    def __init__(self, stage: Stage | None) -> None:
        self._stage = stage

    def at(self, number: int) -> contextlib.AbstractContextManager[object]:
        if self._stage is None:
            return contextlib.nullcontext()
        return self._stage(f"[{number}/{len(_STAGES)}] {_STAGES[number - 1]}")


class _Guest:
    """The running machine, as the steps see it: each logs in for itself, and what golden wants goes along with one."""

    def __init__(
        self,
        machine: Machine,
        domain: Domain,
        login: ssh.Login,
        *,
        target: ssh.Target,
        repositories: Sequence[Repository],
        project: Path,
        logs: Path,
        limits: Limits,
        time_factor: float,
        note: Callable[[str], None],
    ) -> None:
        self._domain = domain
        self._repositories = repositories
        self._project = project
        self._target = target
        self._login = login
        self._console = Console(machine.console_log, GUEST_FATAL)
        self._logs = logs
        self._limits = limits
        self._time_factor = time_factor
        self._note = note
        self._looked = 0.0
        self.versions: dict[str, str] = {}

    def wait(self, *, but_not_boot: str | None = None, timeout_s: float | None = None) -> None:
        """Until SSH answers. but_not_boot: a boot id that is to be gone. timeout_s: seconds, the boot limit if None."""
        self._note("waiting for SSH")
        try:
            seconds = ssh.wait_until_answers(
                self._target,
                timeout_s=timeout_s or self._limits.boot_s * self._time_factor,
                but_not_boot=but_not_boot,
                is_alive=self._is_alive,
                note=lambda reason: self._note(f"waiting for SSH: {reason}"),
                login=self._login,
            )
        except ToolError as error:
            self._console.poll()
            error.details.append(("console", self._console.tail() or "(it said nothing)"))
            error.log = self._console.log
            raise
        self._note(f"SSH answered after {seconds:.1f} s")

    def put_downloads_aside(self) -> None:
        """What dnf downloads until the guest goes down comes by way of this host's cache, and is not on its disk."""
        ssh.run_script(
            self._login.target,
            put_downloads_aside(self._repositories),
            why="put dnf's cache on the scratch disk",
            timeout_s=_CACHE_TIMEOUT_S * self._time_factor,
            log=self._logs / "cache.log",
            watch=self._watch,
        )

    def do(self, number: int, step: Step) -> None:
        match step:
            case Shell():
                self._shell(number, step)
            case Ansible():
                self._play(number, step)
            case Sparrowdo():
                self._sparrowdo(number, step)
            case Reboot():
                self._reboot(number, step)
            case _:
                raise TypeError(f"{step.kind} is no online step")

    def _shell(self, number: int, step: Shell) -> None:
        text = "\n".join(step.commands)
        self._note(f"step {number}: {text.splitlines()[0]}")
        ssh.run_script(
            self._target,
            proxies.exports(HOST) + text,
            why=f"run step {number} (shell) in the guest",
            timeout_s=step.timeout_s * self._time_factor,
            log=self._log(number, step),
            watch=self._watch,
        )

    def _play(self, number: int, step: Ansible) -> None:
        self._note(f"step {number}: {step.playbook}")
        ansible.play(
            step,
            self._target,
            project=self._project,
            work=self._logs.parent / name_of(number, step),
            why=f"run step {number} (ansible) on the guest",
            timeout_s=step.timeout_s * self._time_factor,
            log=self._log(number, step),
            watch=self._watch,
        )

    def _sparrowdo(self, number: int, step: Sparrowdo) -> None:
        self.versions |= bootstrap.carry_out(
            step,
            self._target,
            project=self._project,
            time_factor=self._time_factor,
            log=self._log(number, step),
            watch=self._watch,
            note=lambda text: self._note(f"step {number}: {text}"),
        )

    def _reboot(self, number: int, step: Reboot) -> None:
        """From inside; the connection may end before the answer does. Proof is that another boot answers."""
        self._note(f"step {number}: reboot")
        limit_s = step.timeout_s * self._time_factor
        before = ssh.boot_id(self._login.target)
        run.run(
            ssh.command(self._login.target, *REBOOT),
            why=f"run step {number} (reboot) in the guest",
            timeout_s=limit_s,
            log=self._log(number, step),
            ok=(0, 255),
            watch=self._watch,
        )
        self.wait(but_not_boot=before, timeout_s=limit_s)
        self.put_downloads_aside()

    def write_out(self) -> None:
        """What the guest holds in memory of its file systems goes to its disk."""
        ssh.run_script(
            self._login.target,
            "sync",
            why="have the guest write out its disk",
            timeout_s=_SYNC_S,
            log=self._logs / "poweroff.log",
            watch=self._watch,
        )

    def _log(self, number: int, step: Step) -> Path:
        return self._logs / f"{name_of(number, step)}.log"

    def power_off(self) -> None:
        """What the steps did is on the disk before: a machine that was killed then looks like one that is off."""
        self._note("shutting down")
        self.write_out()
        run.run(
            ssh.command(self._login.target, *POWER_OFF),
            why="shut the guest down from inside",
            timeout_s=self._limits.shutdown_s * self._time_factor,
            log=self._logs / "poweroff.log",
            ok=(0, 255),
            watch=self._look,
        )
        try:
            self._domain.wait_until_off(self._limits.shutdown_s * self._time_factor)
        except ToolError as error:
            self._console.poll()
            error.details.append(("console", self._console.tail()))
            error.log = self._console.log
            raise

    def _look(self) -> None:
        """While it goes off: it may be off, and may not stand still."""
        if time.monotonic() - self._looked >= _LOOK_S:
            self._looked = time.monotonic()
            self._domain.is_alive()

    def _is_alive(self) -> bool:
        self._console.poll()
        return self._console.fatal is None and self._domain.is_alive()

    def _watch(self) -> None:
        """A guest that died takes its SSH connection with it only after minutes, if at all."""
        self._console.poll()
        kind = self._console.fatal.kind if self._console.fatal is not None else None
        if kind is None and time.monotonic() - self._looked >= _LOOK_S:
            kind = None if self._domain.is_alive() else "it went off"
            self._looked = time.monotonic()
        if kind is not None:
            raise ToolError(
                f"the guest died: {kind}",
                details=[("console", self._console.tail() or "(it said nothing)")],
                log=self._console.log,
            )

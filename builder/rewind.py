"""A throw-away machine in the state that a failed build had before some step."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from builder.checkpoints import Checkpoint, Trail
from builder.errors import ConfigError, ToolError
from builder.model import Distribution, Image
from builder.steps import name_of
from builder.store import Store
from builder.tools import qemu_img, ssh
from builder.tools.console import GUEST_FATAL, Console
from builder.tools.domain import Disk, Label, Machine, domain_xml
from builder.tools.free_port import free_port
from builder.tools.libvirt import Connection, PortTaken

_PORT_TRIES = 5

SEAL = "seal"


def state_before(image: Image, trail: Trail, step: str | None) -> Checkpoint | None:
    """The newest checkpoint before `step`: its number, as "2-shell", or "seal"; None for the one that failed.

    None stands for the parent as it is. Raises ConfigError for a step that there is not, or that was not reached.
    """
    if step is None:
        return trail.last
    names = {str(number): number for number in range(1, len(image.steps) + 1)}
    names |= {name_of(number, it): number for number, it in enumerate(image.steps, 1)}
    names[SEAL] = len(image.steps) + 1
    if step not in names:
        known = ", ".join([*(name_of(number, it) for number, it in enumerate(image.steps, 1)), SEAL])
        raise ConfigError(f"'{image.name}' has no step '{step}'; there are {known}")
    before = [it for it in trail.record.checkpoints if it.after < names[step] and not it.is_sealed]
    if before:
        return before[-1]
    if trail.record.parent is None or any(it.is_sealed for it in trail.record.checkpoints):
        raise ConfigError(
            f"the failed build of '{image.name}' has kept no state before step {step}",
            try_next=f"golden build {image.name}",
        )
    return None


@contextlib.contextmanager
def opened(
    trail: Trail,
    checkpoint: Checkpoint | None,
    *,
    store: Store,
    distribution: Distribution,
    key: Path,
    connection: Connection,
    is_kvm: bool,
    time_factor: float,
    note: Callable[[str], None],
) -> Iterator[ssh.Target]:
    """A machine on an overlay of a checkpoint, or of the parent if that is None, answering while the block runs.

    Nothing of it is left afterwards, and the checkpoint is as it was. Raises ToolError, VerifyError.
    """
    own = trail.chain_of(checkpoint) if checkpoint else []
    parent = trail.record.parent
    chain = store.chain(store.find(parent.image, parent.version)) if parent else []
    below = [*own, *(store.qcow2(build) for build in chain)]
    place = store.root / "shell"
    place.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{trail.record.image}-", dir=place))
    work.chmod(0o711)  # libvirt's QEMU has to pass through
    try:
        qemu_img.create_overlay(work / "disk.qcow2", below[0])
        for remaining in reversed(range(_PORT_TRIES)):
            machine = _machine(trail, distribution, (work / "disk.qcow2", *below), work=work, is_kvm=is_kvm)
            try:
                with connection.running(domain_xml(machine)) as domain:
                    console = Console(machine.console_log, GUEST_FATAL)

                    def is_alive(console: Console = console, is_on: Callable[[], bool] = domain.is_alive) -> bool:
                        console.poll()
                        return console.fatal is None and is_on()

                    target = ssh.Target(port=machine.ssh_port, key=key)
                    limit_s = distribution.limits.boot_s * time_factor
                    _wait(target, console, timeout_s=limit_s, is_alive=is_alive, note=note)
                    yield target
                return
            except PortTaken:
                if not remaining:
                    raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _wait(
    target: ssh.Target,
    console: Console,
    *,
    timeout_s: float,
    is_alive: Callable[[], bool],
    note: Callable[[str], None],
) -> None:
    try:
        ssh.wait_until_answers(target, timeout_s=timeout_s, is_alive=is_alive, note=note)
    except ToolError as error:
        console.poll()
        error.details.append(("console", console.tail() or "(it said nothing)"))
        raise


def _machine(trail: Trail, distribution: Distribution, chain: Sequence[Path], *, work: Path, is_kvm: bool) -> Machine:
    identity = str(uuid.uuid4())
    return Machine(
        name=f"golden-shell-{trail.record.image}-{identity[:8]}",
        uuid=identity,
        label=Label(purpose="clone", owner_pid=os.getpid(), work=work),
        arch=distribution.arch,
        firmware=distribution.firmware,
        accelerator="kvm" if is_kvm else "tcg",
        memory_mib=distribution.memory_mib,
        cpus=distribution.cpus,
        disks=(Disk(chain=tuple(chain)),),
        ssh_port=free_port(),
        console_log=work / "console.log",
    )

"""How guests run on this host: under KVM if a kernel has booted with it, else under TCG, with the reason."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from builder import run
from builder.errors import HostError, ToolError
from builder.model import Frozen
from builder.progress import Reporter
from builder.store import write_atomically

DEVICE = Path("/dev/kvm")
_BOOT = Path("/boot")
_MODULES = Path("/lib/modules")

# A stock kernel reaches its panic in 6 s under TCG on a slow host; with KVM that works it takes a fraction.
_PROOF_TIMEOUT_S = 20
_PROOF = "Kernel panic - not syncing: VFS"

# How much longer limits are under TCG. A judgement: no machine at hand has both. Limits catch what hangs; a wide one
# costs waiting in rare cases, a tight one fails builds that are merely slow.
_TCG_TIME_FACTOR = 5.0

# Red Hat's QEMU is not on PATH, and has no name of its architecture.
_QEMU = (f"qemu-system-{platform.machine()}", "/usr/libexec/qemu-kvm")


class Accelerator(Frozen):
    """How guests run on this host. reason, detail: of the answer. time_factor: what time limits are multiplied by."""

    kind: Literal["kvm", "tcg"]
    reason: str
    detail: str = ""

    @property
    def time_factor(self) -> float:
        return 1.0 if self.kind == "kvm" else _TCG_TIME_FACTOR

    def kind_for(self, architecture: str) -> Literal["kvm", "tcg"]:
        """KVM runs guests of the host's own architecture alone."""
        return self.kind if architecture == platform.machine() else "tcg"

    @property
    def note(self) -> str | None:
        """What the user is told once, if anything."""
        if self.kind == "kvm":
            return None
        return f"no usable KVM ({self.reason}): running under TCG, time limits ×{self.time_factor:.0f}"


def accelerator(state: Path, *, reporter: Reporter, is_renewed: bool = False) -> Accelerator:
    """KVM if a kernel booted with it on this host, else TCG with the reason.

    The answer is remembered below `state` until host, kernel or QEMU change. is_renewed: prove it again.
    Raises HostError if there is no QEMU.
    """
    if reason := _closed_door():
        return Accelerator(kind="tcg", reason=reason)
    qemu = _qemu()
    memory = state / "host" / "accelerator.json"
    circumstances = _circumstances(qemu)
    if not is_renewed and (remembered := _remembered(memory, circumstances)) is not None:
        return remembered
    with reporter.step("see whether KVM boots a kernel"):
        found = _prove(qemu)
    memory.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(memory, json.dumps({"for": circumstances, "answer": found.model_dump()}, indent=2) + "\n")
    return found


def _closed_door() -> str | None:
    """Why KVM is out of the question without a try."""
    if not DEVICE.exists():
        return f"there is no {DEVICE}"
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return f"{DEVICE} may not be opened by this user; its group is {DEVICE.group()}"
    return None


def _qemu() -> str:
    for program in _QEMU:
        if run.has_program(program):
            return program
    raise HostError("there is no QEMU on this machine", try_next=run.how_to_install(_QEMU[0]))


def qemu_version() -> str:
    """Raises HostError if there is no QEMU."""
    return _circumstances(_qemu())["qemu"]


def _circumstances(qemu: str) -> dict[str, str]:
    machine_id = Path("/etc/machine-id")
    return {
        "host": machine_id.read_text().strip() if machine_id.exists() else platform.node(),
        "kernel": platform.release(),
        "qemu": run.query([qemu, "--version"], why="ask QEMU for its version").splitlines()[0],
    }


def _remembered(memory: Path, circumstances: dict[str, str]) -> Accelerator | None:
    try:
        known = json.loads(memory.read_text())
        return Accelerator.model_validate(known["answer"]) if known["for"] == circumstances else None
    except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError, ValidationError):
        return None  # What cannot be read is proven again.


def _prove(qemu: str) -> Accelerator:
    """Boot a kernel without a root file system: that it panics for want of one shows that KVM runs kernels.

    A /dev/kvm that opens and creates machines is no proof: seen to hang a stock kernel at "Probing EDD" for good.
    """
    kernel = next(_kernels(), None)
    if kernel is None:
        return Accelerator(kind="tcg", reason=f"no kernel in {_BOOT} or {_MODULES} may be read, to try KVM with")
    with tempfile.TemporaryDirectory(prefix="golden-kvm-") as directory:
        console, log = Path(directory, "console"), Path(directory, "log")
        is_arm = platform.machine() == "aarch64"
        machine, tty = ("virt", "ttyAMA0") if is_arm else ("q35", "ttyS0")
        argv: list[str | Path] = [qemu, "-accel", "kvm", "-cpu", "host", "-machine", machine, "-m", "512"]
        argv += ["-kernel", kernel, "-append", f"console={tty} panic=-1"]
        argv += ["-no-reboot", "-nodefaults", "-display", "none", "-serial", f"file:{console}"]
        begin = time.monotonic()
        try:
            run.run(argv, why="boot a kernel with KVM", timeout_s=_PROOF_TIMEOUT_S, log=log)
        except ToolError as error:
            found = dict(error.details)
            last = (run.tail(console, lines=1) if console.exists() else "") or found["output"].splitlines()[-1]
            reason = f"a kernel did not boot with it: {found['end']}"
            return Accelerator(kind="tcg", reason=reason, detail=last.strip())
        seconds = time.monotonic() - begin
        if not console.exists() or _PROOF not in console.read_text(errors="replace"):
            return Accelerator(kind="tcg", reason="QEMU ended, but no kernel had booted")
    return Accelerator(kind="kvm", reason=f"a kernel booted in {seconds:.1f} s")


def _kernels() -> Iterator[Path]:
    """Readable kernels, the running one's first. Fedora and EL keep a copy with the modules; Ubuntu's are root's."""
    found = [*_BOOT.glob("vmlinuz-*"), *_MODULES.glob("*/vmlinuz")]
    for kernel in sorted(found, key=lambda path: (platform.release() not in str(path), path)):
        if os.access(kernel, os.R_OK):
            yield kernel

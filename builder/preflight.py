"""What this machine has and lacks: programs, room, libvirt, and an accelerator that is proven and not believed."""

from __future__ import annotations

import functools
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from builder import run
from builder.errors import GoldenError, HostError, ToolError
from builder.locks import holder_pid
from builder.model import Frozen
from builder.progress import Reporter
from builder.store import write_atomically
from builder.tools import libvirt
from builder.units import GIB, format_bytes

_KVM = Path("/dev/kvm")
_BOOT = Path("/boot")

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


class Finding(Frozen):
    """One line of `golden doctor`. fail: golden cannot work; warn: parts of it cannot. remedy: what to type."""

    check: str
    state: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""


# --- for commands that are about to start something -----------------------------------------------------------


def require(programs: Sequence[str], why: str) -> None:
    """Raises HostError naming every program that is missing, before the first of them is used."""
    missing = [program for program in programs if not run.has_program(program)]
    if missing:
        raise HostError(
            f"could not {why}: this machine lacks {', '.join(missing)}",
            try_next=" && ".join(dict.fromkeys(run.how_to_install(program) for program in missing)),
        )


def versions(programs: Sequence[str]) -> dict[str, str]:
    """What each of `programs` says of its version; the programs are ones that `golden doctor` knows."""
    return {
        name: _known_version(name, argument, shutil.which(name))
        for name, argument, _, _ in _PROGRAMS
        if name in programs
    }


@functools.cache
def _known_version(program: str, argument: str, _path: str | None) -> str:
    """Asked once in a process, since one of them takes as long as starting golden does. _path: where it is found."""
    return _version(program, argument)


def need_reach(path: Path, connection: libvirt.Connection) -> None:
    """Raises HostError if the user that QEMU runs as may not pass through to `path`."""
    user = connection.qemu_user()
    closed = closed_directory(path, user=user[0], group=user[1]) if user else None
    if user and closed:
        raise HostError(
            f"QEMU runs as user {user[0]}, which may not pass through {closed}; no machine could read {path}",
            try_next=f"chmod o+x {closed}    # or choose another place with --state",
        )


def need_architecture(architecture: str, image: str) -> None:
    """Raises HostError for an image of another architecture: libguestfs runs a guest's programs on its own alone."""
    host = platform.machine()
    if architecture != host:
        raise HostError(
            f"could not build '{image}': it is an image for {architecture}, and this machine is {host}",
            details=[("reason", f"offline steps and the seal run the guest's own programs, which {host} cannot")],
            try_next=f"golden build --dry-run {image}    # or build it on a machine of {architecture}",
        )


def free_bytes(path: Path) -> int:
    """Room for new files at `path`, which need not exist yet."""
    return shutil.disk_usage(_existing(path)).free


def need_disk(path: Path, needed_bytes: int, why: str) -> None:
    """Raises HostError if there is less room than `needed_bytes` at `path`."""
    free = free_bytes(path)
    if free < needed_bytes:
        raise HostError(
            f"could not {why}: not enough room on the disk",
            details=[("needed", format_bytes(needed_bytes)), ("free", f"{format_bytes(free)} at {path}")],
            try_next=f"df -h {_existing(path)}",
        )


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
    if not _KVM.exists():
        return f"there is no {_KVM}"
    if not os.access(_KVM, os.R_OK | os.W_OK):
        return f"{_KVM} may not be opened by this user; its group is {_KVM.group()}"
    return None


def _qemu() -> str:
    for program in _QEMU:
        if run.has_program(program):
            return program
    raise HostError("there is no QEMU on this machine", try_next=run.how_to_install(_QEMU[0]))


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
        return Accelerator(kind="tcg", reason=f"no kernel in {_BOOT} or /lib/modules may be read, to try KVM with")
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
    found = [*_BOOT.glob("vmlinuz-*"), *Path("/lib/modules").glob("*/vmlinuz")]
    for kernel in sorted(found, key=lambda path: (platform.release() not in str(path), path)):
        if os.access(kernel, os.R_OK):
            yield kernel


# --- golden doctor -----------------------------------------------------------------------------------------------

# Program, arguments that make it tell its version, whether golden is of no use without it, what it is for.
_PROGRAMS = (
    ("qemu-img", "--version", True, "every image"),
    ("virt-install", "--version", True, "installing bases"),
    ("xorriso", "--version", True, "reading DVDs"),
    ("virt-customize", "--version", True, "offline steps"),
    ("ssh", "-V", True, "machines; ssh-keygen comes with it"),
    ("rpmbuild", "--version", True, "packages"),
    ("guestfish", "--version", False, "growing imported images"),
    ("gpg", "--version", False, "signatures of checksum files"),
    ("virsh", "--version", False, "golden clone console"),
    ("dnf", "--version", False, "installing the packages on this host"),
    ("mksquashfs", "-version", False, "golden sandbox create"),
)

_DISK_LEAST_BYTES, _DISK_GOOD_BYTES = 4 * GIB, 20 * GIB
_MEMORY_LEAST_BYTES, _MEMORY_GOOD_BYTES = 1 * GIB, 4 * GIB


def examine(state: Path, *, reporter: Reporter) -> list[Finding]:
    """Everything `golden doctor` looks at, in its order. Proves the accelerator anew."""
    findings = [_look_at_program(*program) for program in _PROGRAMS]
    findings += _look_at_libvirt(state)
    findings.append(_look_at_disk(state))
    findings.append(_look_at_memory())
    findings += _look_at_accelerator(state, reporter=reporter)
    return findings


def _ok(check: str, found: str) -> Finding:
    return Finding(check=check, state="ok", found=found)


def _failed(check: str, error: GoldenError) -> Finding:
    reasons = "; ".join(text for label, text in error.details if label not in ("command", "output"))
    found = f"{error.what} ({reasons})" if reasons else error.what
    return Finding(check=check, state="fail", found=found, remedy=error.try_next or "")


def _look_at_program(program: str, version: str, is_needed: bool, purpose: str) -> Finding:
    if not run.has_program(program):
        state: Literal["warn", "fail"] = "fail" if is_needed else "warn"
        remedy = run.how_to_install(program)
        return Finding(check=program, state=state, found=f"missing; needed for: {purpose}", remedy=remedy)
    return _ok(program, _version(program, version))


def _version(program: str, argument: str) -> str:
    """The line that a program says about its version: some say it on standard error, some with a status of 1."""
    with tempfile.TemporaryDirectory(prefix="golden-version-") as directory:
        log = Path(directory, "log")
        try:
            run.run([program, argument], why="ask for a version", timeout_s=20, log=log, ok=range(256))
        except ToolError as error:
            return f"does not say its version: {dict(error.details)['end']}"
        lines = [line for line in log.read_text(errors="replace").splitlines()[1:] if any(map(str.isdigit, line))]
    return lines[0].strip() if lines else "present"


def _look_at_libvirt(state: Path) -> list[Finding]:
    findings: list[Finding] = []
    try:
        with libvirt.connect() as connection:
            findings.append(_ok("libvirt", f"{connection.versions()['libvirt']} at {connection.uri}"))
            need_reach(state, connection)
            user = connection.qemu_user()
            pools = _look_at_pools(state, connection)
    except GoldenError as error:
        return [*findings, _failed("QEMU's user" if findings else "libvirt", error)]
    findings += [_ok("QEMU's user", f"may reach {state}"), *pools]
    if user is not None and _KVM.exists() and not _may_open(_KVM, user=user[0], group=user[1]):
        # libvirt 9.0, virQEMUCapsIsValid: what root's probe of QEMU found is void when QEMU's user may not do the same.
        found = f"user {user[0]} may not open {_KVM}: libvirt asks QEMU anew before each machine, which takes seconds"
        remedy = f"chgrp {user[1]} {_KVM} && chmod 660 {_KVM}"
        findings.append(Finding(check="QEMU's user", state="warn", found=found, remedy=remedy))
    return findings


def _look_at_pools(state: Path, connection: libvirt.Connection) -> list[Finding]:
    try:
        left = [pool.name for pool in connection.pools_below(state) if not _is_under_way(pool.folder())]
    except ToolError as error:
        return [_failed("storage pools", error)]
    found = "a golden that was killed left it; the next build of its project removes it"
    return [
        Finding(check="storage pool", state="warn", found=f"{name}: {found}", remedy=f"virsh pool-destroy {name}")
        for name in left
    ]


def _is_under_way(work: Path | None) -> bool:
    """Whether the golden that had the project's lock last is alive. work: STATE/PROJECT/work/BUILD."""
    pid = holder_pid(work.parent.parent / "lock") if work else None
    return pid is not None and Path(f"/proc/{pid}").exists()


def _may_open(path: Path, *, user: int, group: int) -> bool:
    """Whether the user may read and write a file, by its mode. user, group: ids."""
    status = path.stat()
    shift = 6 if status.st_uid == user else 3 if status.st_gid == group else 0
    return user == 0 or status.st_mode >> shift & 6 == 6


def closed_directory(path: Path, *, user: int, group: int) -> Path | None:
    """The first directory on the way to `path` that the user may not pass through; None if the way is open.

    user, group: ids. What does not exist yet will be made by golden, and open.
    """
    existing = _existing(path)
    for directory in [*reversed(existing.parents), existing]:
        status = directory.stat()
        shift = 6 if status.st_uid == user else 3 if status.st_gid == group else 0
        if user != 0 and not status.st_mode >> shift & 1:
            return directory
    return None


def _look_at_disk(state: Path) -> Finding:
    return _amount("disk", free_bytes(state), least=_DISK_LEAST_BYTES, good=_DISK_GOOD_BYTES, place=f"free at {state}")


def available_bytes() -> int:
    """Memory that new machines could have. Source: proc_meminfo(5), MemAvailable, in KiB."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def _look_at_memory() -> Finding:
    return _amount("memory", available_bytes(), least=_MEMORY_LEAST_BYTES, good=_MEMORY_GOOD_BYTES, place="available")


def _amount(check: str, count: int, *, least: int, good: int, place: str) -> Finding:
    state: Literal["ok", "warn", "fail"] = "fail" if count < least else "warn" if count < good else "ok"
    remedy = "" if state == "ok" else f"have {format_bytes(good)} or more"
    return Finding(check=check, state=state, found=f"{format_bytes(count)} {place}", remedy=remedy)


def _look_at_accelerator(state: Path, *, reporter: Reporter) -> list[Finding]:
    try:
        qemu = _ok("qemu", _circumstances(_qemu())["qemu"])
        found = accelerator(state, reporter=reporter, is_renewed=True)
    except GoldenError as error:
        return [_failed("qemu", error)]
    if found.kind == "kvm":
        return [qemu, _ok("accelerator", f"KVM: {found.reason}")]
    seen = f"{found.note}; last seen: {found.detail}" if found.detail else f"{found.note}"
    remedy = "nothing, if slow is fine; else a host with hardware virtualisation that works"
    return [qemu, Finding(check="accelerator", state="warn", found=seen, remedy=remedy)]


def _existing(path: Path) -> Path:
    """`path`, or the nearest directory above it that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path

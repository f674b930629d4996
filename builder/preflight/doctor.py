"""What `golden doctor` looks at: programs, libvirt, room, memory, the accelerator."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from builder import run
from builder.errors import GoldenError, ToolError
from builder.locks import holder_pid
from builder.model import Frozen
from builder.preflight import PROGRAMS, available_bytes, free_bytes, kvm, need_reach, version_of
from builder.progress import Reporter
from builder.tools import libvirt
from builder.units import GIB, format_bytes

_DISK_LEAST_BYTES, _DISK_GOOD_BYTES = 4 * GIB, 20 * GIB
_MEMORY_LEAST_BYTES, _MEMORY_GOOD_BYTES = 1 * GIB, 4 * GIB


class Finding(Frozen):
    """One line of `golden doctor`. fail: golden cannot work; warn: parts of it cannot. remedy: what to type."""

    check: str
    state: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""


def examine(state: Path, *, reporter: Reporter) -> list[Finding]:
    """Everything `golden doctor` looks at, in its order. Proves the accelerator anew."""
    findings = [_look_at_program(*program) for program in PROGRAMS]
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
    return _ok(program, version_of(program, version))


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
    if user is not None and kvm.DEVICE.exists() and not _may_open(kvm.DEVICE, user=user[0], group=user[1]):
        # libvirt 9.0, virQEMUCapsIsValid: what root's probe of QEMU found is void when QEMU's user may not do the same.
        found = (
            f"user {user[0]} may not open {kvm.DEVICE}: libvirt asks QEMU anew before each machine, which takes seconds"
        )
        remedy = f"chgrp {user[1]} {kvm.DEVICE} && chmod 660 {kvm.DEVICE}"
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


def _look_at_disk(state: Path) -> Finding:
    return _amount("disk", free_bytes(state), least=_DISK_LEAST_BYTES, good=_DISK_GOOD_BYTES, place=f"free at {state}")


def _look_at_memory() -> Finding:
    return _amount("memory", available_bytes(), least=_MEMORY_LEAST_BYTES, good=_MEMORY_GOOD_BYTES, place="available")


def _amount(check: str, count: int, *, least: int, good: int, place: str) -> Finding:
    state: Literal["ok", "warn", "fail"] = "fail" if count < least else "warn" if count < good else "ok"
    remedy = "" if state == "ok" else f"have {format_bytes(good)} or more"
    return Finding(check=check, state=state, found=f"{format_bytes(count)} {place}", remedy=remedy)


def _look_at_accelerator(state: Path, *, reporter: Reporter) -> list[Finding]:
    try:
        qemu = _ok("qemu", kvm.qemu_version())
        found = kvm.accelerator(state, reporter=reporter, is_renewed=True)
    except GoldenError as error:
        return [_failed("qemu", error)]
    if found.kind == "kvm":
        return [qemu, _ok("accelerator", f"KVM: {found.reason}")]
    seen = f"{found.note}; last seen: {found.detail}" if found.detail else f"{found.note}"
    remedy = "nothing, if slow is fine; else a host with hardware virtualisation that works"
    return [qemu, Finding(check="accelerator", state="warn", found=seen, remedy=remedy)]

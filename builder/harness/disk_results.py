"""Tests that do not rely on the network: files in before the boot, results out on a disk, powered off in between.

The guest finds a unit that runs the test's scripts once it is up, writes what they left to its output disk as a tar
archive, and switches itself off. The disk is read here without mounting it. Source of the habit: curtin's vmtest.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from builder import run
from builder.errors import VerifyError
from builder.harness.guest import JOURNAL_LINES
from builder.harness.payload import Context, Failed, last_line, staged
from builder.harness.watch import HARDENING, Watch
from builder.tools import guest_files, guestfs

# Of the machine: the first extra disk of a clone.
DISK_BYTES = guestfs.OUTPUT_BYTES
_DISK = "extra-1.qcow2"
_OVERLAY = "disk.qcow2"

_PLACE = "/var/lib/golden-test"
_OUT = "/run/golden-test-out"
_UNIT = "/etc/systemd/system/golden-test.service"

_SERVICE = f"""\
[Unit]
Description=A test of golden's
After=multi-user.target

[Service]
Type=oneshot
ExecStart={_PLACE}/run
"""

_POLL_S = 0.5
_COPY_TIMEOUT_S = 120


def script(context: Context, *, role: str) -> str:
    """What the unit runs. Whatever the test's scripts do, their results come out and the machine goes off."""
    results = f"{_OUT}/results"
    variables = {
        "GOLDEN_TEST": context.test.name,
        "GOLDEN_RUN": str(context.run),
        "GOLDEN_MACHINE": role,
        "GOLDEN_RESULTS": results,
    } | context.test.environment
    lines = ["#!/bin/sh", "# Written by golden.", HARDENING, f"mkdir -p {results} {_OUT}/logs", f"cd {_PLACE}/files"]
    lines += [f"export {name}={shlex.quote(text)}" for name, text in variables.items()]
    lines += ["status=0 last="]
    for number, one in enumerate(context.test.scripts, start=1):
        path, log = shlex.quote(f"./{one.run}"), shlex.quote(f"{_OUT}/logs/{number}-{Path(one.run).name}-{role}.log")
        start = f"if [ -x {path} ]; then {path}; else sh {path}; fi"
        lines.append(
            f'[ "$status" != 0 ] || {{ last={shlex.quote(one.run)}; ( {start} ) > {log} 2>&1 < /dev/null; status=$?; }}'
        )
    lines += [
        f"journalctl --boot --no-pager --output=short-precise --lines={JOURNAL_LINES} > {_OUT}/journal 2>&1",
        f"rpm -qa | LC_ALL=C sort > {_OUT}/packages 2>&1",
        f'printf "%s %s\\n" "$status" "$last" > {_OUT}/status',
        guestfs.save_to_output_disk(_OUT).rstrip(),
        "sync",
        "systemctl --no-block poweroff",
    ]
    return "\n".join(lines) + "\n"


def prepare(machine: Path, context: Context, *, role: str, is_kvm: bool, time_factor: float) -> None:
    """Put the test into a machine that is off. machine: its folder, with the overlay and the output disk."""
    with staged(context.test) as files, tempfile.TemporaryDirectory(prefix="golden-test-") as name:
        root = Path(name) / "root"
        place, unit = root / _PLACE[1:], root / _UNIT[1:]
        for folder in (place, unit.parent / "multi-user.target.wants"):
            folder.mkdir(parents=True)
        for folder in root.rglob("*"):
            folder.chmod(0o755)
        shutil.copytree(files, place / "files", symlinks=True)
        (place / "run").write_text(script(context, role=role), encoding="utf-8")
        (place / "run").chmod(0o755)
        unit.write_text(_SERVICE, encoding="utf-8")
        (unit.parent / "multi-user.target.wants" / unit.name).symlink_to(_UNIT)
        guest_files.put(
            machine / _OVERLAY,
            root,
            labels={_UNIT: "systemd_unit_file_t", f"{_PLACE}/run": "bin_t"},
            log=context.logs / "prepare.log",
            is_kvm=is_kvm,
            time_factor=time_factor,
        )
        raw = Path(name) / "output.raw"
        guestfs.make_output_disk(raw)
        argv: run.Argv = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, machine / _DISK]
        run.query(argv, why="make the output disk", timeout_s=_COPY_TIMEOUT_S)


def wait(context: Context, watch: Watch) -> None:
    """Until the machine is off. Raises Lost as the watch does, Failed at the limit."""
    while not watch.is_over():
        if time.monotonic() > context.deadline:
            raise Failed(f"the machine was still on at the test's limit of {context.test.run_s} s", "limit")
        time.sleep(_POLL_S)


def collect(machine: Path, context: Context, *, role: str, install: Path) -> None:
    """Read the output disk, and judge. Raises Failed if a script failed, or there are no results."""
    with tempfile.TemporaryDirectory(prefix="golden-test-") as name:
        raw = Path(name) / "output.raw"
        argv: run.Argv = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", machine / _DISK, raw]
        run.query(argv, why="read the output disk", timeout_s=_COPY_TIMEOUT_S)
        try:
            files = guestfs.read_output_disk(raw)
        except VerifyError as error:
            raise Failed("the machine switched itself off and left no results on its output disk", "results") from error
    _unpack(files, {"results": context.collect / role, "logs": context.logs})
    (context.logs / f"{role}-journal.txt").write_bytes(files.get("journal", b""))
    (install / f"{role}-packages.txt").write_bytes(files.get("packages", b""))
    status, _, file = files.get("status", b"").decode(errors="replace").strip().partition(" ")
    if not status:
        raise Failed("the output disk does not say how the test ended", "results")
    if status != "0":
        said = files.get(_log_of(files, file, role), b"").decode(errors="replace")
        raise Failed(f"{file} on {role}: exit {status}: {last_line(said)}")


def _log_of(files: Mapping[str, bytes], file: str, role: str) -> str:
    ending = f"-{Path(file).name}-{role}.log"
    return next(
        (name for name in sorted(files, reverse=True) if name.startswith("logs/") and name.endswith(ending)), ""
    )


def _unpack(files: Mapping[str, bytes], folders: Mapping[str, Path]) -> None:
    """The guest is not trusted: names that lead elsewhere are passed over."""
    for name, content in files.items():
        top, *rest = PurePosixPath(name).parts
        if top in folders and rest and ".." not in rest:
            target = folders[top].joinpath(*rest)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)

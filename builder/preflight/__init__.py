"""What a command asks of this machine before it starts anything: programs, room, memory, a way for QEMU.

kvm: the accelerator, proven and not believed. doctor: all that `golden doctor` looks at.
"""

from __future__ import annotations

import functools
import os
import platform
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from builder import run
from builder.errors import HostError, ToolError
from builder.tools import libvirt
from builder.units import format_bytes

# Program, arguments that make it tell its version, whether golden is of no use without it, what it is for.
PROGRAMS = (
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
        for name, argument, _, _ in PROGRAMS
        if name in programs
    }


@functools.cache
def _known_version(program: str, argument: str, _path: str | None) -> str:
    """Asked once in a process, since one of them takes as long as starting golden does. _path: where it is found."""
    return version_of(program, argument)


def version_of(program: str, argument: str) -> str:
    """The line that a program says about its version: some say it on standard error, some with a status of 1."""
    with tempfile.TemporaryDirectory(prefix="golden-version-") as directory:
        log = Path(directory, "log")
        try:
            run.run([program, argument], why="ask for a version", timeout_s=20, log=log, ok=range(256))
        except ToolError as error:
            return f"does not say its version: {dict(error.details)['end']}"
        lines = [line for line in log.read_text(errors="replace").splitlines()[1:] if any(map(str.isdigit, line))]
    return lines[0].strip() if lines else "present"


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


def available_bytes() -> int:
    """Memory that new machines could have. Source: proc_meminfo(5), MemAvailable, in KiB."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def _existing(path: Path) -> Path:
    """`path`, or the nearest directory above it that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path

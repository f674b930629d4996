"""Leases: that a clone uses certain image files, on whose behalf, and where everything of it lies.

STATE/clones/web1/lease.json    written before the first image file is used; collectors leave those files alone
                  disk.qcow2    the overlay; it appears last: what has none was cut off while it was made
                  extra-1.qcow2, seed.iso, console.log, nvram.fd, snapshots/
STATE/clones/.bases/SHA256/     hard links of the image files that overlays stand on (builder/clones/pins.py)
STATE/clones/.holds/ID.json     what the disks of a failed test's bundle stand on (builder/clones/holds.py)
STATE/clones/.warm/KEY/         memory of a guest that has booted (builder/clones/warm.py)
STATE/clones/.pools/IMAGE.json  how many are kept ready, waiting to be taken (builder/clones/pools.py)
STATE/clones/.locks/web1        held while web1 is created, started or destroyed
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from builder import locks, store
from builder.errors import ConfigError, VerifyError, did_you_mean
from builder.model import NAME, Architecture, Firmware, Frozen, ImageId
from builder.tools.domain import Forward, Nic

DISK = "disk.qcow2"
SEED = "seed.iso"
CONSOLE = "console.log"


# The host's own number for its pid namespace. Source: linux/proc_ns.h, PROC_PID_INIT_INO.
_HOST = 0xEFFFFFFC


class Owner(Frozen):
    """The process for which a clone was made. start: clock ticks after boot; boot: the id of that boot of the host.

    A process id alone comes round again. container: of the process's number, the pid namespace's; None in leases of
    earlier goldens. Source: proc_pid_stat(5), field 22; random(4), "boot_id"; pid_namespaces(7).
    """

    pid: int
    start: int
    boot: str
    container: int | None = None

    def is_alive(self) -> bool:
        """Also if nobody can say: one container does not see the processes of another. The host sees them all."""
        if self.boot != _boot():
            return False
        here = _container("self")
        if self.container in (None, here):
            found = owner(self.pid)
            return found is not None and found.start == self.start
        if here != _HOST:
            return True
        others = (owner(int(path.name)) for path in Path("/proc").glob("[0-9]*"))
        return any(it is not None and (it.container, it.start) == (self.container, self.start) for it in others)


def owner(pid: int) -> Owner | None:
    """None if there is no such process, or only what is left of one."""
    try:
        # The name, in parentheses, may itself hold blanks and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in ("Z", "X"):
        return None
    return Owner(pid=pid, start=int(fields[19]), boot=_boot(), container=_container(str(pid)))


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()


def _container(process: str) -> int | None:
    """None if that is not for us to see."""
    try:
        return Path("/proc", process, "ns/pid").stat().st_ino
    except OSError:
        return None


class Pin(Frozen):
    """An image file as it was when the clone was made. path: the name that the overlay's chain has for it.

    original: where the image is installed or built; another name of the same file, or `path` itself where no link
    could be made. sha256: hex. Sizes in bytes.
    """

    path: Path
    original: Path
    sha256: str
    size_bytes: int
    mtime_ns: int
    inode: int

    @property
    def is_held(self) -> bool:
        """Whether the file lives on when its package is removed."""
        return self.path != self.original


class Lease(Frozen):
    """`lease.json`. files: the image's file, its parent's, … down to the base. uri: the libvirt that runs the machine.

    pins: the same files, as the overlay names them. extra_disks: sizes in bytes. owner: None for one that is kept
    until somebody destroys it. warm: the key of the saved memory that the overlay stands on. pool: in which it waits
    for somebody to take it. made: UTC, ISO 8601.
    """

    format: Literal[1] = 1
    name: str
    image: ImageId
    files: tuple[Path, ...]
    pins: tuple[Pin, ...] = ()
    uuid: str
    uri: str
    arch: Architecture = "x86_64"
    firmware: Firmware = "bios"
    memory_mib: int
    cpus: int
    accelerator: Literal["kvm", "tcg"]
    ssh_port: int
    forwards: tuple[Forward, ...] = ()
    nics: tuple[Nic, ...] = (Nic(),)
    extra_disks: tuple[int, ...] = ()
    has_seed: bool = False
    origin: Literal["installed", "built"] = "installed"
    key: Path | None
    authorized_key: str | None = None
    owner: Owner | None = None
    warm: str | None = None
    pool: str | None = None
    made: str

    @property
    def domain_name(self) -> str:
        return f"golden-{self.name}"

    @property
    def is_in_user_mode(self) -> bool:
        """Whether SSH is at a port of the host's loopback."""
        return any(nic.kind == "user" for nic in self.nics)

    @property
    def is_orphaned(self) -> bool:
        return self.owner is not None and not self.owner.is_alive()


def directory(state: Path, name: str) -> Path:
    return state / "clones" / name


def console_log(state: Path, name: str) -> Path:
    return directory(state, name) / CONSOLE


def part(place: Path) -> Path:
    """What a clone's directory is called while it is filled, and while it is emptied."""
    return place.with_name(f".{place.name}.part")


def lock(state: Path, name: str) -> contextlib.AbstractContextManager[None]:
    return locks.lock(state / "clones" / ".locks" / name, what=f"the clone '{name}'")


def names(state: Path) -> list[str]:
    folder = state / "clones"
    return sorted(path.name for path in folder.glob("*") if NAME.fullmatch(path.name)) if folder.is_dir() else []


def find(state: Path, name: str) -> Lease:
    """Raises ConfigError with the names that exist, or VerifyError if the lease is damaged."""
    need_known(state, name)
    path = directory(state, name) / "lease.json"
    try:
        return Lease.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError) as error:
        raise VerifyError(
            f"the lease of the clone '{name}' is damaged",
            details=[("file", str(path)), ("reason", str(error).splitlines()[0])],
            try_next=f"golden clone destroy {name}",
        ) from error


def uri(state: Path, name: str) -> str | None:
    """The libvirt that the clone's machine is known to; None, which is the default one, if its lease is damaged."""
    try:
        return find(state, name).uri
    except VerifyError:
        return None


def need_known(state: Path, name: str) -> None:
    known = names(state)
    if name not in known:
        raise ConfigError(
            f"there is no clone '{name}'{did_you_mean(name, known)}",
            try_next=f"one of: {', '.join(known)}" if known else "golden clone create NAME --image IMAGE",
        )


def leases(state: Path) -> Iterator[Lease]:
    """All leases of this state directory. Raises VerifyError at one that is damaged."""
    for name in names(state):
        yield find(state, name)


def whole_leases(state: Path) -> Iterator[Lease]:
    """As `leases`; one that is damaged, or goes away meanwhile, is passed over."""
    for name in names(state):
        with contextlib.suppress(VerifyError, ConfigError):
            yield find(state, name)


def write(lease: Lease, place: Path) -> None:
    store.write_atomically(place / "lease.json", lease.model_dump_json(indent=2) + "\n")


def this_process() -> Owner:
    found = owner(os.getpid())
    if found is None:
        raise RuntimeError("this process is not in /proc")
    return found

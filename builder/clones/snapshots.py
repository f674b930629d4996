"""Snapshots of a clone: disks, UEFI's variables and, of one that is on, its memory, as files beside it.

STATE/clones/web1/snapshots/NAME/   the clone's files as they were; snapshot.json last: what has none was cut off

Not QEMU's internal ones: these would live in the overlay, and fail with UEFI's variables and with cards that libvirt
does not know. Files are copied with holes, and where the file system shares blocks (XFS, Btrfs) at no cost.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from builder import faults, run, store
from builder.clones import pins
from builder.clones.leases import DISK, Lease, directory, find, lock, need_known
from builder.clones.memory import Capacity, host_capacity, reserved
from builder.clones.orders import check_name
from builder.errors import ConfigError, GoldenError, VerifyError, did_you_mean
from builder.model import Frozen
from builder.progress import Reporter
from builder.tools import mapped_memory, saved_memory
from builder.tools.libvirt import Connection, Domain

_COPY_TIMEOUT_S = 600
_MEMORY = "memory"


class Snapshot(Frozen):
    """`snapshot.json`. has_memory: the clone was on. size_bytes: on this disk. made: UTC, ISO 8601.

    crc32: file -> CRC-32 of what is in it, as of saved memory; none in what an earlier golden took.
    """

    format: int = 1
    name: str
    has_memory: bool
    size_bytes: int
    made: str
    crc32: dict[str, int] | None = None


def snapshots(state: Path, name: str) -> list[Snapshot]:
    """Oldest first. Raises VerifyError if one is damaged."""
    return sorted((read(place) for place in places(state, name)), key=lambda it: (it.made, it.name))


def places(state: Path, name: str) -> list[Path]:
    """The folders of a clone's snapshots."""
    return sorted(file.parent for file in _folder(state, name).glob("*/snapshot.json"))


def cut_off(state: Path, name: str) -> list[Path]:
    """What is left of snapshots that were never whole, if nobody holds the clone's lock."""
    return sorted(_folder(state, name).glob(".*.part"))


def read(place: Path) -> Snapshot:
    """Raises VerifyError if its facts are damaged."""
    file = place / "snapshot.json"
    try:
        return Snapshot.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise VerifyError(
            f"the facts of a snapshot are damaged: {file}",
            details=[("reason", str(error).splitlines()[0])],
            try_next=f"rm -r {place}, which gives the snapshot up",
        ) from error


def check(found: Snapshot, place: Path) -> None:
    """Read all of a snapshot. Raises VerifyError if it is not what was taken."""
    for file, crc32 in (found.crc32 or {}).items():
        path = place / file
        if not path.is_file():
            reason = "is gone"
        elif mapped_memory.checksum(path) != crc32:
            reason = "was changed after it was taken"
        else:
            continue
        raise VerifyError(
            f"the snapshot '{found.name}' is damaged: {path} {reason}",
            try_next=f"rm -r {place}, which gives the snapshot up",
        )


def take(name: str, snapshot: str, *, state: Path, connection: Connection, reporter: Reporter) -> Snapshot:
    """Keep the clone as it is now. One that is on stands still meanwhile, and goes on.

    Raises ConfigError for a name that is taken, ToolError.
    """
    check_name(snapshot)
    need_known(state, name)
    with lock(state, name), reporter.step(f"take the snapshot {snapshot} of {name}"):
        lease = find(state, name)
        place = _folder(state, name) / snapshot
        if place.exists():
            raise ConfigError(f"'{name}' has a snapshot '{snapshot}' already", try_next="another name")
        place.parent.mkdir(exist_ok=True)
        place.parent.chmod(0o711)
        aside = place.with_name(f".{snapshot}.part")
        go_on(lease, state=state, connection=connection)
        aside.mkdir()
        domain = connection.find(lease.domain_name)
        is_on = domain is not None and not domain.is_off()
        stands_still = is_on
        try:
            try:
                if domain is not None and is_on:
                    domain.save(aside / _MEMORY)
                    faults.place("snapshot.saved")
                _copy(_files(directory(state, name)), aside)
            finally:
                if domain is not None and is_on:
                    _let_go_on(domain, aside / _MEMORY, name=name, connection=connection)
                stands_still = False
            found = Snapshot(
                name=snapshot,
                has_memory=is_on,
                crc32={file.name: mapped_memory.checksum(file) for file in sorted(aside.iterdir())},
                size_bytes=sum(file.stat().st_blocks * 512 for file in aside.iterdir()),
                made=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            )
            store.write_atomically(aside / "snapshot.json", found.model_dump_json(indent=2) + "\n")
            aside.rename(place)
            faults.place("snapshot.named")
        finally:
            if not stands_still:  # else its memory is there alone
                shutil.rmtree(aside, ignore_errors=True)
    return found


def _let_go_on(domain: Domain, memory: Path, *, name: str, connection: Connection) -> None:
    try:
        if domain.is_off():
            connection.restore(memory)
    except GoldenError as error:
        then = f"golden clone start {name}, by which it goes on from where it stands still"
        error.try_next = f"{error.try_next}; then {then}" if error.try_next else then
        raise


def go_on(lease: Lease, *, state: Path, connection: Connection) -> bool:
    """Whether a machine that still stood still for a snapshot goes on now: golden was killed then, or libvirt was gone.

    Not if its disk was used since. What was left of snapshots is removed. The caller holds the clone's lock. Raises
    ToolError, after which it can be tried again.
    """
    domain, place, has_gone_on = connection.find(lease.domain_name), directory(state, lease.name), False
    is_off = domain is not None and domain.is_off()
    for aside in cut_off(state, lease.name):
        if is_off and not has_gone_on and _is_of_now(aside / _MEMORY, place / DISK):
            connection.restore(aside / _MEMORY)
            has_gone_on = True
        shutil.rmtree(aside, ignore_errors=True)
    return has_gone_on


def _is_of_now(memory: Path, disk: Path) -> bool:
    """Whether a memory was saved to its end, and the disk not written since."""
    try:
        saved_memory.read(memory)
    except (FileNotFoundError, VerifyError):
        return False
    return disk.stat().st_mtime_ns <= memory.stat().st_mtime_ns


def revert(
    name: str,
    snapshot: str,
    *,
    state: Path,
    connection: Connection,
    reporter: Reporter,
    capacity: Capacity | None = None,
) -> tuple[Lease, bool]:
    """Make the clone what it was; what it has become is gone. Returns its lease, and whether it is on now.

    The guest's clock stands where it stood. Raises ConfigError for a snapshot that is not there, VerifyError for
    one that is damaged: the clone is as it was then.
    """
    need_known(state, name)
    with lock(state, name), reporter.step(f"revert {name} to {snapshot}") as step:
        lease, place = find(state, name), _folder(state, name) / snapshot
        if not (place / "snapshot.json").exists():
            known = [it.name for it in snapshots(state, name)]
            raise ConfigError(
                f"'{name}' has no snapshot '{snapshot}'{did_you_mean(snapshot, known)}",
                try_next=f"one of: {', '.join(known)}" if known else f"golden clone snapshot {name} {snapshot}",
            )
        pins.check(lease.pins, what=f"the clone '{name}'", is_full=False)
        check(read(place), place)
        if (domain := connection.find(lease.domain_name)) is not None:
            domain.destroy()
        _copy([file for file in place.iterdir() if file.name not in ("snapshot.json", _MEMORY)], directory(state, name))
        if not (place / _MEMORY).exists():
            return lease, False
        limit = capacity or host_capacity()
        with reserved(lease.memory_mib, limit, names=name, note=step.note):
            connection.restore(place / _MEMORY)
        return lease, True


def _folder(state: Path, name: str) -> Path:
    return directory(state, name) / "snapshots"


def _files(place: Path) -> list[Path]:
    """What the machine writes to."""
    return [place / DISK, *sorted(place.glob("extra-*.qcow2")), *place.glob("nvram.fd")]


def _copy(files: list[Path], into: Path) -> None:
    """Each appears under its name when it is whole."""
    for file in files:
        aside = into / f".{file.name}.part"
        run.query(
            ["cp", "--reflink=auto", "--sparse=always", file, aside],
            why=f"copy {file.name}",
            timeout_s=_COPY_TIMEOUT_S,
        )
        aside.replace(into / file.name)

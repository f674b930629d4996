"""guestfish: partitions and file systems of a disk image, in libguestfs' appliance and never on the host."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from builder import run
from builder.errors import ToolError, VerifyError
from builder.model import Frozen
from builder.tools import guestfs
from builder.tools.appliance import pausing

_DEVICE = "/dev/sda"
_SECTOR = 512
# Partitions end on a multiple of this, as parted has it; a GPT's copy takes the last 33 sectors. Source: UEFI, 5.3.
_ALIGNMENT = 2048
_GPT_TAIL_SECTORS = 34
_MSDOS_SECTORS = 2**32
_LAST_PRIMARY = 4
# A file system's tables and reserve are not counted as its blocks; one that was not grown falls far below.
_LEAST_SHARE = 0.85
_TIMEOUT_S = 300
# libguestfs keeps rarer file systems in packages of their own; the appliance then takes them from the host.
_MISSING = re.compile(r"feature '(\w+)' is not available in this build of libguestfs")
_PACKAGES = {"xfs": "libguestfs-xfs", "btrfs": "btrfs-progs"}

Commands = Sequence[Sequence[str]]


class Partition(Frozen):
    """begin, end: bytes from the start of the disk; `end` is the last one's place."""

    number: int
    begin: int
    end: int

    @property
    def device(self) -> str:
        return f"{_DEVICE}{self.number}"


class Layout(Frozen):
    """What is on a disk. table: None for a file system on the whole disk. file_systems: device -> type."""

    table: str | None
    partitions: tuple[Partition, ...]
    file_systems: dict[str, str]


def argv(disk: Path, commands: Commands, *, read_only: bool = False) -> run.Argv:
    """One start of the appliance for all of `commands`. `read_only`: writes go nowhere."""
    words = [word for number, command in enumerate(commands) for word in ([":"] if number else []) + [*command]]
    return ["guestfish", *(["--ro"] if read_only else []), "--format=qcow2", "--add", disk, "--", "run", ":", *words]


INSPECTION: Commands = (
    ["echo", "== table"],
    ["-part-get-parttype", _DEVICE],
    ["echo", "== partitions"],
    ["-part-list", _DEVICE],
    ["echo", "== file systems"],
    ["list-filesystems"],
)


def inspect(disk: Path, *, is_kvm: bool, time_factor: float) -> Layout:
    """Look at the partitions. Raises ToolError."""
    return parse_layout(
        run.query(
            argv(disk, INSPECTION, read_only=True),
            why="look at the partitions of the image",
            timeout_s=_TIMEOUT_S * time_factor,
            env=guestfs.environment(is_kvm=is_kvm),
        )
    )


def grow(disk: Path, layout: Layout, disk_bytes: int, *, is_kvm: bool, time_factor: float) -> None:
    """Let the last partition and its file system fill the disk, and look whether they do.

    The beginnings of partitions stay where they are, as boot loaders know them by their sectors; virt-resize moves
    them. Raises VerifyError if golden cannot grow what is there, or the file system is still small; ToolError.
    """
    try:
        with pausing(disk, {}) as pauses:
            answer = run.query(
                argv(disk, growing(layout, disk_bytes)),
                why="grow the last partition of the image",
                timeout_s=_TIMEOUT_S * time_factor,
                env=guestfs.environment(is_kvm=is_kvm) | (pauses.environment if pauses else {}),
                watch=pauses.poll if pauses else None,
            )
    except ToolError as error:
        if match := _MISSING.search(" ".join(dict(error.details)["output"].split())):
            error.try_next = run.how_to_install(_PACKAGES.get(match[1], match[1]))
        raise
    last = _last(layout)
    room = disk_bytes - (last.begin if last else 0)
    found = dict(re.findall(r"^(frsize|blocks): ([0-9]+)$", answer, flags=re.MULTILINE))
    size = int(found.get("frsize", 0)) * int(found.get("blocks", 0))
    if size < room * _LEAST_SHARE:
        raise VerifyError(f"all commands ended well, and the file system did not grow: {size} of {room} bytes")


def parse_layout(text: str) -> Layout:
    """What the commands of `INSPECTION` print -> Layout."""
    parts = re.split(r"^== (.*)\n", text, flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    numbers = [
        {name: int(value) for name, value in re.findall(r"(part_\w+): ([0-9]+)", block)}
        for block in sections["partitions"].split("}")
    ]
    lines = [line.rpartition(": ") for line in sections["file systems"].splitlines()]
    return Layout(
        table=sections["table"].strip() or None,
        partitions=tuple(
            Partition(number=found["part_num"], begin=found["part_start"], end=found["part_end"])
            for found in numbers
            if found
        ),
        file_systems={device: kind for device, _, kind in lines if kind != "unknown"},
    )


def growing(layout: Layout, disk_bytes: int) -> Commands:
    """The commands that let the last partition and its file system take all of a disk of `disk_bytes`.

    The last ones print the file system's size. Raises VerifyError with what is in the way.
    """
    last = _last(layout)
    commands: list[list[str]] = []
    if last is not None:
        sectors = disk_bytes // _SECTOR
        if layout.table == "gpt":
            commands.append(["part-expand-gpt", _DEVICE])  # its copy goes to the new end of the disk
            sectors -= _GPT_TAIL_SECTORS
        elif layout.table != "msdos":
            raise _in_the_way(f"its partition table is of the kind '{layout.table}'")
        elif last.number > _LAST_PRIMARY:
            raise _in_the_way(f"its last partition, {last.device}, lies inside an extended one")
        elif sectors > _MSDOS_SECTORS:
            raise _in_the_way("an MBR partition table ends at 2 TiB")
        end = sectors // _ALIGNMENT * _ALIGNMENT - 1
        if end > last.end // _SECTOR:
            commands.append(["part-resize", _DEVICE, str(last.number), str(end)])
    device = last.device if last else _DEVICE
    kind = layout.file_systems.get(device)
    match kind:
        case "ext2" | "ext3" | "ext4":
            commands += [["e2fsck", device, "correct:true"], ["resize2fs", device], ["mount-ro", device, "/"]]
        case "xfs":
            commands += [["mount", device, "/"], ["xfs-growfs", "/"]]
        case "btrfs":
            commands += [["mount", device, "/"], ["btrfs-filesystem-resize", "/"]]
        case _:
            raise _in_the_way(f"its last partition, {device}, holds {kind or 'no file system that is known'}")
    return [*commands, ["statvfs", "/"]]


def _last(layout: Layout) -> Partition | None:
    return max(layout.partitions, key=lambda partition: partition.end, default=None)


def _in_the_way(what: str) -> VerifyError:
    return VerifyError(
        f"the image cannot be grown: {what}; golden grows ext2, ext3, ext4, xfs and btrfs in the last partition",
        try_next="give the image the disk size that it has",
    )

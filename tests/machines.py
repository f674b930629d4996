"""Machines without an operating system, to save the memory of, and what goes on from it."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from builder.run import query
from builder.tools import qemu_img
from builder.tools.domain import Disk, Label, Machine, MappedMemory
from builder.tools.free_port import free_port


def restarting_sector(said: str) -> bytes:
    """A boot sector that puts a line onto the first serial port and resets the machine, again and again.

    Each character waits until the port takes it (8250, line status, bit 5); the end is a jump to the reset vector.
    """
    code = bytes.fromhex(
        "31c0 8ed8 fc be407c"  # from 0x7c40 on
        "ac 84c0 7411 88c3 bafd03 ec a820 74fb 88d8 b2f8 ee ebea"  # each byte until a zero
        "ea0000ffff"
    )
    return code.ljust(0x40, b"\0") + f"{said}\r\n".encode().ljust(510 - 0x40, b"\0") + b"\x55\xaa"


def write_sector(disk: Path, sector: bytes) -> None:
    """The first sector of a disk that no machine runs from yet."""
    file = disk.with_name("sector")
    file.write_bytes(sector)
    query(["qemu-io", "-c", f"write -q -s {file} 0 512", disk], why="write a boot sector")
    file.unlink()


def make_machine(folder: Path, base: Path, *, memory_mib: int, mapped: MappedMemory | None = None) -> Machine:
    """In `folder`, a new one, on an overlay of `base`; nothing is started."""
    folder.mkdir(mode=0o711)
    qemu_img.create_overlay(folder / "disk.qcow2", base)
    own = str(uuid.uuid4())
    return Machine(
        name=f"golden-test-{own[:8]}",
        uuid=own,
        label=Label(purpose="clone", owner_pid=os.getpid(), work=folder),
        accelerator="tcg",
        memory_mib=memory_mib,
        cpus=1,
        disks=(Disk(chain=(folder / "disk.qcow2", base)),),
        ssh_port=free_port(),
        console_log=folder / "console.log",
        credentials={"tmpfiles.extra": folder.name},
        renewal=folder / "renew.sock",
        mapped=mapped,
    )

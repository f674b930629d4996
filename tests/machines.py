"""Machines without an operating system, to save the memory of, and what goes on from it."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from builder.tools import qemu_img
from builder.tools.domain import Disk, Label, Machine, MappedMemory
from builder.tools.free_port import free_port


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

"""What a clone's machine is made of: its overlay, its other files, and the machine as libvirt is to run it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from builder import faults
from builder.clones import identity
from builder.clones.leases import CONSOLE, DISK, SEED, Lease
from builder.tools import qcow2, qemu_img
from builder.tools.domain import Disk, Label, Machine


def lay_overlay(place: Path, backing: Path, files: Sequence[Path], *, like: Path | None = None) -> None:
    """A new overlay in `place`; the old one, if there is one, gives way at once.

    files: what it is to stand on, `backing` first. like: an overlay of the same that nobody has written to yet. One
    holds nothing but its backing file's name, so that a copy is as good as a new one and costs no process.
    """
    aside = place / f".{DISK}.part"
    aside.unlink(missing_ok=True)
    if like is not None:
        shutil.copyfile(like, aside)
    else:
        qemu_img.create_overlay(aside, backing)
    qcow2.verify_chain(aside, list(files))
    faults.place("clone.aside")
    aside.replace(place / DISK)
    faults.place("clone.overlay")


def extra_disk(place: Path, number: int) -> Path:
    return place / f"extra-{number}.qcow2"


def machine(lease: Lease, place: Path) -> Machine:
    """The clone as libvirt is to run it."""
    disks = [Disk(chain=(place / DISK, *(pin.path for pin in lease.pins)))]
    disks += [Disk(chain=(extra_disk(place, number),)) for number in range(1, len(lease.extra_disks) + 1)]
    if lease.has_seed:
        disks.append(Disk(chain=(place / SEED,), format="raw", is_readonly=True))
    return Machine(
        name=lease.domain_name,
        uuid=lease.uuid,
        label=Label(purpose="clone", owner_pid=lease.owner.pid if lease.owner else os.getpid(), work=place),
        arch=lease.arch,
        firmware=lease.firmware,
        accelerator=lease.accelerator,
        memory_mib=lease.memory_mib,
        cpus=lease.cpus,
        disks=tuple(disks),
        ssh_port=lease.ssh_port,
        console_log=place / CONSOLE,
        nics=lease.nics,
        forwards=lease.forwards,
        hostname=lease.name,
        credentials=identity.credentials(lease),
    )

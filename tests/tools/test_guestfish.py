"""A btrfs image grown by the real guestfish; xfs and ext4, and a whole import, are in tests/vm/test_import.py."""

from __future__ import annotations

from pathlib import Path

from builder import run
from builder.tools import guestfish, guestfs, qemu_img
from builder.units import MIB

# As Fedora Cloud has it: GPT, /boot in front, and the root last, a btrfs with subvolumes.
MAKE = [
    ["part-init", "/dev/sda", "gpt"],
    ["part-add", "/dev/sda", "p", "2048", "34815"],
    ["part-add", "/dev/sda", "p", "34816", "-2049"],
    ["mkfs", "ext4", "/dev/sda1"],
    ["mkfs-btrfs", "/dev/sda2"],
    ["mount", "/dev/sda2", "/"],
    ["btrfs-subvolume-create", "/root"],
    ["write", "/root/x", "kept"],
]
LOOK = [
    ["mount-ro", "/dev/sda2", "/"],
    ["cat", "/root/x"],
    ["echo", ""],
    ["blockdev-getsize64", "/dev/sda2"],
]


def test_a_btrfs_grows_with_its_partition(tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    qemu_img.create(disk, 512 * MIB)
    in_guestfish(disk, MAKE)
    qemu_img.resize(disk, 1024 * MIB)
    layout = guestfish.inspect(disk, is_kvm=False, time_factor=5)
    assert layout.table == "gpt"
    # A subvolume is a file system of its own to libguestfs; what counts is the device.
    assert layout.file_systems["/dev/sda2"] == "btrfs"
    # Raises if the file system did not follow its partition.
    guestfish.grow(disk, layout, 1024 * MIB, is_kvm=False, time_factor=5)
    content, size = in_guestfish(disk, LOOK, read_only=True).split()
    assert content == "kept"
    assert int(size) > 1000 * MIB


def in_guestfish(disk: Path, commands: list[list[str]], *, read_only: bool = False) -> str:
    return run.query(
        guestfish.argv(disk, commands, read_only=read_only),
        why="run guestfish for a test",
        timeout_s=300,
        env=guestfs.environment(is_kvm=False),
    )

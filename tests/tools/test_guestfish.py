"""Disks with a GPT grown by the real guestfish: a btrfs and an ext4. An MBR with xfs, and a whole import, are in
tests/vm/test_import.py.

Most of the time goes by in starts of the appliance: both disks are made in one, and looked at in one.
"""

from __future__ import annotations

from pathlib import Path

from builder import run
from builder.tools import guestfish, guestfs, qemu_img
from builder.units import MIB

# As Fedora Cloud has it: /boot in front, and the root last, a btrfs with subvolumes.
BTRFS = [
    ["part-init", "/dev/sda", "gpt"],
    ["part-add", "/dev/sda", "p", "2048", "34815"],
    ["part-add", "/dev/sda", "p", "34816", "-2049"],
    ["mkfs", "ext4", "/dev/sda1"],
    ["mkfs-btrfs", "/dev/sda2"],
    ["mount", "/dev/sda2", "/"],
    ["btrfs-subvolume-create", "/root"],
    ["write", "/root/x", "kept in btrfs"],
    ["umount", "/"],
]
EXT4 = [
    ["part-init", "/dev/sdb", "gpt"],
    ["part-add", "/dev/sdb", "p", "2048", "4095"],
    ["part-add", "/dev/sdb", "p", "4096", "-2049"],
    ["mkfs", "ext4", "/dev/sdb2"],
    ["mount", "/dev/sdb2", "/"],
    ["write", "/x", "kept in ext4"],
]
LOOK = [
    ["mount-ro", "/dev/sda2", "/"],
    ["cat", "/root/x"],
    ["echo", ""],
    ["blockdev-getsize64", "/dev/sda2"],
    ["umount", "/"],
    ["mount-ro", "/dev/sdb2", "/"],
    ["cat", "/x"],
    ["echo", ""],
    ["blockdev-getsize64", "/dev/sdb2"],
]


def test_a_file_system_grows_with_its_partition(tmp_path: Path) -> None:
    disks = {kind: tmp_path / f"{kind}.qcow2" for kind in ("btrfs", "ext4")}
    for disk in disks.values():
        qemu_img.create(disk, 512 * MIB)
    in_guestfish(*disks.values(), commands=[*BTRFS, *EXT4])
    for kind, disk in disks.items():
        qemu_img.resize(disk, 1024 * MIB)
        layout = guestfish.inspect(disk, is_kvm=False, time_factor=5)
        # A subvolume is a file system of its own to libguestfs; what counts is the device.
        assert (layout.table, layout.file_systems["/dev/sda2"]) == ("gpt", kind)
        # Raises if the file system did not follow its partition.
        guestfish.grow(disk, layout, 1024 * MIB, is_kvm=False, time_factor=5)
    seen = in_guestfish(*disks.values(), commands=LOOK, read_only=True).splitlines()
    in_btrfs, btrfs_bytes, in_ext4, ext4_bytes = filter(None, seen)
    assert (in_btrfs, in_ext4) == ("kept in btrfs", "kept in ext4")
    assert int(btrfs_bytes) > 1000 * MIB
    assert int(ext4_bytes) > 1000 * MIB


def in_guestfish(disk: Path, other: Path, *, commands: list[list[str]], read_only: bool = False) -> str:
    argv = list(guestfish.argv(disk, commands, read_only=read_only))
    argv[argv.index("--") : argv.index("--")] = ["--add", other]
    return run.query(
        argv,
        why="run guestfish for a test",
        timeout_s=300,
        env=guestfs.environment(is_kvm=False),
    )

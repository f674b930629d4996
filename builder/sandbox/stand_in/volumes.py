"""LVM: volume groups on partitions, logical volumes in them. Device nodes are made by LVM itself: there is no udev."""

from __future__ import annotations

import os
from collections.abc import Sequence

from .console import phase, stopped
from .disks import Group, Partition, Volume
from .system import call

# The package that a guest needs to find its volumes. Anaconda adds it by itself, too.
PACKAGE = "lvm2"


def path(group: str, volume: str) -> str:
    """The device, as fstab and the kernel's command line name it. Source: lvm(8), "VALID NAMES"."""
    return f"/dev/mapper/{group.replace('-', '--')}-{volume.replace('-', '--')}"


def make(group: Group, devices: Sequence[str]) -> list[tuple[Volume, str]]:
    """Make a volume group of `devices` and its volumes. Returns these with their devices."""
    os.environ["DM_DISABLE_UDEV"] = "1"
    phase(f"Creating the volume group {group.name} on {', '.join(devices)}")
    extent = ["--physicalextentsize", f"{group.extent_kib}k"] if group.extent_kib else []
    _lvm(["vgcreate", "--yes", *extent, group.name, *devices])
    size, count = _lvm(
        ["vgs", "--noheadings", "--nosuffix", "--units", "k", "-o", "vg_extent_size,vg_free_count", group.name]
    ).split()[-2:]
    extent_mib = float(size) / 1024
    made = []
    for volume, extents in shares(group.volumes, extents=int(count), extent_mib=extent_mib):
        _lvm(
            ["lvcreate", "--yes", "--wipesignatures", "y", "--extents", str(extents), "--name", volume.name, group.name]
        )
        made.append((volume, path(group.name, volume.name)))
    return made


def shares(volumes: Sequence[Volume], *, extents: int, extent_mib: float) -> list[tuple[Volume, int]]:
    """The volumes in their order, each with its extents: those that grow share what is left."""
    sizes = {volume: -(-_mib(volume.wish) // extent_mib) for volume in volumes}
    left = extents - sum(sizes.values())
    if left < 0:
        raise stopped(
            "Unable to allocate requested partition scheme: not enough free space in the volume group "
            f"({sum(sizes.values()) * extent_mib:.0f} MiB wanted, {extents * extent_mib:.0f} MiB there)"
        )
    growing = [volume for volume in volumes if volume.wish.grow]
    for number, volume in enumerate(growing):
        share = left // (len(growing) - number)
        if volume.wish.max_size_mib is not None:
            share = max(0, min(share, volume.wish.max_size_mib // extent_mib - sizes[volume]))
        sizes[volume] += share
        left -= share
    return [(volume, int(size)) for volume, size in sizes.items()]


def _mib(part: Partition) -> int:
    return part.size_mib or 0


def let_go(groups: Sequence[Group]) -> None:
    """Close the volumes: what is still in memory gets to the disk."""
    for group in groups:
        _lvm(["vgchange", "--activate", "n", group.name])


def _lvm(words: Sequence[str]) -> str:
    return call(["lvm", *words])

"""Partitions and logical volumes as a kickstart asks for them. Pure: nothing here touches the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pykickstart import constants

from .console import problem, stopped

PHYSICAL_VOLUME = "lvmpv"
# What `--fstype=efi` is made of. Source: UEFI Specification, "File System Format".
EFI = "vfat"

# Attributes of pykickstart's whose options go by another name.
_OPTIONS = {
    "preexist": "useexisting",
    "reserved_space": "reserved-space",
    "reserved_percent": "reserved-percent",
    "cache_size": "cachesize",
    "thin_pool": "thinpool",
    "thin_volume": "thin",
}


@dataclass(frozen=True)
class Partition:
    """size_mib: None for a recommended size. mount_point: a path, `swap`, or for a physical volume its `pv.` name."""

    mount_point: str
    filesystem: str
    size_mib: int | None
    grow: bool = False
    max_size_mib: int | None = None
    label: str = ""
    options: str = ""

    @property
    def is_physical_volume(self) -> bool:
        return self.filesystem == PHYSICAL_VOLUME

    @property
    def is_efi(self) -> bool:
        return self.filesystem == EFI


@dataclass(frozen=True)
class Volume:
    """A logical volume, and what is to be on it."""

    name: str
    wish: Partition


@dataclass(frozen=True)
class Group:
    """A volume group. physical: names of partitions, `pv.01`. extent_kib: 0 for LVM's own choice."""

    name: str
    physical: tuple[str, ...]
    volumes: tuple[Volume, ...]
    extent_kib: int = 0


def storage(handler: Any) -> tuple[list[Partition], list[Group]]:
    """What to make of the disk. Raises InstallError for what this stand-in does not obey."""
    parts = [_partition(data) for data in handler.partition.partitions]
    groups = [_group(data, handler.logvol.lvList) for data in handler.volgroup.vgList]
    _check_volumes(handler, parts, groups)
    if handler.autopart.seen:
        more, more_groups = _automatic(handler.autopart)
        parts += more
        groups += more_groups
    if handler.reqpart.seen and handler.reqpart.addBoot:
        parts.insert(0, Partition("/boot", "xfs", 1024))
    on_volumes = {volume.wish.mount_point for group in groups for volume in group.volumes}
    if "/" in on_volumes and "/boot" not in {part.mount_point for part in parts}:
        raise stopped("/ on a logical volume without a partition /boot is not obeyed by this stand-in for Anaconda")
    return parts, groups


def _automatic(data: Any) -> tuple[list[Partition], list[Group]]:
    """Without a type it is plain here, for which Anaconda would take LVM."""
    filesystem = data.fstype or "xfs"
    boot = [] if data.noboot else [Partition("/boot", filesystem, 1024)]
    root = Partition("/", filesystem, 1024, grow=True)
    if data.type in (None, constants.AUTOPART_TYPE_PLAIN):
        return [*boot, root], []
    if data.type != constants.AUTOPART_TYPE_LVM:
        raise problem(data.lineno, "of 'autopart --type' this stand-in for Anaconda obeys plain and lvm")
    physical = Partition("pv.auto", PHYSICAL_VOLUME, 1536, grow=True)
    return [*boot, physical], [Group("sandbox", ("pv.auto",), (Volume("root", root),))]


def _partition(data: Any) -> Partition:
    _refuse_options("part", data, ("onPart", "encrypted", "start", "end", "recommended", "hibernation"))
    if data.mountpoint.startswith("pv."):
        if not data.size:
            raise problem(data.lineno, f"Partition {data.mountpoint} requires a size specification")
        return _wish(data, filesystem=PHYSICAL_VOLUME)
    return _file_system(data, f"a partition '{data.mountpoint}'")


def _group(data: Any, volumes: list[Any]) -> Group:
    _refuse_options("volgroup", data, ("preexist", "reserved_space", "reserved_percent"))
    if not data.format:
        raise problem(data.lineno, "'volgroup --noformat' is not obeyed by this stand-in for Anaconda")
    return Group(
        name=data.vgname,
        physical=tuple(data.physvols),
        volumes=tuple(_volume(volume) for volume in volumes if volume.vgname == data.vgname),
        extent_kib=data.pesize or 0,
    )


def _volume(data: Any) -> Volume:
    options = ("preexist", "percent", "encrypted", "recommended", "hibernation", "resize", "cache_size")
    _refuse_options("logvol", data, (*options, "thin_pool", "thin_volume"))
    if not data.format:
        raise problem(data.lineno, "'logvol --noformat' is not obeyed by this stand-in for Anaconda")
    return Volume(data.name, _file_system(data, f"a logical volume '{data.mountpoint}'"))


def _check_volumes(handler: Any, parts: list[Partition], groups: list[Group]) -> None:
    """Every physical volume that a group names exists, every group that a logical volume names as well."""
    there = {part.mount_point for part in parts if part.is_physical_volume}
    for data in handler.volgroup.vgList:
        for name in data.physvols:
            if name not in there:
                raise problem(data.lineno, f"Tried to use undefined partition {name} in Volume Group specification")
    for data in handler.logvol.lvList:
        if data.vgname not in {group.name for group in groups}:
            raise problem(data.lineno, f"No volume group exists with the name {data.vgname}")
        if data.mountpoint == "/boot":
            raise problem(data.lineno, "/boot on a logical volume is not obeyed by this stand-in for Anaconda")


def _file_system(data: Any, what: str) -> Partition:
    mount_point = data.mountpoint
    filesystem = "swap" if mount_point == "swap" else data.fstype or "xfs"
    if (mount_point, filesystem) == ("/boot/efi", "efi") and data.size:
        return _wish(data, filesystem=EFI)
    if not (mount_point.startswith("/") or mount_point == "swap") or filesystem not in ("ext4", "xfs", "swap"):
        raise problem(data.lineno, f"{what} of type '{filesystem}' is not obeyed by this stand-in for Anaconda")
    if not data.size:
        raise problem(data.lineno, f"Partition {mount_point} requires a size specification")
    return _wish(data, filesystem=filesystem)


def _wish(data: Any, *, filesystem: str) -> Partition:
    return Partition(
        mount_point=data.mountpoint,
        filesystem=filesystem,
        size_mib=data.size,
        grow=bool(data.grow),
        max_size_mib=data.maxSizeMB or None,
        label=data.label or "",
        options=data.fsopts or "",
    )


def _refuse_options(command: str, data: Any, options: tuple[str, ...]) -> None:
    for option in options:
        if getattr(data, option, None):
            name = _OPTIONS.get(option, option.lower())
            raise problem(data.lineno, f"'{command} --{name}' is not obeyed by this stand-in for Anaconda")

"""The disk: partitions, file systems, mounts, fstab, boot loader for BIOS or UEFI."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

from . import volumes
from .console import phase, stopped
from .disks import Group, Partition
from .plan import Plan
from .system import SYSROOT, call

MIB = 1024**2
_SECTOR = 512
# Room in front of the first partition: GRUB's core image lies there.
_FIRST_MIB = 1


@dataclass(frozen=True)
class Made:
    """A partition that exists, or a logical volume, `GROUP/NAME`."""

    device: str
    uuid: str
    wish: Partition
    volume: str = ""

    @property
    def source(self) -> str:
        """What fstab and the kernel know it by."""
        return self.device if self.volume else f"UUID={self.uuid}"


def choose_disk(plan: Plan, *, block: Path = Path("/sys/block")) -> str:
    """The disk's name, `vda`. The first one, or the first that the kickstart allows."""
    disks = [d.name for d in sorted(block.iterdir()) if d.name.startswith(("vd", "sd", "hd", "nvme"))]
    usable = [name for name in disks if (block / name / "removable").read_text().strip() != "1"]
    wanted = [name.removeprefix("/dev/") for name in plan.disks]
    found = next((name for name in usable if not wanted or name in wanted), None)
    if found is None:
        asked = f" (the kickstart wants {', '.join(wanted)})" if wanted else ""
        raise stopped(f"No usable disks have been found{asked}. Found: {', '.join(usable) or 'none'}")
    return found


def layout(parts: tuple[Partition, ...], *, disk_mib: int, is_gpt: bool) -> list[tuple[Partition, int]]:
    """The partitions in disk order with their sizes in MiB: those that grow come last and share what is left.

    Raises InstallError if they do not fit.
    """
    room = disk_mib - _FIRST_MIB - (2 if is_gpt else 0)
    sizes = {part: part.size_mib or 0 for part in parts}
    left = room - sum(sizes.values())
    if left < 0:
        raise stopped(
            "Unable to allocate requested partition scheme: "
            f"not enough free space on disks ({sum(sizes.values())} MiB wanted, {room} MiB there)"
        )
    growing = [part for part in parts if part.grow]
    for number, part in enumerate(growing):
        share = left // (len(growing) - number)
        if part.max_size_mib is not None:
            share = max(0, min(share, part.max_size_mib - sizes[part]))
        sizes[part] += share
        left -= share
    fixed = [part for part in parts if not part.grow]
    return [(part, sizes[part]) for part in [*fixed, *growing]]


def table(parts: list[tuple[Partition, int]], *, is_gpt: bool) -> str:
    """The script for sfdisk(8). The partition with /boot, or else the root, is the active one."""
    lines = [f"label: {'gpt' if is_gpt else 'dos'}", "unit: sectors", ""]
    begin = _FIRST_MIB * MIB // _SECTOR
    if _has_bios_partition(parts, is_gpt=is_gpt):
        lines.append(f"start={begin}, size={MIB // _SECTOR}, type=21686148-6449-6E6F-744E-656564454649")
        begin += MIB // _SECTOR
    points = [part.mount_point for part, _ in parts]
    boot = "/boot" if "/boot" in points else "/"
    for part, size_mib in parts:
        size = size_mib * MIB // _SECTOR
        # Shortcuts of sfdisk(8) that mean the right type in both kinds of table.
        kind = "V" if part.is_physical_volume else "S" if part.mount_point == "swap" else "U" if part.is_efi else "L"
        active = ", bootable" if part.mount_point == boot and not is_gpt else ""
        lines.append(f"start={begin}, size={size}, type={kind}{active}")
        begin += size
    return "\n".join(lines) + "\n"


def _has_bios_partition(parts: list[tuple[Partition, int]], *, is_gpt: bool) -> bool:
    """A partition table that leaves a BIOS no room for GRUB's core image has a partition for it, as the first."""
    return is_gpt and not any(part.is_efi for part, _ in parts)


def prepare(plan: Plan) -> tuple[str, list[Made]]:
    """Partition, format and mount below SYSROOT. Returns the disk's device and what was made."""
    disk = choose_disk(plan)
    device = f"/dev/{disk}"
    is_gpt = plan.disk_label == "gpt"
    disk_mib = int(Path(f"/sys/block/{disk}/size").read_text()) * _SECTOR // MIB
    parts = layout(plan.partitions, disk_mib=disk_mib, is_gpt=is_gpt)
    phase(f"Configuring storage: {device}, {disk_mib} MiB")
    script = Path("/tmp/sfdisk")
    script.write_text(table(parts, is_gpt=is_gpt))
    call(["wipefs", "-a", device])
    call(["sh", "-c", f"sfdisk --quiet {device} < {script}"])
    made: list[Made] = []
    devices = {}
    for number, (part, _) in enumerate(parts, start=2 if _has_bios_partition(parts, is_gpt=is_gpt) else 1):
        path = f"{device}{'p' if disk.startswith('nvme') else ''}{number}"
        _wait_for(path)
        if not part.is_physical_volume:
            made.append(_format(path, part))
        devices[part.mount_point] = path
    for group in plan.groups:
        made += _format_volumes(group, devices)
    for item in sorted(made, key=lambda item: item.wish.mount_point):
        _mount(item)
    return device, made


def _wait_for(device: str) -> None:
    deadline = time.monotonic() + 30
    while not Path(device).exists():
        if time.monotonic() > deadline:
            raise stopped(f"The partition {device} did not appear")
        time.sleep(0.05)


def _format_volumes(group: Group, devices: dict[str, str]) -> list[Made]:
    made = []
    for volume, device in volumes.make(group, [devices[name] for name in group.physical]):
        item = _format(device, volume.wish)
        made.append(replace(item, volume=f"{group.name}/{volume.name}"))
    return made


def _format(device: str, part: Partition) -> Made:
    phase(f"Creating {part.filesystem} on {device}")
    label = ["-L", part.label] if part.label else []
    if part.filesystem == "ext4":
        # Inode tables are initialised by the running guest; under TCG that is most of mkfs' time.
        call(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1", *label, device])
    elif part.filesystem == "xfs":
        call(["mkfs.xfs", "-q", "-f", *label, device])
    elif part.is_efi:
        call(["mkfs.vfat", "-F", "32", device])
    else:
        call(["mkswap", *label, device])
    uuid = call(["blkid", "-p", "-s", "UUID", "-o", "value", device]).strip()
    return Made(device, uuid, part)


def _mount(item: Made) -> None:
    if item.wish.mount_point.startswith("/"):
        target = SYSROOT / item.wish.mount_point.lstrip("/")
        target.mkdir(parents=True, exist_ok=True)
        call(["mount", "-t", item.wish.filesystem, item.device, str(target)])


def mount_kernel_file_systems() -> None:
    """What scripts in the chroot need. /run is the installer's own, so that nothing of it stays in the image."""
    for name in ("dev", "proc", "sys", "run"):
        (SYSROOT / name).mkdir(exist_ok=True)
        call(["mount", "--rbind", f"/{name}", str(SYSROOT / name)])


def unmount_all(plan: Plan) -> None:
    """Everything below SYSROOT, deepest first. A mount that cannot go is an error: data could be lost."""
    os.sync()
    for name in ("dev", "proc", "sys", "run"):
        call(["umount", "-R", "-l", str(SYSROOT / name)])
    call(["umount", "-R", str(SYSROOT)])
    volumes.let_go(plan.groups)


def write_fstab(made: list[Made]) -> None:
    lines = []
    for item in made:
        point = item.wish.mount_point
        options = item.wish.options or ("umask=0077,shortname=winnt" if item.wish.is_efi else "defaults")
        check = "0" if item.wish.filesystem != "ext4" else "1" if point == "/" else "2"
        where = "none" if point == "swap" else point
        lines.append(f"{item.source} {where} {item.wish.filesystem} {options} 0 {check}")
    (SYSROOT / "etc/fstab").write_text("\n".join(lines) + "\n")


def install_boot_loader(plan: Plan, *, device: str, made: list[Made]) -> None:
    phase(f"Installing boot loader on {device}")
    words = ["--target=i386-pc", "--no-floppy", device]
    if any(item.wish.is_efi for item in made):
        # Where firmware without variables of its own looks: each machine of golden's begins with an empty set.
        words = ["--target=x86_64-efi", f"--efi-directory={SYSROOT}/boot/efi", "--removable", "--no-nvram"]
    call(["grub-install", f"--boot-directory={SYSROOT}/boot", *words])
    (SYSROOT / "boot/grub/grub.cfg").write_text(grub_config(plan, made=made, kernel=kernel_release()))


def kernel_release() -> str:
    kernels = sorted(path.name.removeprefix("vmlinuz-") for path in (SYSROOT / "boot").glob("vmlinuz-*"))
    if not kernels:
        raise stopped("No kernel was installed: the boot loader would have nothing to start")
    return kernels[-1]


def grub_config(plan: Plan, *, made: list[Made], kernel: str) -> str:
    root = next(item for item in made if item.wish.mount_point == "/")
    boot = next((item for item in made if item.wish.mount_point == "/boot"), root)
    prefix = "" if boot is not root else "/boot"
    arguments, more = plan.kernel_arguments, ""
    if root.volume:
        # As Anaconda and dracut have it: the initrd opens this volume alone, the running guest the others.
        arguments = f"rd.lvm.lv={root.volume} {arguments}"
        more = f" {prefix}/initramfs-lvm.img"
    return f"""\
serial --unit=0 --speed=115200
terminal_input serial console
terminal_output serial console
set timeout={plan.boot_timeout_s}
set default=0
search --no-floppy --fs-uuid --set=root {boot.uuid}
menuentry "Sandbox ({kernel})" {{
    linux {prefix}/vmlinuz-{kernel} root={root.source} rootfstype={root.wish.filesystem} rw {arguments}
    initrd {prefix}/initramfs-{kernel}.img{more}
}}
"""

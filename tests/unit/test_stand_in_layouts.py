"""The sandbox's stand-in for Anaconda and golden's disk layouts: which it obeys, and what it makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import install
from builder.config import load
from builder.model import Image
from builder.sandbox.stand_in import plan, storage, volumes
from builder.sandbox.stand_in.console import InstallError

DISK_MIB = 4096


def wanted(tmp_path: Path, layout: str, firmware: str = "bios") -> plan.Plan:
    file = tmp_path / "golden.toml"
    file.write_text('[distribution.sandbox]\ninherits = "el9"\nsource = { dvd = "sandbox.iso" }\n')
    distribution = load(file).distributions["sandbox"].model_copy(update={"layout": layout, "firmware": firmware})
    image = Image(name="sandbox-base", distribution="sandbox", layer="base")
    text = install.kickstart(image, distribution, ssh_public_key="ssh-ed25519 AAAA golden")
    return plan.make(plan.parse(text))


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("plain", {"/": 4095}),
        ("separate", {"/boot": 768, "/home": 512, "/": 1535, "/var": 1280}),
    ],
)
def test_partitions_are_made_as_asked_on_a_small_disk(tmp_path: Path, layout: str, expected: dict[str, int]) -> None:
    it = wanted(tmp_path, layout)
    parts = storage.layout(it.partitions, disk_mib=DISK_MIB, is_gpt=False)
    sizes = {part.mount_point: size for part, size in parts}
    assert sizes == expected
    table = storage.table(parts, is_gpt=it.disk_label == "gpt")
    assert table.startswith("label: dos\n")
    assert table.count("start=") == len(expected) <= 4  # as many as an MBR holds without an extended one
    assert table.count("bootable") == 1


def test_uefi_has_a_partition_of_its_own_in_a_table_of_its_own(tmp_path: Path) -> None:
    it = wanted(tmp_path, "plain", "uefi")
    parts = storage.layout(it.partitions, disk_mib=DISK_MIB, is_gpt=True)
    assert [(part.mount_point, part.filesystem, size) for part, size in parts] == [
        ("/boot/efi", "vfat", 256),
        ("/", "xfs", 3837),
    ]
    lines = storage.table(parts, is_gpt=it.disk_label == "gpt").splitlines()
    assert (lines[0], [line.rpartition("type=")[2] for line in lines[3:]]) == ("label: gpt", ["U", "L"])


def test_a_bios_with_a_gpt_has_a_partition_for_grub_first(tmp_path: Path) -> None:
    parts = storage.layout(wanted(tmp_path, "plain").partitions, disk_mib=DISK_MIB, is_gpt=True)
    lines = storage.table(parts, is_gpt=True).splitlines()
    assert [line.rpartition("type=")[2] for line in lines[3:]] == ["21686148-6449-6E6F-744E-656564454649", "L"]


def test_the_boot_loader_finds_a_boot_partition_of_its_own(tmp_path: Path) -> None:
    it = wanted(tmp_path, "separate")
    made = [storage.Made(f"/dev/vda{n}", f"uuid-of-{part.mount_point}", part) for n, part in enumerate(it.partitions)]
    config = storage.grub_config(it, made=made, kernel="6.1")
    assert "search --no-floppy --fs-uuid --set=root uuid-of-/boot\n" in config
    assert "linux /vmlinuz-6.1 root=UUID=uuid-of-/ rootfstype=xfs rw " in config
    assert "initrd /initramfs-6.1.img\n" in config


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("lvm", {"/": 831}),
        ("separate-lvm", {"/": 383, "/var": 320, "/home": 128}),
    ],
)
def test_logical_volumes_take_the_rest_of_the_disk(tmp_path: Path, layout: str, expected: dict[str, int]) -> None:
    it = wanted(tmp_path, layout)
    parts = storage.layout(it.partitions, disk_mib=DISK_MIB, is_gpt=False)
    assert {part.mount_point: size for part, size in parts} == {"/boot": 768, "pv.01": 3327}
    assert [line.rpartition("type=")[2] for line in storage.table(parts, is_gpt=False).splitlines()[3:]] == [
        "L, bootable",
        "V",
    ]
    (group,) = it.groups
    assert (group.name, group.physical) == ("system", ("pv.01",))
    # 3327 MiB, less what LVM keeps for itself, in extents of 4 MiB.
    shares = volumes.shares(group.volumes, extents=831, extent_mib=4)
    assert {volume.wish.mount_point: extents for volume, extents in shares} == expected


def test_volumes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    (group,) = wanted(tmp_path, "separate-lvm").groups
    with pytest.raises(
        InstallError, match=r"not enough free space in the volume group \(2304 MiB wanted, 2000 MiB there\)"
    ):
        volumes.shares(group.volumes, extents=500, extent_mib=4)


def test_automatic_volumes() -> None:
    it = plan.make(plan.parse("autopart --type=lvm --fstype=ext4\n"))
    assert [(part.mount_point, part.filesystem) for part in it.partitions] == [("/boot", "ext4"), ("pv.auto", "lvmpv")]
    assert "/" in it.mount_points


def test_the_kernel_is_told_the_volume_that_is_its_root(tmp_path: Path) -> None:
    it = wanted(tmp_path, "separate-lvm")
    (group,) = it.groups
    made = [storage.Made("/dev/vda1", "uuid-of-/boot", it.partitions[0])]
    for volume in group.volumes:
        device = volumes.path(group.name, volume.name)
        made.append(storage.Made(device, "uuid", volume.wish, volume=f"system/{volume.name}"))
    config = storage.grub_config(it, made=made, kernel="6.1")
    assert "linux /vmlinuz-6.1 root=/dev/mapper/system-root rootfstype=xfs rw rd.lvm.lv=system/root " in config
    assert "initrd /initramfs-6.1.img /initramfs-lvm.img\n" in config


def test_a_dash_in_a_name_is_doubled_as_lvm_does() -> None:
    assert volumes.path("my-group", "a-b") == "/dev/mapper/my--group-a--b"


BOOT = "part /boot --size=512\npart pv.01 --size=2048\n"


@pytest.mark.parametrize(
    ("commands", "says"),
    [
        ("volgroup g pv.02\n", "Tried to use undefined partition pv.02 in Volume Group specification"),
        (f"{BOOT}logvol / --vgname=g --name=r --size=1\n", "No volume group exists with the name g"),
        (f"{BOOT}volgroup g pv.01\nlogvol /boot --vgname=g --name=r --size=1\n", "/boot on a logical volume is not"),
        (f"{BOOT}volgroup g pv.01\nlogvol / --vgname=g --name=r --percent=9\n", "'logvol --percent' is not obeyed"),
        (
            f"{BOOT}volgroup g pv.01\nlogvol none --vgname=g --name=r --size=1 --thinpool\n",
            "'logvol --thinpool' is not",
        ),
        (f"{BOOT}volgroup g pv.01 --reserved-space=9\n", "'volgroup --reserved-space' is not obeyed"),
        (f"{BOOT}volgroup g pv.01\nlogvol /x --fstype=vfat --vgname=g --name=r --size=1\n", "of type 'vfat' is not"),
        ("part /boot/efi --fstype=efi\npart / --size=9\n", "a partition '/boot/efi' of type 'efi' is not obeyed"),
        ("part pv.01 --size=9\nvolgroup g pv.01\nlogvol / --vgname=g --name=r --size=1\n", "without a partition /boot"),
        ("autopart --type=thinp\n", "of 'autopart --type' this stand-in for Anaconda obeys plain and lvm"),
        ("autopart --type=lvm --noboot\n", "without a partition /boot"),
    ],
)
def test_what_it_does_not_do_with_volumes_is_refused_in_words(commands: str, says: str) -> None:
    with pytest.raises(InstallError, match=says):
        plan.make(plan.parse(commands))

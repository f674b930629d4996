"""The sandbox's stand-in for Anaconda and golden's disk layouts: which it obeys, and what it makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import install
from builder.config import load
from builder.model import Image
from builder.sandbox.stand_in import plan, storage
from builder.sandbox.stand_in.console import InstallError

DISK_MIB = 4096


def wanted(tmp_path: Path, layout: str) -> plan.Plan:
    file = tmp_path / "golden.toml"
    file.write_text('[distribution.sandbox]\ninherits = "el9"\nsource = { dvd = "sandbox.iso" }\n')
    distribution = load(file).distributions["sandbox"].model_copy(update={"layout": layout})
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


def test_the_boot_loader_finds_a_boot_partition_of_its_own(tmp_path: Path) -> None:
    it = wanted(tmp_path, "separate")
    made = [storage.Made(f"/dev/vda{n}", f"uuid-of-{part.mount_point}", part) for n, part in enumerate(it.partitions)]
    config = storage.grub_config(it, made=made, kernel="6.1")
    assert "search --no-floppy --fs-uuid --set=root uuid-of-/boot\n" in config
    assert "linux /vmlinuz-6.1 root=UUID=uuid-of-/ rootfstype=xfs rw " in config
    assert "initrd /initramfs-6.1.img\n" in config


@pytest.mark.parametrize("layout", ["lvm", "separate-lvm"])
def test_logical_volumes_are_refused_in_words(tmp_path: Path, layout: str) -> None:
    with pytest.raises(InstallError, match="'volgroup' is not obeyed by this stand-in for Anaconda"):
        wanted(tmp_path, layout)

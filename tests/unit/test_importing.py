"""Imports: what grows how, what is refused, and the script that prepares an image."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from builder import bases, importing, layer
from builder.errors import ConfigError, VerifyError
from builder.layer import Bench
from builder.media import Source
from builder.model import Distribution, Image
from builder.steps import Install, Shell
from builder.tools import guestfish
from builder.tools.guestfish import Layout, Partition
from builder.units import GIB

MIB = 1024**2

# As guestfish prints it of a disk with a BIOS boot partition and an xfs root.
PRINTED = """\
== table
gpt
== partitions
[0] = {
  part_num: 1
  part_start: 1048576
  part_end: 2097151
  part_size: 1048576
}
[1] = {
  part_num: 2
  part_start: 2097152
  part_end: 1072693247
  part_size: 1070596096
}
== file systems
/dev/sda1: unknown
/dev/sda2: xfs
"""


def disk(kind: str | None = "ext4", *, table: str | None = "gpt", number: int = 1) -> Layout:
    partition = Partition(number=number, begin=MIB, end=GIB - 1)
    return Layout(
        table=table,
        partitions=(partition,) if table else (),
        file_systems={partition.device if table else "/dev/sda": kind} if kind else {},
    )


def test_what_guestfish_prints_is_understood() -> None:
    assert guestfish.parse_layout(PRINTED) == Layout(
        table="gpt",
        partitions=(
            Partition(number=1, begin=MIB, end=2 * MIB - 1),
            Partition(number=2, begin=2 * MIB, end=1072693247),
        ),
        file_systems={"/dev/sda2": "xfs"},
    )


def test_a_disk_without_partitions_is_understood() -> None:
    printed = "== table\n== partitions\n== file systems\n/dev/sda: ext4\n"
    assert guestfish.parse_layout(printed) == Layout(table=None, partitions=(), file_systems={"/dev/sda": "ext4"})


def test_a_gpt_disk_grows() -> None:
    sectors = 2 * GIB // 512
    assert guestfish.growing(guestfish.parse_layout(PRINTED), 2 * GIB) == [
        ["part-expand-gpt", "/dev/sda"],
        ["part-resize", "/dev/sda", "2", str(sectors - 2048 - 1)],
        ["mount", "/dev/sda2", "/"],
        ["xfs-growfs", "/"],
        ["statvfs", "/"],
    ]


def test_an_mbr_disk_grows_to_its_very_end() -> None:
    assert guestfish.growing(disk(table="msdos"), 2 * GIB) == [
        ["part-resize", "/dev/sda", "1", str(2 * GIB // 512 - 1)],
        ["e2fsck", "/dev/sda1", "correct:true"],
        ["resize2fs", "/dev/sda1"],
        ["mount-ro", "/dev/sda1", "/"],
        ["statvfs", "/"],
    ]


def test_a_file_system_on_the_whole_disk_grows() -> None:
    assert guestfish.growing(disk("btrfs", table=None), 2 * GIB) == [
        ["mount", "/dev/sda", "/"],
        ["btrfs-filesystem-resize", "/"],
        ["statvfs", "/"],
    ]


def test_the_last_partition_is_the_one_that_lies_last() -> None:
    parts = (Partition(number=1, begin=100 * MIB, end=GIB - 1), Partition(number=14, begin=MIB, end=5 * MIB - 1))
    layout = Layout(table="gpt", partitions=parts, file_systems={"/dev/sda1": "ext4"})
    assert ["resize2fs", "/dev/sda1"] in guestfish.growing(layout, 2 * GIB)


@pytest.mark.parametrize(
    ("layout", "size", "message"),
    [
        (disk("swap"), 2 * GIB, "its last partition, /dev/sda1, holds swap"),
        (disk(None), 2 * GIB, "its last partition, /dev/sda1, holds no file system that is known"),
        (disk(table="mac"), 2 * GIB, "its partition table is of the kind 'mac'"),
        (disk(table="msdos", number=5), 2 * GIB, "its last partition, /dev/sda5, lies inside an extended one"),
        (disk(table="msdos"), 3072 * GIB, "an MBR partition table ends at 2 TiB"),
    ],
)
def test_what_cannot_be_grown(layout: Layout, size: int, message: str) -> None:
    with pytest.raises(VerifyError) as caught:
        guestfish.growing(layout, size)
    assert caught.value.what.startswith(f"the image cannot be grown: {message};")


IMAGE = Image(name="trial-base", distribution="trial", layer="base", disk_bytes=2 * GIB)
SOURCE = Source(qcow2="/x/cloud.qcow2")


def distribution(**more: object) -> Distribution:
    fields = {"title": "Trial", "kickstart_version": "RHEL9", "kickstart": Path("el.ks.j2"), "osinfo": "rocky9"}
    return Distribution.model_validate({"name": "trial", "source": SOURCE, **fields, **more})


def test_a_disk_smaller_than_the_image() -> None:
    with pytest.raises(ConfigError) as caught:
        importing.check_size(SOURCE, 3 * GIB - 512, IMAGE)
    assert caught.value.what == ("the disk of 'trial-base' (2.0 GiB) is smaller than the image cloud.qcow2 (3.0 GiB)")
    assert caught.value.try_next == 'in golden.toml: [image.trial-base] disk = "3 GiB"'


def test_an_image_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the image to import is not there: "):
        importing.check_file(tmp_path / "none.qcow2")


@pytest.mark.parametrize(("cloud_init", "word"), [("off", "cloud-init.disabled"), ("keep", "seed/nocloud")])
def test_the_preparation_is_one_that_a_shell_can_read(tmp_path: Path, cloud_init: str, word: str) -> None:
    source = SOURCE.model_copy(update={"cloud_init": cloud_init})
    prepare = importing.preparation(IMAGE, source, ssh_public_key="ssh-ed25519 AAAA trial")
    assert word in prepare.script
    assert "key='ssh-ed25519 AAAA trial'\n" in prepare.script
    assert prepare.script.endswith("printf 'image=trial-base\\n' > /etc/golden-release\n")
    subprocess.run(["sh", "-n"], input=prepare.script, text=True, check=True)


def test_the_images_seed_says_nothing_of_the_instance() -> None:
    """cloud-init takes what a seed in the image says before what a clone's own says, which would be no new instance."""
    source = SOURCE.model_copy(update={"cloud_init": "keep"})
    script = importing.preparation(IMAGE, source, ssh_public_key="k").script
    assert "printf '{}\\n' > /var/lib/cloud/seed/nocloud/meta-data" in script
    assert "instance-id" not in script


def test_a_comment_in_the_key_is_never_a_command() -> None:
    prepare = importing.preparation(IMAGE, SOURCE, ssh_public_key="ssh-ed25519 AAAA it's $(mine)")
    assert """key='ssh-ed25519 AAAA it'"'"'s $(mine)'\n""" in prepare.script


def test_packages_that_are_there_are_not_installed() -> None:
    found = bases.preparations(IMAGE, distribution(packages=("sudo", "python3")), ssh_public_key="k", repositories=[])
    assert [operation.name for operation in found] == ["0-packages", "0-prepare"]
    assert found[0].script.startswith("if rpm -q --quiet sudo python3; then exit 0; fi\ndnf -y install")


def test_an_installed_base_needs_no_preparation() -> None:
    dvd = distribution(source=Source(dvd="/x.iso"))
    assert bases.preparations(IMAGE, dvd, ssh_public_key="k", repositories=[]) == []


def test_an_image_is_prepared_before_its_steps() -> None:
    steps = (Install(packages=("a",)), Shell(commands=("x",)))
    assert [phase.title for phase in layer.phases(steps, prepares=True)] == ["prepare + install", "shell", "seal"]
    assert [phase.title for phase in layer.phases(steps[1:], prepares=True)] == ["prepare", "shell", "seal"]
    assert [phase.title for phase in layer.phases((), prepares=True)] == ["prepare + seal"]


def test_the_commands_of_an_import(tmp_path: Path) -> None:
    bench = Bench(
        image=IMAGE,
        distribution=distribution(),
        version="20261121.1",
        project=tmp_path,
        work=tmp_path,
        store_id="0123abcd",
    )
    found = layer.commands(
        bench,
        parents=[],
        target=Path("/images/t.qcow2"),
        repositories=[],
        uri="qemu:///system",
        is_kvm=False,
        time_factor=2,
        key=Path("/key"),
        port=2222,
        preparations=bases.preparations(IMAGE, distribution(), ssh_public_key="k", repositories=[]),
    )
    assert [command.title for command in found][:4] == ["import"] * 4
    assert [command.line for command in found][:3] == [
        "qemu-img check -f qcow2 --output=json /x/cloud.qcow2",
        f"qemu-img convert -f qcow2 -O qcow2 /x/cloud.qcow2 {tmp_path}/disk.qcow2",
        f"qemu-img resize -q -f qcow2 {tmp_path}/disk.qcow2 2147483648",
    ]
    assert f"--run {tmp_path}/steps/0-prepare.sh --run {tmp_path}/steps/seal.sh" in found[5].line

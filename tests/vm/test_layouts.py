"""The sandbox with its disk divided otherwise than the tree's base, for BIOS and UEFI: installed, booted, looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vm.conftest import Golden

# Between them: partitions and logical volumes, both file systems as the root's, more mount points than the root.
DEFINITIONS = """
[image.sandbox-separate]
distribution = "sandbox"
disk = "4 GiB"
layout = "separate"
file_system = "ext4"

[distribution.uefi]
inherits = "sandbox"
firmware = "uefi"

[image.uefi-volumes]
distribution = "uefi"
disk = "4 GiB"
layout = "separate-lvm"
"""

LOOK = """
test -d /sys/firmware/efi && echo uefi || echo bios
findmnt --raw --noheadings --real --output TARGET,FSTYPE,SOURCE
echo failed: $(systemctl --failed --plain --no-legend)
ls -d /home/golden/.ssh
"""


@pytest.mark.parametrize(
    ("image", "firmware", "file_system", "sources"),
    [
        (
            "sandbox-separate",
            "bios",
            "ext4",
            {"/boot": "/dev/vda1", "/": "/dev/vda3", "/var": "/dev/vda4", "/home": "/dev/vda2"},
        ),
        (
            "uefi-volumes",
            "uefi",
            "xfs",
            {
                "/boot": "/dev/vda2",
                "/": "/dev/mapper/system-root",
                "/var": "/dev/mapper/system-var",
                "/home": "/dev/mapper/system-home",
            },
        ),
    ],
)
def test_a_base_with_its_disk_divided_otherwise(
    bare: Golden, open_folder: Path, image: str, firmware: str, file_system: str, sources: dict[str, str]
) -> None:
    golden = bare.with_images(open_folder, DEFINITIONS)
    golden("build", image)
    # libvirt's names are the host's, and another worker may be at the other layout.
    # UEFI's go on from memory, with variables of their own: the only machines in the tests that have both.
    how, said = ("--warm", "went on from memory in ") if firmware == "uefi" else ("--cold", "booted in ")
    made = golden("clone", "create", image, "--image", image, how)
    try:
        firmware_there, *mounts, failed, home = golden("clone", "ssh", image, "--", LOOK).stdout.splitlines()
    finally:
        golden("clone", "destroy", image)
    assert said in made.stdout
    assert firmware_there == firmware
    found = {target: (kind, source) for target, kind, source in (line.split() for line in mounts)}
    assert {point: found.get(point) for point in sources} == {
        point: (file_system, source) for point, source in sources.items()
    }
    assert (failed.strip(), home) == ("failed:", "/home/golden/.ssh")

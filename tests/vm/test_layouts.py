"""The sandbox with its disk divided otherwise than the tree's base: installed, booted, looked at."""

from __future__ import annotations

from pathlib import Path

from tests.vm.conftest import Golden

SEPARATE = """
[image.sandbox-separate]
distribution = "sandbox"
disk = "4 GiB"
layout = "separate"
"""


def test_a_base_with_partitions_of_their_own_for_boot_var_and_home(bare: Golden, open_folder: Path) -> None:
    golden = bare.with_images(open_folder, SEPARATE)
    golden("build", "sandbox-separate")
    golden("clone", "create", "layout", "--image", "sandbox-separate")
    try:
        mounts = golden("clone", "ssh", "layout", "--", "findmnt --raw --noheadings --real --output TARGET,FSTYPE")
        found = dict(line.split() for line in mounts.stdout.splitlines())
        assert {point: found.get(point) for point in ("/", "/boot", "/var", "/home")} == dict.fromkeys(
            ("/", "/boot", "/var", "/home"), "xfs"
        )
        failed = golden("clone", "ssh", "layout", "--", "systemctl", "--failed", "--plain", "--no-legend").stdout
        assert failed == ""
        assert golden("clone", "ssh", "layout", "--", "ls -d /home/golden/.ssh").stdout == "/home/golden/.ssh\n"
    finally:
        golden("clone", "destroy", "layout")

"""Own artifacts, flat images, exports, and clones that are not twins: booted."""

from __future__ import annotations

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.rpms import make_rpm
from tests.vm.conftest import Golden

# The sandbox's network identifies itself by its MAC address, so networkd is told to use its DUID; in the lease it comes
# after a type and an IAID (RFC 4361). The network goes for a moment, and connections may go with it.
ASK_BY_DUID = """
mkdir -p /etc/systemd/network/80-dhcp.network.d
printf '[DHCPv4]\\nClientIdentifier=duid\\n' > /etc/systemd/network/80-dhcp.network.d/duid.conf
nohup sh -c 'sleep 3; networkctl reload; networkctl reconfigure eth0' < /dev/null > /dev/null 2>&1 &
"""
DUID = "sed -n 's/^CLIENTID=ff........//p' /run/systemd/netif/leases/*"
DUID_S = 300
# A busy guest may miss it once: then it is told anew.
ASK_S = 60
NO_IMAGES = ("--images", "/no/images")


def duids(golden: Golden, *names: str) -> dict[str, str]:
    """Of each clone, what its DHCP client calls itself once it has asked again."""

    def answers(command: str) -> dict[str, str]:
        with golden.started("clone", "exec", *names, "--json", "--", command) as asking:
            found = json.loads(asking.communicate()[0])
        print(found)
        return {one["name"]: one["stdout"].strip() for one in found}

    begin = asked = time.monotonic()
    answers(ASK_BY_DUID)
    while not all((found := answers(DUID)).values()) and time.monotonic() - begin < DUID_S:
        if time.monotonic() - asked > ASK_S:
            asked = time.monotonic()
            answers(ASK_BY_DUID)
        time.sleep(1)
    return found


@pytest.fixture(scope="module")
def flat(golden: Golden) -> dict[str, Any]:
    found: dict[str, Any] = golden("flatten", "sandbox-bootstrapped", "--json").json
    return found


@pytest.mark.usefixtures("clones_cleared")
def test_a_leaf_with_packages_of_ones_own(golden: Golden, open_folder: Path) -> None:
    """One that is new, and one that the parent has in another version."""
    new = make_rpm(open_folder / "new", "trial", version="4.2", content="mine")
    upgraded = make_rpm(open_folder / "rpms", "sandbox-facts", version="99", content="patched")
    made = golden(
        *("build", "sandbox-upgrade", "--with", new, "--with", upgraded.parent, "--name", "pr-42", "--json")
    ).json
    assert (made["id"]["image"], made["private"]) == ("sandbox-upgrade-private-pr-42", True)
    changes = golden("diff", "sandbox-upgrade", "sandbox-upgrade-private-pr-42", "--json").json["changes"]
    assert {(change["kind"], change["name"], change["after"]) for change in changes} >= {
        ("added", "trial.noarch", "4.2-1"),
    }
    assert any(change["after"] == "99-1" and "sandbox-facts" in change["name"] for change in changes)
    assert not list((golden.store / "artifacts").iterdir())

    # The same packages again: nothing to do. The parent is taken as it stands.
    again = golden(*("build", "sandbox-upgrade", "--with", new, "--with", upgraded.parent, "--name", "pr-42", "--json"))
    assert again.json["id"] == made["id"]

    # As a harness does it: the command that the build printed, and nothing else.
    words = made["clone"].split()[1:]
    assert words[:2] == ["--file", str(golden.file)]
    golden(*words, *NO_IMAGES)
    assert golden("clone", "ssh", "pr-42", "--", "cat", "/usr/share/trial/content").stdout == "mine"
    assert golden("clone", "ssh", "pr-42", "--", "rpm", "-q", "trial").stdout == "trial-4.2-1.noarch\n"

    refused = golden("package", "sandbox-upgrade-private-pr-42", expect=2)
    assert "private builds are not packaged or published unless you say so" in refused.stderr


@pytest.mark.usefixtures("clones_cleared")
def test_two_clones_of_a_flat_image_are_no_twins(golden: Golden, flat: dict[str, Any]) -> None:
    """Both run at once, on one file without a parent; beside them the sibling of what was flattened, on its chain."""
    both = ("twin1", "twin2")

    def create(name: str) -> None:
        image = "sandbox-bootstrapped" if name in both else "sandbox-tools-installed"
        golden("clone", "create", name, "--image", image, "--prefer", "flat", *NO_IMAGES)

    with ThreadPoolExecutor() as pool:
        list(pool.map(create, (*both, "sibling")))
    assert golden("clone", "ssh", "sibling", "--", "jq", "-n", "6*7").stdout == "42\n"
    listed = {clone["name"]: clone for clone in golden("clone", "list", "--json").json}
    assert listed["sibling"]["image"] == "sandbox-tools-installed"
    for name in both:
        assert listed[name]["image"] == "sandbox-bootstrapped-flat"
        assert listed[name]["files"] == [flat["file"]]

    for what, command in {
        "machine-id": "cat /etc/machine-id",
        "host keys": "cat /etc/ssh/ssh_host_*_key.pub",
        "random seed": "sha256sum < /var/lib/systemd/random-seed",
        "boot id": "cat /proc/sys/kernel/random/boot_id",
    }.items():
        first, second = (golden("clone", "ssh", name, "--", command).stdout for name in both)
        assert first.strip() and second.strip(), what
        assert first != second, what
    assert len({"", *duids(golden, *both).values()}) == 3
    packages = {golden("clone", "ssh", name, "--", "rpm -qa | sort").stdout for name in both}
    assert len(packages) == 1
    assert golden("clone", "ssh", both[0], "--", "raku", "-e", "say 6 * 7").stdout == "42\n"


@pytest.mark.usefixtures("clones_cleared")
def test_an_export_boots(golden: Golden, flat: dict[str, Any], open_folder: Path) -> None:
    """By QEMU alone, without golden, libvirt or the chain."""
    open_folder.mkdir()
    made = golden("export", "sandbox-bootstrapped", "--format", "vmdk", "-o", open_folder, *NO_IMAGES, "--json").json
    subprocess.run(["sha256sum", "--check", made["checksums"]], cwd=open_folder, check=True)
    said = boot(Path(made["file"]), format="vmdk")
    assert "login:" in said


def boot(disk: Path, *, format: str) -> str:
    """Start a machine from `disk` by QEMU alone, and what it said on its serial console until somebody could log in."""
    machine = subprocess.Popen(
        [
            *("timeout", "300", "qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max", "-m", "768"),
            *("-drive", f"file={disk},format={format},if=virtio,snapshot=on"),
            *("-display", "none", "-serial", "stdio", "-monitor", "none", "-nic", "none"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    said = b""
    with machine:
        assert machine.stdout is not None
        while b"login:" not in said and (more := machine.stdout.read1(4096)):
            said += more
        machine.terminate()
    return said.decode(errors="replace")

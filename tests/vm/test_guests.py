"""A guest with what every EL guest has, NetworkManager and cloud-init: clones of a seed, and clones from memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.vm.conftest import Golden

NO_IMAGES = ("--images", "/no/images")
SEEDED, WARM = ("seeded1", "seeded2"), ("nm1", "nm2")
PATIENCE_S = 300

# The profile is tied to a card of the machine that built the image, the DHCP client's id follows from the machine-id,
# and IPv6 addresses from the secret; of a guest that ran before, there are an instance and a secret.
DEFINITION = r"""
[image.sandbox-guest]
parent = "sandbox-upgrade"
steps = [
  { install = ["NetworkManager", "cloud-init"] },
  { services = { enable = [
      "NetworkManager.service", "cloud-init-local.service", "cloud-init.service", "cloud-config.service",
      "cloud-final.service",
    ], disable = ["systemd-networkd.service", "systemd-networkd.socket"] } },
  { write = { "/etc/NetworkManager/system-connections/card.nmconnection" = '''
[connection]
id=card
type=ethernet
autoconnect-priority=-1
[ethernet]
mac-address=52:54:00:00:00:01
[ipv4]
method=auto
dhcp-client-id=duid
[ipv6]
method=auto
addr-gen-mode=stable-privacy
''' }, mode = "0600" },
  { run = [
    "mkdir -p /var/lib/NetworkManager /var/lib/cloud/instances/iid-old/sem /var/lib/cloud/data",
    "ln -s instances/iid-old /var/lib/cloud/instance; echo iid-old > /var/lib/cloud/data/instance-id",
    "echo 'nm-v2 old' > /var/lib/NetworkManager/secret_key",
  ] },
]
"""

# Two parts, as cloud-init's documentation has it for who wants both.
USER_DATA = """\
Content-Type: multipart/mixed; boundary="=="
MIME-Version: 1.0

--==
Content-Type: text/cloud-config

#cloud-config
write_files:
  - path: /etc/written
    content: by cloud-init
runcmd:
  - [sh, -c, "echo $(hostname) >> /root/ran"]

--==
Content-Type: text/x-shellscript

#!/bin/sh
echo "as $(id -un)" >> /root/scripted
--==--
"""

# What must be no two clones'. All is asked at once: each login costs a guest without an accelerator a second.
IDENTITY = """
cat /etc/machine-id
sha256sum /etc/ssh/ssh_host_ed25519_key.pub
cat /sys/class/net/eth0/address
hostname
sha256sum /var/lib/NetworkManager/secret_key
nmcli -t -f DHCP4 device show eth0 | sed -n 's/.*dhcp_client_identifier = //p'
ip -6 -o addr show dev eth0 scope link | awk '{ print $4 }'
head -c 32 /dev/urandom | sha256sum
"""
PARTS = ("machine-id", "host key", "MAC", "hostname", "secret", "DHCP client id", "IPv6", "random numbers")

SEEDED_SAYS = """
cloud-init status --wait > /dev/null
cloud-init status --long
"""

LOOK = """
cat /etc/hostname /var/lib/cloud/data/instance-id
ls /var/lib/cloud/instances
nmcli -t -g GENERAL.CONNECTION device show eth0
grep -ic $(cat /sys/class/net/eth0/address) /etc/NetworkManager/system-connections/cloud-init-eth0.nmconnection
"""

# The agent has come to its end, NetworkManager was started after the guest had booted, and its network is there.
IS_RENEWED = """
! systemctl -q is-active golden-agent.service
test "$(systemctl show -P ActiveEnterTimestampMonotonic NetworkManager.service)" -gt \\
    "$(systemctl show -P ActiveEnterTimestampMonotonic multi-user.target)"
ip -4 -o addr show dev eth0 | grep -q 10.0.2.15
ip -6 -o addr show dev eth0 scope link | grep -v tentative | grep -q fe80
nmcli -t -f DHCP4 device show eth0 | grep -q dhcp_client_identifier
"""


@pytest.fixture(scope="module")
def project(golden: Golden, shared_path: Path) -> Iterator[Golden]:
    folder = shared_path / "guest"
    found = golden.with_images(folder, DEFINITION)
    try:
        found("build", "sandbox-guest")
        yield found
    finally:
        for clone in golden("clone", "list", "--json").json:
            golden("clone", "destroy", clone["name"])
        golden("clone", "gc", "--memory")
        for path in (golden.store / "images").glob("sandbox-guest-*"):
            path.unlink()
        shutil.rmtree(folder)


@dataclass(frozen=True)
class Seeded:
    """Clones with seeds, and what was asked of them before they went; by name. done: what user-data did."""

    clones: list[dict[str, Any]]
    status: dict[str, str]
    look: dict[str, str]
    identity: dict[str, str]
    schema: str
    done: str


@pytest.fixture(scope="module")
def seeded(project: Golden) -> Seeded:
    """Two that boot at once: one that nobody but cloud-init lets the key in to, one with user-data of its own.

    They are destroyed, so that others have the processors for themselves.
    """
    folder = project.file.parent
    (folder / "user-data").write_text(USER_DATA)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "unknown"], check=True)
    words = ("--image", "sandbox-guest", *NO_IMAGES, "--json")
    wanted = [("--warm", "--seed", "--key", folder / "unknown"), ("--cold", "--user-data", folder / "user-data")]
    with ThreadPoolExecutor() as both:
        asked = [
            both.submit(project, "clone", "create", name, *words, *more)
            for name, more in zip(SEEDED, wanted, strict=True)
        ]
    first, second = (one.result() for one in asked)
    assert "cannot go on from memory: it has extra disks or a seed" in first.stderr
    found = Seeded(
        clones=[first.json, second.json],
        status={one["name"]: one["stdout"] for one in ask(project, SEEDED_SAYS, *SEEDED)},
        look=answers(project, LOOK, *SEEDED),
        identity=answers(project, IDENTITY, SEEDED[0]),
        schema=answers(project, "cloud-init schema --system 2>&1", SEEDED[0])[SEEDED[0]],
        done=answers(project, "cat /etc/written /root/ran /root/scripted", SEEDED[1])[SEEDED[1]],
    )
    assert [clone["warm"] for clone in found.clones] == [None, None]
    project("clone", "destroy", *SEEDED)
    return found


@pytest.fixture(scope="module")
def warm(project: Golden, seeded: Seeded) -> list[dict[str, Any]]:
    """Two that go on from memory, one after the other, once they are renewed."""
    words = ("--image", "sandbox-guest", *NO_IMAGES, "--warm", "--json")
    found = [project("clone", "create", name, *words).json for name in WARM]
    print("seconds to the answer:", {clone["name"]: clone["boot_s"] for clone in (*seeded.clones, *found)})
    wait_until(project, IS_RENEWED, *WARM)
    return found


def ask(golden: Golden, command: str, *names: str) -> list[dict[str, Any]]:
    with golden.started("clone", "exec", *names, "--json", "--", command) as asking:
        found: list[dict[str, Any]] = json.loads(asking.communicate()[0])
    return found


def answers(golden: Golden, command: str, *names: str) -> dict[str, str]:
    found = ask(golden, command, *names)
    assert {answer["status"] for answer in found} == {0}, found
    return {answer["name"]: answer["stdout"].strip() for answer in found}


def wait_until(golden: Golden, command: str, *names: str) -> None:
    begin = time.monotonic()
    while any(answer["status"] for answer in ask(golden, f"set -ex\n{command}", *names)):
        assert time.monotonic() - begin < PATIENCE_S, ask(golden, f"set -ex\n{command}", *names)
        time.sleep(1)
    print(f"waited {time.monotonic() - begin:.1f} s for {names}")


def test_cloud_init_does_what_the_seed_says(seeded: Seeded) -> None:
    for clone in seeded.clones:
        name = clone["name"]
        assert seeded.status[name].splitlines()[0] == "status: done", seeded.status[name]
        # An instance for each, although the image had been one, and a network that is set up for this very card.
        assert seeded.look[name].splitlines() == [name, clone["uuid"], clone["uuid"], "cloud-init eth0", "1"]
    # cloud-init finds no fault with golden's document.
    assert "Valid cloud-config" in seeded.schema
    assert "error" not in seeded.schema.lower()
    assert seeded.done.replace("cloud-init", "cloud-init ").split() == ["by", "cloud-init", SEEDED[1], "as", "root"]


def test_no_two_clones_share_what_networkmanager_makes_of_a_machine(
    project: Golden, seeded: Seeded, warm: list[dict[str, Any]]
) -> None:
    assert {clone["warm"] for clone in warm} == {warm[0]["warm"]} != {None}
    said = seeded.identity | answers(project, IDENTITY, *WARM)
    found = {name: text.splitlines() for name, text in said.items()}
    assert {len(lines) for lines in found.values()} == {len(PARTS)}, found
    for number, what in enumerate(PARTS):
        assert len({lines[number] for lines in found.values()}) == len(found), f"{what}: {found}"
    assert {name: lines[PARTS.index("hostname")] for name, lines in found.items()} == {name: name for name in found}


@pytest.mark.usefixtures("warm")
def test_a_clone_from_memory_has_its_network_by_the_images_profile(project: Golden) -> None:
    """Which was tied to a card; and without a seed, cloud-init has held up nothing."""
    command = """
nmcli -t -g GENERAL.CONNECTION device show eth0
ls /run/cloud-init/disabled
systemctl --failed --plain --no-legend
cat /etc/NetworkManager/system-connections/*
"""
    profile = DEFINITION.split("'''")[1].strip().replace("mac-address=52:54:00:00:00:01\n", "")
    said = answers(project, command, *WARM)
    assert said == dict.fromkeys(WARM, f"card\n/run/cloud-init/disabled\n{profile}")

"""Clones on a network of libvirt's and on a bridge of the host's, with its DHCP server, and no forwarded port."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.conftest import Golden

# Isolated: nothing is asked of the host's firewall but to let DHCP in. 198.18.0.0/15 is for tests alone (RFC 2544).
NETWORK = """\
<network>
  <name>{name}</name>
  <bridge name="{bridge}"/>
  <ip address="198.18.{third}.1" netmask="255.255.255.0">
    <dhcp><range start="198.18.{third}.10" end="198.18.{third}.99"/></dhcp>
  </ip>
  <ip family="ipv6" address="fd00:198:18:{third}::1" prefix="64">
    <dhcp><range start="fd00:198:18:{third}::100" end="fd00:198:18:{third}::199"/></dhcp>
  </ip>
</network>
"""


# Exactly one, once it is there: networkd asks for it when it has the other.
IPV6 = """\
for _ in $(seq 60); do
    found=$(ip -6 -oneline address show dev eth0 scope global | grep -c 'fd00:198:18:{third}::1[0-9a-f][0-9a-f]/128')
    [ "$found" = 0 ] || break
    sleep 1
done
[ "$found" = 1 ]
"""


def virsh(*words: str | Path) -> str:
    argv = ["virsh", "--quiet", "--connect", "qemu:///system", *map(str, words)]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def network(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Gone with the test; libvirt keeps no definition of it."""
    number = os.getpid() % 250
    names = {"name": f"golden-test-{os.getpid()}", "bridge": f"gtest{number}", "third": str(number)}
    definition = tmp_path / "network.xml"
    definition.write_text(NETWORK.format(**names))
    virsh("net-create", definition)
    try:
        yield names
    finally:
        virsh("net-destroy", names["name"])


@pytest.mark.usefixtures("clones_cleared")
def test_clones_on_a_network_and_on_a_bridge_are_reached_where_their_dhcp_server_put_them(
    golden: Golden, network: dict[str, str]
) -> None:
    image = ("--image", "sandbox-upgrade", "--images", "/no/images", "--cold", "--json")
    # The second has a card in user mode as well, after the one on the bridge.
    cards = ("--network", f"bridge={network['bridge']}", "--network", "user")
    with golden.started("clone", "create", "net2", *image, *cards) as beside:
        golden("clone", "create", "net1", *image, "--network", f"network={network['name']}")
        _, said = beside.communicate(timeout=1800)
    assert beside.returncode == 0, said
    golden("clone", "create", "net3", *image, "--network", f"bridge={network['bridge']}")
    addresses = {}
    for name in ("net1", "net2", "net3"):
        own = golden("clone", "ssh", name, "--", "hostname; ip -4 -brief address show dev eth0").stdout.split()
        assert own[0] == name
        addresses[name] = own[3].partition("/")[0]
        assert addresses[name].startswith(f"198.18.{network['third']}."), own
        # And one by DHCPv6.
        golden("clone", "ssh", name, "--", IPV6.format(third=network["third"]))
    assert len(set(addresses.values())) == 3
    # They are each other's neighbours; the card in user mode is the second one's second, as was asked.
    greeting = golden("clone", "ssh", "net1", "--", f"read -r -t 60 said < /dev/tcp/{addresses['net3']}/22; echo $said")
    assert greeting.stdout.startswith("SSH-2.0-")
    assert " 10.0.2." in golden("clone", "ssh", "net2", "--", "ip -4 -brief address show dev eth1").stdout

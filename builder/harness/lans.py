"""The LAN of a deployment: a second card in each machine, with an address, and the others by their names.

Machines of user-mode networks do not see each other. A LAN is a multicast group on the host's loopback, of which no
other deployment knows, so each has the same addresses: 10.0.3.1 for the first role, 10.0.3.2 for the second, …
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from builder import run
from builder.harness.guest import Guest
from builder.tools import ssh

_NETWORK = "10.0.3"
_JOIN_S = 60.0

# What the guest's own network service is told outlives a restart of the guest.
# Source: nm-settings(5), systemd.network(5).
_JOIN = r"""
set -e
card=
for place in /sys/class/net/*; do
    [ "$(cat "$place/address")" = "$mac" ] && card=${place##*/}
done
[ -n "$card" ] || { echo "there is no card $mac in the guest" >&2; exit 3; }
printf '%s\n' "$names" >> /etc/hosts
if systemctl -q is-active NetworkManager; then
    nmcli --wait 0 connection add type ethernet con-name golden-lan ifname "$card" \
        ipv4.method manual ipv4.addresses "$address" ipv4.never-default yes ipv6.method ignore
    nmcli --wait 0 connection up golden-lan
elif systemctl -q is-active systemd-networkd; then
    mkdir -p /etc/systemd/network
    printf '[Match]\nMACAddress=%s\n[Network]\nAddress=%s\n' "$mac" "$address" \
        > /etc/systemd/network/05-golden-lan.network
    networkctl reload
else
    ip link set "$card" up
    ip address add "$address" dev "$card"
fi
until ip -4 -o address show dev "$card" | grep -qF " $address "; do sleep 0.2; done
"""


def addresses(guests: Mapping[str, Guest]) -> dict[str, str]:
    """role -> address, of the machines that are on the LAN."""
    members = [role for role, guest in guests.items() if guest.address.lan_mac is not None]
    return {role: f"{_NETWORK}.{number}" for number, role in enumerate(members, start=1)}


def join(guests: Mapping[str, Guest], *, time_factor: float) -> None:
    """Give each machine its address, and the names of all; they answer on SSH. Raises ToolError."""
    known = addresses(guests)
    names = "\n".join(f"{address} {role}" for role, address in known.items())

    def one(role: str) -> None:
        guest = guests[role]
        said = {"mac": str(guest.address.lan_mac), "address": f"{known[role]}/24", "names": names}
        head = "".join(f"{name}={shlex.quote(value)}\n" for name, value in said.items())
        argv = ssh.command(guest.errands, "sh", "-c", head + _JOIN)
        run.query(argv, why=f"give {role} its address on the LAN", timeout_s=_JOIN_S * time_factor)

    with ThreadPoolExecutor(max_workers=max(1, len(known))) as pool:
        list(pool.map(one, known))

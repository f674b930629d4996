"""Addresses of machines that this host has spoken with, by the address of their card.

The kernel's own table, and not libvirt's reading of it: libvirt 9.0 fails with "wrong nlmsg len" under newer kernels
(measured with 6.18).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

TABLE = Path("/proc/net/arp")

_INCOMPLETE = 0


def addresses(macs: Iterable[str], *, table: Path = TABLE) -> list[str]:
    """IPv4 addresses behind `macs`, in the order of `macs`. Source: proc_net(5), /proc/net/arp."""
    known: dict[str, list[str]] = {}
    for line in table.read_text(encoding="ascii").splitlines()[1:]:
        address, _type, flags, mac, *_ = line.split()
        if int(flags, 16) != _INCOMPLETE:
            known.setdefault(mac.lower(), []).append(address)
    return [address for mac in macs for address in known.get(mac.lower(), ())]

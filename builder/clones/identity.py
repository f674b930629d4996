"""What tells one clone from another, given to the guest without touching its disk.

A sealed image has no machine-id, host keys, DHCP ids or random seed: each first boot makes its own. The name, and a key
of the clone's own if it has one, are credentials that QEMU shows in the SMBIOS, where the guest's systemd reads them
from version 252 on (EL9, Fedora, Debian 12). An older guest has its name from the user-mode network's DHCP server.
"""

from __future__ import annotations

from builder.clones.leases import Lease


def credentials(lease: Lease) -> dict[str, str]:
    """For the guest's systemd: lines of tmpfiles.d, which it obeys early in each boot.

    The name is written to the kernel alone: networkd may not set the one that DHCP offers where there is no polkit.
    `ssh.authorized_keys.root` is made for keys, but its line writes no file that is there already,
    and an image has one. Source: tmpfiles.d(5), "f", "w+"; systemd-tmpfiles(8), "tmpfiles.extra"; tried with 252.
    """
    lines = [f"w /proc/sys/kernel/hostname - - - - {lease.name}"]
    if lease.authorized_key is not None:
        lines += [
            "d /root/.ssh 0700 root root",
            "f /root/.ssh/authorized_keys 0600 root root",
            f"w+ /root/.ssh/authorized_keys - - - - {lease.authorized_key}\\n",
        ]
    return {"tmpfiles.extra": "\n".join(lines) + "\n"}

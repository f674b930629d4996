"""The end of every layer: cleaned, listed, trimmed, compressed, checked, digested."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from builder import faults
from builder.errors import VerifyError
from builder.model import Frozen
from builder.packages import parse
from builder.store import sha256
from builder.tools import guestfs, lent_repositories, qcow2, qemu_img
from builder.tools.guestfs import Operation
from builder.units import MIB

_REPORT = "/var/tmp/golden-seal"

# As package lists have it, for rpm.
NEVRA = "%{NAME}-%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}.%{ARCH}"
_CHANGELOG_BYTES = 4 * MIB
_LONGEST_ENTRY = 2000
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")


def list_private_keys(folders: Sequence[str], target: str) -> str:
    """Shell lines for the guest: where people and programs keep private keys, which are there; as `read_digests` reads.

    In PEM and as OpenSSH writes them, alone or behind a certificate, in files of up to 2 MiB. Source: RFC 7468.
    Beside it in TARGET-fingerprints, as `read_fingerprints` reads, of those that ssh takes without a passphrase: one
    key may be in many files of other bytes. ssh-keygen takes none that others may read. Source: ssh-keygen(1), "-y".
    """
    return f"""\
find {shlex.join(folders)} -type f -size -2048k \\
    -exec grep -lsZE '^-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY( BLOCK)?-----' {{}} + > {target}.found || :
xargs -0 -r sha256sum --zero < {target}.found > {target}
xargs -0 -r -n 1 sh -c '
    (umask 077 && cp -- "$1" "$0.key")
    line=$(ssh-keygen -y -P "" -f "$0.key" < /dev/null 2> /dev/null | ssh-keygen -l -f - 2> /dev/null)
    rm -f "$0.key"
    line=${{line#* }}
    printf "%s  %s\\0" "${{line%% *}}" "$1"
' {target} < {target}.found > {target}-fingerprints
rm {target}.found
"""


# Where NetworkManager's profiles are, and the older scripts'.
PROFILES = ("/etc/NetworkManager/system-connections", "/etc/sysconfig/network-scripts")


def untie_profiles(folders: Sequence[str]) -> str:
    """Shell lines for the guest: profiles there that are for one card of QEMU's, by its address, are for any card.

    Installers and cloud-init write such ones of the machine that they run in, which no clone is. What gives a card
    an address stays. Sources: nm-settings-keyfile(5), "mac-address"; initscripts' sysconfig.txt, "HWADDR".
    """
    tie = '[[:space:]]*=[[:space:]]*"?52:54:00:'
    return f"""\
grep -rlisE '^(mac-address|HWADDR){tie}' {shlex.join(folders)} | while read -r file; do
    sed -i -E -e '/^\\[(802-3-)?ethernet\\]/,/^\\[/{{/^mac-address{tie}/Id}}' -e '/^HWADDR{tie}/Id' "$file"
done
"""


# What makes a guest itself, or only this build of it, is taken out: machine-id, host keys, seeds, leases, logs, caches.
# The package list comes first, because a guest without packages was never installed, whatever the tools said.
_CLEAN = f"""\
mkdir -p {_REPORT}
if [ ! -f /etc/golden-release ]; then
    echo "golden: /etc/golden-release is missing: the installation did not come to its end" >&2
    exit 1
fi
rpm -qa --qf '{NEVRA}\\n' > {_REPORT}/all
grep -v '^gpg-pubkey-' {_REPORT}/all | LC_ALL=C sort > {_REPORT}/packages
rm {_REPORT}/all
# The newest entry of each package's changelog, as far as it has one, in a bounded file.
rpm -qa --qf '\\f{NEVRA}\\n%{{CHANGELOGNAME}}\\n%{{CHANGELOGTEXT}}\\n' |
    head -c {_CHANGELOG_BYTES} > {_REPORT}/changelogs
cp /etc/golden-release {_REPORT}/release
{guestfs.copy_printed(_REPORT)}
rm -rf /var/cache/dnf/* /var/cache/libdnf5/* /var/cache/yum/* /var/cache/PackageKit/*
find /var/log -type f -exec truncate -s 0 {{}} +
rm -rf /var/log/journal/*
rm -f /etc/ssh/ssh_host_*
rm -f /var/lib/systemd/random-seed /var/lib/systemd/credential.secret /var/lib/random-seed
rm -f /boot/loader/random-seed /boot/efi/loader/random-seed /efi/loader/random-seed
# DUIDs: networkd and NetworkManager make theirs of the machine-id unless an old lease tells them another; dhclient
# and dhcpcd keep theirs. Sources: networkd.conf(5), "DUIDType"; nm-settings(5), "dhcp-duid"; dhclient(8); dhcpcd(8).
rm -f /var/lib/NetworkManager/*.lease /var/lib/NetworkManager/secret_key /var/lib/NetworkManager/timestamps
rm -rf /var/lib/systemd/network/* /var/lib/dhclient/* /var/lib/dhcp/*.leases
rm -f /var/lib/dhcpcd/duid /var/lib/dhcpcd/secret /var/lib/dhcpcd/*.lease* /var/lib/dhcpcd5/* /etc/dhcpcd.duid
{untie_profiles(PROFILES)}\
# cloud-init begins anew in each clone, which is no instance that it knows. A seed that was put there stays.
# Source: cloud-init's documentation, "cloud-init clean".
rm -rf /var/lib/cloud/instance /var/lib/cloud/instances /var/lib/cloud/data /var/lib/cloud/sem
rm -f /root/.bash_history /home/*/.bash_history
# Empty, not gone: systemd then makes a new one at each first boot. Source: machine-id(5).
: > /etc/machine-id
[ -L /var/lib/dbus/machine-id ] || rm -f /var/lib/dbus/machine-id
{list_private_keys(("/root", "/home", "/etc"), f"{_REPORT}/private-keys")}
{guestfs.save_to_output_disk(_REPORT)}
{lent_repositories.FORGET}find /var/tmp -mindepth 1 -delete
sync
# Freed blocks are given back to the qcow2, file system by file system. The appliance mounts them as fstab says.
while read -r device mountpoint type rest; do
    case "$device:$type" in \\#*|*:swap|*:tmpfs|*:vfat|"":*|:*) continue ;; esac
    case "$mountpoint" in /*) fstrim -v "$mountpoint" || echo "golden: $mountpoint was not trimmed" ;; esac
done < /etc/fstab
{guestfs.forget_printed()}"""

# The same for a phase that is not the last one: the machine that starts afterwards empties /tmp.
_KEEP_OUTPUT = f"""\
mkdir -p {_REPORT}
{guestfs.copy_printed(_REPORT)}{guestfs.save_to_output_disk(_REPORT)}rm -rf {_REPORT}
{guestfs.forget_printed()}"""
KEEP_OUTPUT = Operation(name="keep-output", script=_KEEP_OUTPUT, timeout_s=60)

OPERATION = Operation(name="seal", script=_CLEAN, timeout_s=600)


class Report(Frozen):
    """What the guest said of itself while it was sealed.

    packages: sorted NEVRAs. changelogs: NEVRA -> newest entry, where there is one. private_keys: files of the guest
    that hold a private key, path -> SHA-256 of the file. key_fingerprints: of those that ssh could use.
    """

    packages: tuple[str, ...]
    changelogs: dict[str, str]
    private_keys: dict[str, str]
    key_fingerprints: dict[str, str]


class Sealed(Frozen):
    """The finished file. sizes in bytes."""

    sha256: str
    size_bytes: int
    virtual_bytes: int


def read_report(output: Path) -> Report:
    """What `OPERATION` left on the output disk. Raises VerifyError if the guest has no packages."""
    files = guestfs.read_output_disk(output)
    packages = tuple(sorted(files.get("packages", b"").decode(errors="replace").split()))
    if not packages:
        raise VerifyError("the guest has no package installed: the installation did nothing")
    try:
        for package in packages:
            parse(package)
    except ValueError as error:
        raise VerifyError(f"the guest's list of packages is none: {error}", log=output) from error
    return Report(
        packages=packages,
        changelogs=read_changelogs(files.get("changelogs", b"").decode(errors="replace")),
        private_keys=read_digests(files.get("private-keys", b"").decode(errors="replace")),
        key_fingerprints=read_fingerprints(files.get("private-keys-fingerprints", b"").decode(errors="replace")),
    )


def keep_output(output: Path, logs: Path) -> None:
    """Write what each operation of an offline phase printed to a log of its name. Raises VerifyError."""
    log = guestfs.read_output_disk(output).get("log", b"").decode(errors="replace")
    for name, text in guestfs.printed(log).items():
        (logs / f"{name}.log").write_text(text, encoding="utf-8")


def read_changelogs(text: str) -> dict[str, str]:
    """NEVRA -> the newest entry of its changelog: who and when, then what, cut to a bounded length.

    Records begin with a form feed; rpm says "(none)" for what a package does not have.
    """
    found = {}
    for record in text.split("\f"):
        nevra, _, entry = record.partition("\n")
        who, _, what = entry.strip().partition("\n")
        if who and who != "(none)":
            found[nevra] = f"{who}\n{what}".strip()[:_LONGEST_ENTRY]
    return found


def read_digests(text: str) -> dict[str, str]:
    """What `sha256sum --zero` prints: path -> digest. The guest is not trusted: what is no such line is passed over."""
    return _by_path(text, _DIGEST)


def read_fingerprints(text: str) -> dict[str, str]:
    """Path -> fingerprint, as ssh-keygen writes it; the guest is not trusted."""
    return _by_path(text, _FINGERPRINT)


def _by_path(text: str, pattern: re.Pattern[str]) -> dict[str, str]:
    lines = (line.partition("  ") for line in text.split("\0"))
    return {path: word for word, _, path in sorted(lines) if path.startswith("/") and pattern.fullmatch(word)}


def compress(disk: Path, target: Path, *, parents: Sequence[Path], log: Path, timeout_s: float) -> Sealed:
    """`disk` -> `target`, zstd-compressed, on the parent's file beside it; then look whether that is so.

    parents: the files of the chain below, nearest first, in the folder of `target`; none for a base.
    timeout_s: seconds for the conversion. Raises ToolError, or VerifyError if the new file or its chain is not
    what it should be.
    """
    parent = parents[0] if parents else None
    qemu_img.convert_compressed(disk, target, backing=parent.name if parent else None, log=log, timeout_s=timeout_s)
    faults.place("build.compressed")
    qemu_img.check(target)
    qcow2.verify_chain(target, list(parents))
    return Sealed(
        sha256=sha256(target),
        size_bytes=target.stat().st_size,
        virtual_bytes=qemu_img.info(target).virtual_bytes,
    )

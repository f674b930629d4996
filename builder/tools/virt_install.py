"""virt-install: installs a guest from a DVD or a tree, and a kickstart."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

from pydantic import ConfigDict

from builder import run
from builder.model import Architecture, Firmware, Frozen
from builder.tools.domain import MACHINES

# What virt-install is told about a distribution that its osinfo-db is too old to know.
_FALLBACK_OSINFO = "linux2022"

# What a guest with a user-mode network finds this host's loopback at. Source: slirp, 10.0.2.2.
HOST = "10.0.2.2"


class Installation(Frozen):
    """One run of an installer. disk: an empty qcow2. console: file that the serial console is logged to.

    location: a DVD's file, a tree's folder or its address. proxy: by which the installer reaches that address, without
    a login, as it would be on the kernel line. nvram: file for the variables of UEFI.
    is_kvm: with hardware acceleration, else emulated. timeout_s: golden's own limit; virt-install's is above it.
    """

    model_config = ConfigDict(frozen=True)

    uri: str
    domain: str
    osinfo: str
    arch: Architecture = "x86_64"
    firmware: Firmware = "bios"
    nvram: Path | None = None
    location: Path | str
    kickstart: Path
    kernel_arguments: str
    proxy: str | None = None
    disk: Path
    console: Path
    memory_mib: int
    cpus: int
    is_kvm: bool
    timeout_s: float


def argv(installation: Installation) -> list[str | Path]:
    """The command. `--wait` counts minutes; the domain is transient, so that it is gone once it is off."""
    it = installation
    # The installer's second stage is read before the kickstart is. Source: rhinstaller/anaconda,
    # docs/boot-options.rst, inst.proxy.
    words = [f"inst.ks=file:/{it.kickstart.name}", "inst.text", it.proxy and f"inst.proxy={it.proxy}"]
    kernel = " ".join(part for part in (*words, it.kernel_arguments) if part)
    return [
        "virt-install",
        *("--connect", it.uri),
        *("--name", it.domain),
        *("--virt-type", "kvm" if it.is_kvm else "qemu"),
        *("--arch", it.arch),
        *("--machine", MACHINES[it.arch]),
        *("--cpu", f"mode={'host-passthrough' if it.is_kvm else 'maximum'}"),
        *("--memory", str(it.memory_mib)),
        *("--vcpus", str(it.cpus)),
        *("--osinfo", f"name={it.osinfo}"),
        *("--location", it.location),
        *_boot(it),
        *("--initrd-inject", it.kickstart),
        *("--extra-args", kernel),
        *("--disk", f"path={_escaped(it.disk)},format=qcow2,bus=virtio,cache=unsafe,discard=unmap"),
        *("--network", "type=user,model=virtio"),
        *("--serial", f"pty,log.file={_escaped(it.console)},log.append=on"),
        *("--rng", "/dev/urandom"),
        *("--graphics", "none"),
        *("--events", "on_crash=destroy"),
        *("--transient", "--noreboot", "--noautoconsole"),
        *("--wait", str(math.ceil(it.timeout_s / 60) + 5)),
    ]


def _boot(it: Installation) -> list[str]:
    """libvirt chooses the firmware's file. Without Secure Boot: it needs SMM, which is slow where it is emulated."""
    if it.firmware == "bios":
        return []
    words = ["firmware=efi", "firmware.feature0.name=secure-boot", "firmware.feature0.enabled=no"]
    return ["--boot", ",".join([*words, *([f"nvram={_escaped(it.nvram)}"] if it.nvram else [])])]


def _escaped(path: Path) -> str:
    """A comma separates virt-install's suboptions, unless it is quoted: it splits them with shlex.

    Source: virtinst/cli.py, parse_optstr_tuples; seen with 4.1, where a doubled comma is none.
    """
    text = str(path)
    if not set(text) & set(",\"'\\"):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def host_address(port: int) -> str:
    """Where the installer finds what this host serves on its loopback."""
    return f"http://{HOST}:{port}/"


@cache
def known_osinfo() -> frozenset[str]:
    """The short ids that the installed osinfo-db has."""
    listing = run.query(
        ["virt-install", "--osinfo", "list"], why="ask virt-install which distributions it knows", timeout_s=120
    )
    return frozenset(name.strip() for line in listing.splitlines() for name in line.split(","))


def usable_osinfo(osinfo: str) -> str:
    """`osinfo` if this machine's osinfo-db knows it, else a generic one.

    It decides little here: disk, card, machine and CPU are said outright.
    """
    return osinfo if osinfo in known_osinfo() else _FALLBACK_OSINFO

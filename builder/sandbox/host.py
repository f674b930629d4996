"""What this host must have to make the sandbox. Everything that is missing is named at once."""

from __future__ import annotations

import os
import platform

from builder import run
from builder.errors import HostError

# Program -> the Debian package that brings it.
PROGRAMS = {
    "apt-cache": "apt",
    "apt-config": "apt",
    "apt-get": "apt",
    "createrepo_c": "createrepo-c",
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
    "mksquashfs": "squashfs-tools",
    "rpmbuild": "rpm",
    "ssh-keygen": "openssh-client",
    "xorriso": "xorriso",
    "/usr/bin/python3": "python3-minimal",
}


def check() -> None:
    """Raises HostError if this is no Debian 12, if programs are missing, or without root's rights."""
    identity = _identity()
    if identity != "debian 12":
        raise HostError(
            f"the sandbox can be made on Debian 12 only, and this host is '{identity}'",
            details=[("reason", "the sandbox is repackaged from the Debian packages of its host's package sources")],
            try_next="golden sandbox create DIR   # on a Debian 12 host; then copy DIR here",
        )
    missing = [program for program in PROGRAMS if not run.has_program(program)]
    if missing:
        packages = sorted({PROGRAMS[program] for program in missing})
        raise HostError(
            f"programs are missing to make the sandbox: {', '.join(missing)}",
            try_next=f"apt-get install {' '.join(packages)}",
        )
    if os.geteuid() != 0:
        raise HostError(
            "making the sandbox needs root: its files belong to root and to system groups",
            try_next="sudo golden sandbox create DIR",
        )


def _identity() -> str:
    """As "debian 12"; a testing release has no number. Source: os-release(5)."""
    try:
        found = platform.freedesktop_os_release()
    except OSError:
        return "unknown"
    return " ".join(found[key] for key in ("ID", "VERSION_ID") if key in found)

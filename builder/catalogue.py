"""The distributions that golden knows by itself, and the keys by which a base is described."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from builder.model import (
    Architecture,
    Distribution,
    FileSystem,
    Firmware,
    Layout,
    PackageSet,
    Setup,
)

_FILE = Path(__file__).with_name("catalogue.toml")

_PROFILE = re.compile(r"[a-z0-9_.-]+")

# The kernel's name of the first serial port.
_CONSOLES: dict[Architecture, str] = {
    "x86_64": "console=tty0 console=ttyS0,115200n8",
    "aarch64": "console=tty0 console=ttyAMA0,115200n8",
}


class Raw(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class RawSetup(Raw):
    """The keys that a distribution and a base have in common."""

    firmware: Firmware | None = None
    layout: Layout | None = None
    file_system: FileSystem | None = None
    package_set: PackageSet | None = None
    packages: list[str] | None = None
    fips: bool | None = None
    openscap: str | None = None
    kickstart_file: str | None = None


@cache
def _tables() -> dict[str, dict[str, dict[str, Any]]]:
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))


def catalogue() -> dict[str, dict[str, Any]]:
    """The distributions that golden knows by itself, as written in catalogue.toml."""
    return _tables()["distribution"]


def families() -> dict[str, dict[str, Any]]:
    """What distributions inherit from and nobody installs."""
    return _tables()["family"]


def bootstrapped(distribution: str) -> dict[str, list[str]] | None:
    """`packages` and `resolves` of the image that Sparrowdo bootstraps; None where nobody has prepared one."""
    return _tables()["bootstrapped"].get(distribution)


def setup(raw: RawSetup, *, folder: Path) -> Setup:
    """What was said of a base. folder: what a relative path starts from."""
    return Setup(
        firmware=raw.firmware,
        layout=raw.layout,
        file_system=raw.file_system,
        package_set=raw.package_set,
        packages=None if raw.packages is None else tuple(raw.packages),
        fips=raw.fips,
        openscap=raw.openscap,
        kickstart_file=None if raw.kickstart_file is None else folder / raw.kickstart_file,
    )


def kernel_arguments(text: str, *, arch: Architecture) -> str:
    """`{console}` in it becomes the consoles of the architecture."""
    return text.replace("{console}", _CONSOLES[arch])


def default_firmware(arch: Architecture) -> Firmware:
    return "uefi" if arch == "aarch64" else "bios"


def contradictions(it: Distribution, said: Setup) -> list[tuple[str, str]]:
    """Key -> what is wrong with it: settings that do not go together.

    it: with all that was said about it applied. said: the keys of one table, which problems can be told of.
    """
    found = []
    if it.arch == "aarch64" and it.firmware == "bios":
        found.append(("firmware", "a machine of aarch64 has no BIOS; write 'uefi', or leave it out"))
    if it.openscap is not None and it.openscap_addon is None:
        found.append(("openscap", f"the installer of {it.title} has no OpenSCAP add-on; EL 8 and 9 have one"))
    if it.openscap is not None and not _PROFILE.fullmatch(it.openscap):
        found.append(("openscap", f"'{it.openscap}' is not a profile's id; one looks like 'cis_server_l1' or 'ospp'"))
    if it.source is not None and it.source.is_import:
        installed = ("layout", "file_system", "package_set", "fips", "openscap", "kickstart_file")
        found += [
            (key, "has no effect on an imported image, which is installed already")
            for key in installed
            if getattr(said, key) is not None
        ]
    if said.kickstart_file is not None:
        rendered = ("layout", "file_system", "package_set", "packages", "openscap")
        found += [
            (key, "has no effect on a kickstart_file, which is taken as it is")
            for key in rendered
            if getattr(said, key) is not None
        ]
        if not said.kickstart_file.is_file():
            found.append(("kickstart_file", f"there is no file {said.kickstart_file}"))
    return found

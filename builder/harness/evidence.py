"""What is kept of an attempt, in curtin's kinds, and the bundle that a failed one leaves.

boot/       ROLE-console.log, ROLE-screen.png (.ppm), where the machine has a screen
install/    the declaration (.txt), ROLE.xml, ROLE-packages.txt, commands.sh; ROLE-image-packages.txt where the guest
            itself could not be asked
disks/      ROLE.qcow2: the overlay; it stands on the installed image
logs/       what the test said, ROLE-journal.txt, or why there is none
collect/    results that the test left in the guest
bundle.json what `golden clone revive` needs, the line of classification, and what is missing and why
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from builder import clones, run
from builder.clones import holds
from builder.errors import ConfigError, GoldenError, VerifyError
from builder.frozen import Frozen
from builder.harness.declaration import Test
from builder.harness.guest import Address, Guest
from builder.harness.outcome import Cause
from builder.model import NAME, ImageId
from builder.store import write_atomically
from builder.tools import libvirt, qemu_img

Kind = Literal["boot", "install", "disks", "logs", "collect"]
KINDS: tuple[Kind, ...] = ("boot", "install", "disks", "logs", "collect")

_FILE = "bundle.json"
_COPY_TIMEOUT_S = 600


class Kept(Frozen):
    """A machine of a bundle. disk: its overlay, below the bundle; "" if it was not kept. image: what that stands on.

    Bundles are handed around: neither text leads out of the folder.
    """

    role: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    image: ImageId
    disk: Annotated[str, Field(pattern=rf"^(disks/{NAME.pattern}\.qcow2)?$")]
    memory_mib: int
    cpus: int
    ssh_port: int


class Bundle(Frozen):
    """`bundle.json`. why: the line of classification. made: UTC, ISO 8601. key: lets golden into the images.

    missing: what is not in it, and why.
    """

    format: Literal[1] = 1
    test: str
    image: str
    run: int
    cause: Cause | None
    why: str
    machines: tuple[Kept, ...]
    key: Path | None
    made: str
    missing: tuple[str, ...] = ()


def read(place: Path) -> Bundle:
    """Raises ConfigError if that is no bundle, VerifyError if it is a damaged one."""
    path = place / _FILE
    if not path.is_file():
        raise ConfigError(f"there is no bundle in {place}", try_next="golden test says where it keeps each failed test")
    try:
        return Bundle.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise VerifyError(
            f"the bundle {place} is damaged", details=[("reason", str(error).splitlines()[0])], log=path
        ) from error


def _is_told(path: Path) -> bool:
    """Whether the guest itself said that, and not golden why it did not."""
    return path.exists() and path.stat().st_size > 0 and not path.read_bytes().startswith(b"golden: ")


class Collector:
    """Gathers what is to be kept of one attempt. place: the attempt's folder."""

    def __init__(self, place: Path, test: Test, *, state: Path) -> None:
        self.place = place
        self.test = test
        self._state = state
        self._machines: list[str] = []
        self._again: list[str] = []
        self._image_packages: dict[str, Path] = {}
        self._missing: list[str] = []
        for kind in KINDS:
            (place / kind).mkdir(parents=True, exist_ok=True)
        for file in test.folder.glob("*golden-test.toml"):
            # Not by its own name: results may lie below the folder in which tests are looked for.
            shutil.copy(file, place / "install" / f"{file.name}.txt")

    def start(self, guests: Mapping[str, Guest], connection: libvirt.Connection) -> None:
        """What is known of the machines as soon as they are there, also those that will not boot."""
        for role, address in ((role, guest.address) for role, guest in guests.items()):
            domain = connection.find(f"golden-{address.clone}")
            if domain is None:
                continue
            (self.place / "install" / f"{role}.xml").write_text(domain.xml(), encoding="utf-8")
            lease = clones.find(self._state, address.clone)
            self._image_packages[role] = lease.files[0].with_suffix(".packages")
            overlay = qemu_img.overlay_argv(Path(f"{role}.qcow2"), lease.files[0])
            self._machines += [
                f"# {role}: {address.image}, as the clone {address.clone} of {connection.uri}; {role}.xml was it",
                f"#   {run.printable(overlay)}",
            ]
            hardware = ["--memory", f"{lease.memory_mib} MiB", "--cpus", str(lease.cpus)]
            again = ["golden", "clone", "create", role, "--image", address.image, *hardware]
            self._again.append(run.printable(again))

    def finish(self, guests: Mapping[str, Guest], *, is_dead: bool) -> None:
        """Consoles, journals and package lists, while the machines are there. is_dead: no use asking over SSH."""
        for role, guest in guests.items():
            (self.place / "boot" / f"{role}-console.log").write_text(guest.console(), encoding="utf-8")
            journal = self.place / "logs" / f"{role}-journal.txt"
            packages = self.place / "install" / f"{role}-packages.txt"
            if not is_dead:
                journal.write_text(guest.journal(), encoding="utf-8")
                packages.write_text(guest.packages(), encoding="utf-8")
            self._explain(role, journal=journal, packages=packages)
        self._write_commands(self._again)

    def _explain(self, role: str, *, journal: Path, packages: Path) -> None:
        """What a dead guest could not be asked for: what stands for it, and why it is not there."""
        if not _is_told(journal):
            self._missing.append(f"{role}: its journal, as the guest was dead or off; what it wrote is on its disk")
            reason = journal.read_text(encoding="utf-8") if journal.exists() else ""
            journal.write_text(f"golden: there is no journal: the guest was dead or off\n{reason}", encoding="utf-8")
        if not _is_told(packages):
            packages.unlink(missing_ok=True)
            source = self._image_packages.get(role)
            self._missing.append(f"{role}: its package list, as the guest was dead or off; that of its image is there")
            if source is not None and source.exists():
                shutil.copyfile(source, self.place / "install" / f"{role}-image-packages.txt")

    def _write_commands(self, again: Sequence[str]) -> None:
        """A script that gives the machines again, and what golden itself did, as comments: its paths are gone."""
        said = [
            line.removeprefix("$ ")
            for log in sorted((self.place / "logs").glob("*.log"))
            for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
            if line.startswith("$ ")
        ]
        did = [*self._machines, "# the test", *(f"#   {line}" for line in said)]
        text = "\n".join(["#!/bin/sh", "# The machines again:", *again, "", "# What golden did:", *did])
        (self.place / "install" / "commands.sh").write_text(f"{text}\n", encoding="utf-8")

    def look_at_screens(self, addresses: Mapping[str, Address], connection: libvirt.Connection) -> None:
        """Before the machines are switched off."""
        for role, address in addresses.items():
            domain = connection.find(f"golden-{address.clone}")
            with contextlib.suppress(GoldenError):  # it may go off at this very moment
                picture = domain.screenshot() if domain is not None else None
                if picture:
                    ending = "png" if picture.startswith(b"\x89PNG") else "ppm"
                    (self.place / "boot" / f"{role}-screen.{ending}").write_bytes(picture)

    def take_disks(self, addresses: Mapping[str, Address], connection: libvirt.Connection) -> None:
        """The overlays, of machines that are switched off for it: half of what a guest wrote may be on its way."""
        for role, address in addresses.items():
            domain = connection.find(f"golden-{address.clone}")
            if domain is not None:
                domain.destroy()
            disk = clones.directory(self._state, address.clone) / "disk.qcow2"
            kept = self.place / "disks" / f"{role}.qcow2"
            argv: run.Argv = ["cp", "--reflink=auto", "--sparse=always", disk, kept]
            run.query(argv, why=f"keep the disk of {role}", timeout_s=_COPY_TIMEOUT_S)
            lease = clones.find(self._state, address.clone)
            if lease.warm:
                # It stands on the disk that goes with a saved memory, which no other host has.
                qemu_img.rebase(kept, lease.pins[1].path, is_safe=True, timeout_s=_COPY_TIMEOUT_S)

    def write_bundle(
        self, addresses: Mapping[str, Address], *, image: str, number: int, cause: Cause | None, why: str
    ) -> None:
        machines = []
        for role, address in addresses.items():
            lease = clones.find(self._state, address.clone)
            disk = self.place / "disks" / f"{role}.qcow2"
            machines.append(
                Kept(
                    role=role,
                    image=lease.image,
                    disk=f"disks/{role}.qcow2" if disk.exists() else "",
                    memory_mib=lease.memory_mib,
                    cpus=lease.cpus,
                    ssh_port=lease.ssh_port,
                )
            )
            if disk.exists():
                holds.hold(lease, disk.parent, state=self._state)
        bundle = Bundle(
            test=self.test.name,
            image=image,
            run=number,
            cause=cause,
            why=why,
            machines=tuple(machines),
            key=next((address.key for address in addresses.values()), None),
            made=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            missing=tuple(self._missing),
        )
        if any(one.disk for one in machines):
            self._write_commands([run.printable(["golden", "clone", "revive", self.place])])
        write_atomically(self.place / _FILE, bundle.model_dump_json(indent=2) + "\n")

"""Clones: throw-away machines on an overlay of an image that is only ever read.

STATE/clones/web1/lease.json    which image files the clone uses; collectors leave those alone
                  disk.qcow2    the overlay
                  console.log   what its serial console said
STATE/clones/.locks/web1        held while web1 is created or destroyed
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from builder import store
from builder.digests import remembered_sha256
from builder.errors import ConfigError, HostError, ToolError, VerifyError, did_you_mean
from builder.model import NAME, Architecture, Build, Firmware, Frozen, ImageId
from builder.progress import Reporter
from builder.store import Store
from builder.tools import qemu_img, ssh
from builder.tools.console import Console
from builder.tools.domain import Disk, Label, Machine, domain_xml, read_label
from builder.tools.free_port import free_port
from builder.tools.libvirt import Connection, Domain, PortTaken

INSTALLED_IMAGES = Path("/usr/share/golden/images")

BOOT_TIMEOUT_S = 120.0
_PORT_TRIES = 5

# The name becomes part of a socket's path, of which the kernel takes 108 bytes.
_LONGEST_NAME = 40


class Source(Frozen):
    """The image that a clone is made of. file: never the moving link, always the versioned file that it leads to."""

    build: Build
    file: Path
    origin: Literal["installed", "built"]


class Order(Frozen):
    """A clone as it is wanted. key: private SSH key that the image lets in."""

    name: str
    source: Source
    memory_mib: int
    cpus: int
    accelerator: Literal["kvm", "tcg"]
    key: Path | None


class Lease(Frozen):
    """`lease.json`: that a clone uses certain image files. Written before the first of them is used.

    files: the image's file, its parent's, … down to the base. uri: the libvirt that runs the machine.
    made: UTC, ISO 8601.
    """

    format: Literal[1] = 1
    name: str
    image: ImageId
    files: tuple[Path, ...]
    uuid: str
    uri: str
    arch: Architecture = "x86_64"
    firmware: Firmware = "bios"
    memory_mib: int
    cpus: int
    accelerator: Literal["kvm", "tcg"]
    ssh_port: int
    key: Path | None
    made: str

    @property
    def domain_name(self) -> str:
        return f"golden-{self.name}"


# --- looking ---------------------------------------------------------------------------------------------------


def directory(state: Path, name: str) -> Path:
    return state / "clones" / name


def console_log(state: Path, name: str) -> Path:
    return directory(state, name) / "console.log"


def names(state: Path) -> list[str]:
    folder = state / "clones"
    return sorted(path.name for path in folder.glob("*") if NAME.fullmatch(path.name)) if folder.is_dir() else []


def find(state: Path, name: str) -> Lease:
    """Raises ConfigError with the names that exist, or VerifyError if the lease is damaged."""
    _need_known(state, name)
    path = directory(state, name) / "lease.json"
    try:
        return Lease.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError) as error:
        raise VerifyError(
            f"the lease of the clone '{name}' is damaged",
            details=[("file", str(path)), ("reason", str(error).splitlines()[0])],
            try_next=f"golden clone destroy {name}",
        ) from error


def uri(state: Path, name: str) -> str | None:
    """The libvirt that the clone's machine is known to; None, which is the default one, if its lease is damaged."""
    try:
        return find(state, name).uri
    except VerifyError:
        return None


def _need_known(state: Path, name: str) -> None:
    known = names(state)
    if name not in known:
        raise ConfigError(
            f"there is no clone '{name}'{did_you_mean(name, known)}",
            try_next=f"one of: {', '.join(known)}" if known else "golden clone create NAME --image IMAGE",
        )


def leases(state: Path) -> Iterator[Lease]:
    """All leases of this state directory."""
    for name in names(state):
        yield find(state, name)


def is_running(lease: Lease, connection: Connection) -> bool:
    domain = connection.find(lease.domain_name)
    return domain is not None and not domain.is_off()


def locate(image: str, version: str | None, *, images: Path, builds: Store | None) -> Source:
    """The image's file: an installed one if there is one, else the newest build of the project.

    images: folder of installed images. Raises ConfigError if neither is there.
    """
    link = images / f"{image}-{version}.qcow2" if version else images / f"{image}.qcow2"
    if link.exists():
        file = link.resolve()
        return Source(build=_facts(file), file=file, origin="installed")
    if link.is_symlink():
        raise VerifyError(
            f"the installed image '{image}' leads to a file that is gone",
            details=[("link", str(link)), ("leads to", str(link.readlink()))],
            try_next=f"dnf reinstall $(rpm -qf {link})",
        )
    if builds is not None and builds.builds(image):
        build = builds.find(image, version)
        return Source(build=build, file=builds.qcow2(build).resolve(), origin="built")
    known = image_names(images=images, builds=builds)
    raise ConfigError(
        f"there is no image '{image}'{f' {version}' if version else ''}, neither installed in {images} nor built"
        f"{did_you_mean(image, known)}",
        try_next=f"one of: {', '.join(known)}" if known else f"golden build {image}, or dnf install golden-{image}",
    )


def image_names(*, images: Path, builds: Store | None) -> list[str]:
    """What `locate` would find without a version."""
    installed = {link.name.removesuffix(".qcow2") for link in images.glob("*.qcow2") if link.is_symlink()}
    return sorted(installed | {build.image for build in builds.builds()} if builds else installed)


def verify(source: Source, *, state: Path, is_full: bool) -> tuple[Path, ...]:
    """The files of the image's chain, the image's own first, each with the bytes that its build had.

    is_full: read all of them; else only those that changed since they were last read, as the file system has it.
    Raises VerifyError naming the first file that is not what it was.
    """
    expected: ImageId | None = source.build.id
    files: list[Path] = []
    for link in qemu_img.chain(source.file):
        file = link.path.resolve()
        build = _facts(file)
        if build.id != expected:
            wanted = f"{expected.stem} {expected.sha256}" if expected else "nothing: the image above is a base"
            raise VerifyError(
                f"'{source.build.stem}' does not stand on the images that it was built on",
                details=[("expected", wanted), ("found", f"{build.stem} {build.id.sha256}"), ("file", str(file))],
            )
        found = store.sha256(file) if is_full else remembered_sha256(file, state=state)
        if found != build.id.sha256:
            raise VerifyError(
                f"'{build.stem}' was changed after it was built",
                details=[("file", str(file)), ("expected", f"sha256 {build.id.sha256}"), ("found", f"sha256 {found}")],
                try_next=_remedy(source, build, file),
            )
        files.append(file)
        expected = build.parent
    if expected is not None:
        raise VerifyError(f"'{source.build.stem}' was built on '{expected.stem}', but its file names no such parent")
    return tuple(files)


def _facts(file: Path) -> Build:
    path = file.with_suffix(".json")
    if not path.exists():
        raise VerifyError(f"there are no facts beside the image file {file}, so nobody can say whether it is whole")
    return store.read_build(path)


def _remedy(source: Source, build: Build, file: Path) -> str:
    if source.origin == "installed":
        return f"dnf reinstall $(rpm -qf {file})"
    return f"remove {file} and run: golden build {build.image}"


# --- making and unmaking -------------------------------------------------------------------------------------------


def create(
    order: Order,
    *,
    state: Path,
    connection: Connection,
    reporter: Reporter,
    is_full: bool,
    boot_timeout_s: float | None,
) -> tuple[Lease, float | None]:
    """Make the clone, start it, and wait until it answers; returns its lease and the seconds that it took to.

    is_full: as in `verify`. boot_timeout_s: None to not wait for SSH. If anything fails, or golden is interrupted,
    nothing of the clone is left. Raises ConfigError, HostError, ToolError or VerifyError.
    """
    if not NAME.fullmatch(order.name) or len(order.name) > _LONGEST_NAME:
        raise ConfigError(
            f"'{order.name}' cannot be a clone's name: lower-case letters, digits, and '-' or '.' between them, "
            f"{_LONGEST_NAME} characters at most"
        )
    with _lock(state, order.name):
        place = directory(state, order.name)
        if place.exists():
            raise ConfigError(
                f"there is a clone '{order.name}' already",
                try_next=f"golden clone ssh {order.name}, or golden clone destroy {order.name}",
            )
        _remove_stray(order.name, state=state, connection=connection)
        with reporter.step("verify the image's files"):
            files = verify(order.source, state=state, is_full=is_full)
        lease = _new_lease(order, files, connection)
        try:
            _take_place(lease, place)
            with reporter.step(f"start {order.name}"):
                qemu_img.create_overlay(place / "disk.qcow2", order.source.file)
                qemu_img.verify_chain(place / "disk.qcow2", list(files))
                lease, domain = _start(lease, place, connection)
            if boot_timeout_s is None:
                return lease, None
            with reporter.step(f"boot {order.name}") as step:
                return lease, _wait(lease, domain, log=place / "console.log", timeout_s=boot_timeout_s, note=step.note)
        except BaseException:
            _remove(order.name, state=state, connection=connection)
            raise


def destroy(name: str, *, state: Path, connection: Connection) -> None:
    """Switch the clone off and remove all of it. Raises ConfigError if there is no such clone."""
    _need_known(state, name)
    with _lock(state, name):
        _remove(name, state=state, connection=connection)


def _lock(state: Path, name: str) -> contextlib.AbstractContextManager[None]:
    return store.lock(state / "clones" / ".locks" / name, what=f"the clone '{name}'")


def _new_lease(order: Order, files: tuple[Path, ...], connection: Connection) -> Lease:
    return Lease(
        name=order.name,
        image=order.source.build.id,
        files=files,
        uuid=str(uuid.uuid4()),
        uri=connection.uri,
        arch=order.source.build.arch,
        firmware=order.source.build.firmware,
        memory_mib=order.memory_mib,
        cpus=order.cpus,
        accelerator=order.accelerator,
        ssh_port=free_port(),
        key=order.key,
        made=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    )


def _take_place(lease: Lease, place: Path) -> None:
    """The directory appears by one rename, with the lease in it: from then on collectors see it.

    0711: libvirt's QEMU has to pass through; nobody else has to look.
    """
    part = _part(place)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    part.chmod(0o711)
    _write(lease, part)
    part.rename(place)
    store.sync_directory(place.parent)
    gone = [str(file) for file in lease.files if not file.exists()]
    if gone:
        raise VerifyError(f"an image file went away while '{lease.name}' was made", details=[("file", gone[0])])


def _start(lease: Lease, place: Path, connection: Connection) -> tuple[Lease, Domain]:
    """Define and start the machine; the port may turn out to be taken, and then it is another one."""
    for remaining in reversed(range(_PORT_TRIES)):
        domain = connection.define(domain_xml(_machine(lease, place)))
        try:
            domain.start()
            break
        except PortTaken:
            if not remaining:
                raise
            lease = lease.model_copy(update={"ssh_port": free_port()})
            _write(lease, place)
    return lease, domain


def _machine(lease: Lease, place: Path) -> Machine:
    return Machine(
        name=lease.domain_name,
        uuid=lease.uuid,
        label=Label(purpose="clone", owner_pid=os.getpid(), work=place),
        arch=lease.arch,
        firmware=lease.firmware,
        accelerator=lease.accelerator,
        memory_mib=lease.memory_mib,
        cpus=lease.cpus,
        disks=(Disk(chain=(place / "disk.qcow2", *lease.files)),),
        ssh_port=lease.ssh_port,
        console_log=place / "console.log",
    )


def _wait(lease: Lease, domain: Domain, *, log: Path, timeout_s: float, note: Callable[[str], None]) -> float:
    """Seconds until SSH answered. The log goes with the clone, so an error quotes the console's end."""
    if lease.key is None:
        raise ConfigError("waiting for SSH needs a key", try_next="--key FILE, or --no-wait")
    console = Console(log)

    def is_alive() -> bool:
        console.poll()
        return console.fatal is None and not domain.is_off()

    target = ssh.Target(port=lease.ssh_port, key=lease.key)
    try:
        return ssh.wait_until_answers(target, timeout_s=timeout_s, is_alive=is_alive, note=note)
    except ToolError as error:
        console.poll()
        error.details.append(("console", console.tail() or "(it said nothing)"))
        error.try_next = f"golden clone create {lease.name} --no-wait …, and then: golden clone console {lease.name}"
        raise


def _remove_stray(name: str, *, state: Path, connection: Connection) -> None:
    """A machine of this name that a killed golden left is removed; another's is none of our business."""
    domain = connection.find(f"golden-{name}")
    if domain is None:
        return
    label = read_label(domain.xml())
    if label is None or label.work != directory(state, name):
        raise HostError(
            f"libvirt has a machine '{domain.name}' already, and it is not one of {state}",
            details=[("belongs to", str(label.work) if label else "somebody who is not golden")],
            try_next="choose another name",
        )
    domain.remove()


def _remove(name: str, *, state: Path, connection: Connection) -> None:
    """The machine first: while it runs, its lease has to stand."""
    domain = connection.find(f"golden-{name}")
    place = directory(state, name)
    if domain is not None and (label := read_label(domain.xml())) is not None and label.work == place:
        domain.remove()
    part = _part(place)
    shutil.rmtree(part, ignore_errors=True)
    if place.exists():
        place.rename(part)
        shutil.rmtree(part)


def _part(place: Path) -> Path:
    return place.with_name(f".{place.name}.part")


def _write(lease: Lease, place: Path) -> None:
    store.write_atomically(place / "lease.json", lease.model_dump_json(indent=2) + "\n")

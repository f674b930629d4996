"""A disk image made by others -> base: looked at before any tool opens it, copied, grown, prepared offline."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from builder import run, templates
from builder.errors import ConfigError
from builder.media import Source
from builder.model import Distribution, Image
from builder.tools import guestfish, guestfs, qcow2, qemu_img
from builder.tools.guestfs import Operation
from builder.units import format_bytes

_TEMPLATE = "import.sh.j2"
_COPY_TIMEOUT_S = 3600
_PREPARE_TIMEOUT_S = 300


def check_file(file: Path) -> int:
    """The virtual size in bytes of an image that may be imported; only its header is read.

    Raises ConfigError if there is no such file, VerifyError if it is no qcow2 or reaches outside itself.
    """
    if not file.is_file():
        raise ConfigError(
            f"the image to import is not there: {file}",
            try_next="put it there, or have `source` in golden.toml name another file or an http(s) address",
        )
    return qcow2.alone(file)


def size_of(source: Source, file: Path) -> int:
    """As `check_file`; an image of golden's own may stand on others."""
    if source.kind == "qcow2":
        return check_file(file)
    if not file.is_file():
        raise ConfigError(f"the image to import is not there: {file}", try_next=f"dnf install golden-{file.stem}")
    return qemu_img.info(file).virtual_bytes


def check_whole(file: Path) -> None:
    """As `check_file`, and all of it is there and in order. Reads its tables, starts qemu-img. Raises VerifyError."""
    check_file(file)
    qemu_img.check_alone(file)


def check_size(source: Source, virtual_bytes: int, image: Image) -> None:
    """Raises ConfigError if the image's disk is smaller than what is to be imported; nothing is ever shrunk."""
    if image.disk_bytes is not None and virtual_bytes > image.disk_bytes:
        raise ConfigError(
            f"the disk of '{image.name}' ({format_bytes(image.disk_bytes)}) is smaller than the {source.title} "
            f"({format_bytes(virtual_bytes)})",
            try_next=f'in golden.toml: [image.{image.name}] disk = "{-(-virtual_bytes // 1024**3)} GiB"',
        )


def preparation(image: Image, source: Source, *, ssh_public_key: str) -> Operation:
    """What makes of the image what a kickstart makes of an installation. Raises ConfigError."""
    script = templates.render(
        templates.shared("kickstarts"),
        _TEMPLATE,
        image=image.name,
        cloud_init=source.cloud_init,
        ssh_public_key=shlex.quote(ssh_public_key),
    )
    return Operation(name="0-prepare", script=script, timeout_s=_PREPARE_TIMEOUT_S)


def packages_there(distribution: Distribution, install: Operation) -> Operation:
    """`install`, the operation that installs the distribution's packages, left out if they are all there."""
    script = f"if rpm -q --quiet {shlex.join(distribution.packages)}; then exit 0; fi\n{install.script}"
    return install.model_copy(update={"name": "0-packages", "script": script})


def argvs(source: Path, disk: Path, disk_bytes: int, *, is_kvm: bool) -> list[run.Argv]:
    """The commands that make `disk` of `source`, as far as they are known before it was looked into."""
    environment = [f"{name}={value}" for name, value in guestfs.environment(is_kvm=is_kvm).items()]
    return [
        qemu_img.check_argv(source),
        qemu_img.copy_argv(source, disk),
        qemu_img.resize_argv(disk, disk_bytes),
        ["env", *environment, *guestfish.argv(disk, guestfish.INSPECTION, read_only=True)],
    ]


def bring_in(
    source: Source,
    file: Path,
    disk: Path,
    *,
    image: Image,
    log: Path,
    is_kvm: bool,
    time_factor: float,
    note: Callable[[str], None],
) -> None:
    """Make `disk` of the imported file, which is only read, as large as the image's disk is to be.

    The chain below an image of golden's own is the caller's to verify; it is flattened. Raises ConfigError,
    VerifyError if the file is not fit, ToolError.
    """
    if source.kind == "qcow2":
        note("checking the image")
        check_whole(file)
    virtual_bytes = size_of(source, file)
    check_size(source, virtual_bytes, image)
    disk_bytes = image.disk_bytes or virtual_bytes
    note("copying the image")
    qemu_img.copy(file, disk, log=log, timeout_s=_COPY_TIMEOUT_S)
    if disk_bytes == virtual_bytes:
        return
    qemu_img.resize(disk, disk_bytes)
    note("looking at the partitions")
    layout = guestfish.inspect(disk, is_kvm=is_kvm, time_factor=time_factor)
    note("growing the last partition and its file system")
    guestfish.grow(disk, layout, disk_bytes, is_kvm=is_kvm, time_factor=time_factor)

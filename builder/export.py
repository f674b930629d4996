"""A chain of images -> one file in another program's format, for consumers without dnf; with its checksum beside it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

from builder import faults, run
from builder.errors import ConfigError, GoldenError, HostError, VerifyError
from builder.model import Build, Frozen
from builder.progress import Reporter
from builder.store import sha256, sync_directory, write_atomically
from builder.tools import ovf, qemu_img
from builder.units import format_bytes

Format = Literal["raw", "qcow2", "vmdk", "vhdx", "vdi", "ova"]
Compression = Literal["zstd", "xz", "gzip"]

FORMATS: tuple[Format, ...] = get_args(Format)
COMPRESSIONS: tuple[Compression, ...] = get_args(Compression)

_TIMEOUT_S = 2 * 3600
# Source: pax(1), "ustar Interchange Format": a size has eleven octal digits.
_LARGEST_IN_USTAR = 8**11
_SUFFIX = {"zstd": ".zst", "xz": ".xz", "gzip": ".gz"}

# Compression that is a part of the format. Source: qemu-img(1), "qcow2", "compression_type".
_INNER = {"zstd": "compression_type=zstd", "gzip": "compression_type=zlib"}

# Programs leave their input where it is; all of them work with every processor that there is, but gzip.
_PROGRAMS: dict[str, list[str]] = {
    "zstd": ["zstd", "-q", "--keep", "-T0", "-6"],
    "xz": ["xz", "--keep", "-T0", "-6"],
    "gzip": ["gzip", "--keep", "-n", "-6"],
}


class Export(Frozen):
    """One export, decided in full. output: the file to be. disk: the converted disk, inside of `work`.

    work: a folder beside the output that is there only while the export is made.
    """

    build: Build
    source: Path
    format: Format
    compression: Compression | None
    output: Path
    work: Path

    @property
    def disk(self) -> Path:
        return self.work / f"{self.build.stem}.{self.disk_format}"

    @property
    def checksums(self) -> Path:
        return self.output.with_name(f"{self.output.name}.sha256")

    @property
    def is_packed(self) -> bool:
        """Whether the converted disk is compressed as a whole by another program afterwards."""
        return self.compression is not None and self.format != "qcow2"

    @property
    def disk_format(self) -> str:
        """qemu-img's word for the format of `disk`."""
        return "vmdk" if self.format == "ova" else self.format

    @property
    def options(self) -> tuple[list[str], bool]:
        """qemu-img's options, and whether it compresses."""
        if self.format == "ova":
            return ["subformat=streamOptimized", "adapter_type=lsilogic"], False
        if self.format == "qcow2" and self.compression:
            return [_INNER[self.compression]], True
        return [], False

    def commands(self) -> list[run.Argv]:
        """What is run, in order; an OVA's descriptor and archive are written by golden itself."""
        options, is_compressed = self.options
        found = [
            qemu_img.convert_argv(
                self.source, self.disk, format=self.disk_format, options=options, is_compressed=is_compressed
            ),
            qemu_img.compare_argv(self.source, self.disk, format=self.disk_format),
        ]
        if self.compression and self.is_packed:
            found.append([*_PROGRAMS[self.compression], self.disk])
        return found


class Exported(Frozen):
    """size_bytes: of the file. checksums: a file for `sha256sum --check`, beside it."""

    image: str
    version: str
    format: Format
    file: Path
    sha256: str
    size_bytes: int
    checksums: Path


def file_name(build: Build, format: Format, compression: Compression | None) -> str:
    """`sandbox-base-20261121.1.raw.zst`."""
    outer = _SUFFIX[compression] if compression and format != "qcow2" else ""
    return f"{build.stem}.{format}{outer}"


def plan(
    build: Build, source: Path, *, format: Format, compression: Compression | None, output: Path, is_forced: bool
) -> Export:
    """Decide on an export of `source`, the build's file. output: a file, or the folder to put it into.

    is_forced: an existing file may be replaced. Nothing is written. Raises ConfigError.
    """
    if compression and format == "ova":
        raise ConfigError("an OVA holds a compressed disk already; leave --compress out")
    if format == "qcow2" and compression == "xz":
        raise ConfigError("a qcow2 is compressed inside, by zstd or gzip; xz it cannot be")
    if output.is_dir():
        output /= file_name(build, format, compression)
    output = output.absolute()
    if not output.parent.is_dir():
        raise ConfigError(f"there is no folder {output.parent}", try_next=f"mkdir -p {output.parent}")
    if "\n" in output.name or "\\" in output.name:
        raise ConfigError(f"{output.name!r} cannot be written into a list of checksums")
    if output.exists() and not is_forced:
        raise ConfigError(f"{output} is there already", try_next="--force, to replace it")
    work = output.with_name(f".{output.name}.{os.getpid()}.part")
    return Export(build=build, source=source, format=format, compression=compression, output=output, work=work)


def export(decided: Export, *, reporter: Reporter) -> Exported:
    """Carry out `decided`: convert, compare with the chain, pack, and only then let the file be seen.

    Whatever goes wrong, nothing of it is left. Raises HostError, ToolError or VerifyError.
    """
    name = decided.output.name
    log = decided.work / "log"
    with _workspace(decided.work):
        options, is_compressed = decided.options
        with reporter.step(f"convert to {decided.format}") as step:
            qemu_img.convert(
                decided.source,
                decided.disk,
                format=decided.disk_format,
                options=options,
                is_compressed=is_compressed,
                log=log,
                timeout_s=_TIMEOUT_S,
                note=step.note,
            )
        with reporter.step(f"compare with {decided.build.stem}") as step:
            qemu_img.compare(
                decided.source, decided.disk, format=decided.disk_format, log=log, timeout_s=_TIMEOUT_S, note=step.note
            )
        with reporter.step(f"finish {name}"):
            made = _pack(decided, log=log)
            digest = sha256(made)
            with made.open("rb") as stream:
                os.fsync(stream.fileno())
            size_bytes = made.stat().st_size
            made.replace(decided.output)
            faults.place("export.named")
            write_atomically(decided.checksums, f"{digest}  {name}\n")
            sync_directory(decided.output.parent)
    return Exported(
        image=decided.build.image,
        version=decided.build.version,
        format=decided.format,
        file=decided.output,
        sha256=digest,
        size_bytes=size_bytes,
        checksums=decided.checksums,
    )


def needed_bytes(decided: Export) -> int:
    """Room for the largest that the export can become on the way."""
    return decided.build.virtual_bytes * (2 if decided.is_packed or decided.format == "ova" else 1)


@contextlib.contextmanager
def _workspace(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir()
    except OSError as error:
        raise HostError(f"could not write to {folder.parent}: {error.strerror}") from error
    try:
        yield
    except GoldenError as error:
        error.log = None  # it goes with the folder; its last lines are in the error
        raise
    finally:
        shutil.rmtree(folder)


def _pack(decided: Export, *, log: Path) -> Path:
    if decided.format == "ova":
        return _ova(decided)
    if not decided.compression or not decided.is_packed:
        return decided.disk
    run.run(
        [*_PROGRAMS[decided.compression], decided.disk],
        why=f"compress '{decided.disk.name}' with {decided.compression}",
        timeout_s=_TIMEOUT_S,
        log=log,
    )
    return decided.disk.with_name(f"{decided.disk.name}{_SUFFIX[decided.compression]}")


def _ova(decided: Export) -> Path:
    build, disk = decided.build, decided.disk
    if disk.stat().st_size >= _LARGEST_IN_USTAR:
        raise VerifyError(
            f"an OVA cannot hold a disk of {format_bytes(disk.stat().st_size)}; its archive's format ends at 8 GiB",
            try_next="--format vmdk",
        )
    descriptor = decided.work / f"{build.stem}.ovf"
    machine = ovf.Machine(
        name=build.stem,
        description=build.description,
        disk=disk.name,
        disk_file_bytes=disk.stat().st_size,
        disk_bytes=build.virtual_bytes,
        memory_mib=build.memory_mib,
        cpus=build.cpus,
    )
    descriptor.write_bytes(ovf.descriptor(machine))
    manifest = decided.work / f"{build.stem}.mf"
    manifest.write_text(ovf.manifest({path.name: sha256(path) for path in (descriptor, disk)}), encoding="utf-8")
    made = decided.work / f"{build.stem}.ova"
    # The descriptor has to be the first file. Source: DMTF DSP0243, "Distribution as a single file": ustar format.
    with tarfile.open(made, "w", format=tarfile.USTAR_FORMAT) as archive:
        for path in (descriptor, manifest, disk):
            archive.add(path, arcname=path.name, filter=_nobodys)
    return made


def _nobodys(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Of no user of this machine."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member

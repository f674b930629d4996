"""qemu-img: makes, looks into, checks and converts qcow2 files; refuses the ones that reach outside themselves."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from builder import run
from builder.errors import ToolError, VerifyError
from builder.model import Frozen
from builder.units import TIB

# Header of a qcow2, big-endian: magic, version at 4, place of the backing file's name at 8, virtual size at 24, kind
# of encryption at 32, incompatible features at 72 (version 3 only).
# Source: QEMU, docs/interop/qcow2.rst.
_MAGIC = b"QFI\xfb"
_HEADER_BYTES = 104
_HEADER_LENGTH_AT = 100
# The name and the extensions lie in the first cluster; golden's are of 64 KiB, and no name is longer than 1023 bytes.
_LONGEST_HEADER_BYTES = 64 * 1024
_BACKING_FORMAT = 0xE2792ACA
_EXTERNAL_DATA_FILE = 1 << 2

# As measured: smallest on a disk and fastest to install. 2 MiB clusters undo compression.
_COMPRESSION = "compression_type=zstd,cluster_size=64k"

# No chain of golden's is longer by far; one that is goes in a circle.
_LONGEST_CHAIN = 64

# Larger disks than any distribution's image, by far; a header that says more was made to be refused.
_LARGEST_BYTES = 16 * TIB


class Link(Frozen):
    """One file of a chain. backing_name: as its header has it. backing: where that leads, seen from its directory."""

    path: Path
    backing_name: str | None = None
    backing_format: str | None = None

    @property
    def backing(self) -> Path | None:
        return None if self.backing_name is None else self.path.parent / self.backing_name


class Info(Link):
    """What qemu-img says of one file. virtual_bytes: the disk that a guest sees. actual_bytes: taken on this disk."""

    virtual_bytes: int
    actual_bytes: int
    cluster_bytes: int
    compression: str


def info(path: Path) -> Info:
    """One file's facts; its backing file is not opened. Works while a machine has it open.

    Raises VerifyError if it is no qcow2 or keeps its data in another file.
    """
    _refuse_foreign(path)
    answer = run.query(
        ["qemu-img", "info", "--force-share", "-f", "qcow2", "--output=json", path.absolute()],
        why=f"look into '{path.name}'",
    )
    found: dict[str, Any] = json.loads(answer)
    return Info(
        path=path.absolute(),
        virtual_bytes=found["virtual-size"],
        actual_bytes=found["actual-size"],
        cluster_bytes=found["cluster-size"],
        compression=found["format-specific"]["data"]["compression-type"],
        backing_name=found.get("backing-filename"),
        backing_format=found.get("backing-filename-format"),
    )


def link(path: Path) -> Link:
    """What the file's header says that it stands on. Without a process: a clone's start asks it of each file.

    Raises VerifyError if it is no qcow2, or keeps its data in another file. Source: QEMU, docs/interop/qcow2.rst,
    "Header", "Header extensions".
    """
    _refuse_foreign(path)
    with path.open("rb") as stream:
        start = stream.read(_LONGEST_HEADER_BYTES)
    offset, size = struct.unpack_from(">QI", start, 8)
    if not offset:
        return Link(path=path.absolute())
    if not size or offset + size > len(start):
        raise _unfit(path, "the name of its backing file is not in its header")
    try:
        name = start[offset : offset + size].decode()
    except UnicodeDecodeError as error:
        raise _unfit(path, "the name of its backing file is no text") from error
    return Link(
        path=path.absolute(),
        backing_name=name,
        backing_format=_extensions(start).get(_BACKING_FORMAT, b"").decode(errors="replace") or None,
    )


def _extensions(start: bytes) -> dict[int, bytes]:
    """Kind -> content, of those that are whole."""
    found, at = {}, struct.unpack_from(">I", start, _HEADER_LENGTH_AT)[0]
    while at + 8 <= len(start):
        kind, size = struct.unpack_from(">II", start, at)
        if kind == 0:
            break
        found[kind] = start[at + 8 : at + 8 + size]
        at += 8 + (size + 7) // 8 * 8
    return found


def chain(path: Path, *, is_beside: bool = False) -> list[Link]:
    """The file, its backing file, … down to the base.

    is_beside: an image's chain, which lies in one folder; an overlay names its image's file wherever that is.
    Walked here and not by `--backing-chain`, which opens whatever a crafted header names before anybody could look.
    Raises VerifyError on a backing file that is gone, not named as a plain file, or not said to be qcow2.
    """
    found = [link(path)]
    while (backing := found[-1].backing) is not None:
        above = found[-1]
        # "json:{…}" and "nbd://…" are names of block devices to QEMU. Source: QEMU, path_has_protocol.
        if ":" in (above.backing_name or "").split("/", 1)[0]:
            raise _unfit(above.path, f"its backing file is not a plain file: {above.backing_name}")
        if is_beside and "/" in (above.backing_name or ""):
            raise _unfit(above.path, f"its backing file is not one beside it: {above.backing_name}")
        if above.backing_format != "qcow2":
            raise _unfit(above.path, f"the format of its backing file is given as {above.backing_format}, not qcow2")
        if not backing.exists():
            raise _unfit(above.path, f"its backing file is gone: {backing}")
        if len(found) == _LONGEST_CHAIN:
            raise _unfit(path, f"its chain of backing files is longer than {_LONGEST_CHAIN}")
        found.append(link(backing))
    return found


def verify_chain(path: Path, expected: list[Path]) -> None:
    """Check that `path` stands on exactly the files `expected`: its backing file first, the base last.

    Looks at names and formats only; that the files hold the right bytes is for SHA-256 to say. Raises VerifyError.
    """
    found = [below.path.resolve() for below in chain(path)[1:]]
    wanted = [parent.resolve() for parent in expected]
    if found != wanted:
        raise VerifyError(
            f"'{path.name}' does not stand on the files that it should",
            details=[
                ("expected", " <- ".join(map(str, wanted)) or "(no backing file)"),
                ("found", " <- ".join(map(str, found)) or "(no backing file)"),
            ],
        )


def create_argv(path: Path, size_bytes: int) -> run.Argv:
    return ["qemu-img", "create", "-q", "-f", "qcow2", path, str(size_bytes)]


def create(path: Path, size_bytes: int) -> None:
    """A new, empty qcow2."""
    run.query(create_argv(path, size_bytes), why=f"create the disk '{path.name}'")


def overlay_argv(path: Path, backing: Path) -> run.Argv:
    return ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", backing.absolute(), path]


def create_overlay(path: Path, backing: Path) -> None:
    """A new file that reads from `backing` until it is written to; it names `backing` by its absolute path.

    Raises ToolError, or VerifyError if its header does not name `backing` afterwards.
    """
    run.query(overlay_argv(path, backing), why=f"create an overlay of '{backing.name}'")
    if link(path).backing != backing.absolute():
        raise _unfit(path, f"it was to stand on {backing}")


def rebase_argv(overlay: Path, backing: Path, *, is_safe: bool = False) -> run.Argv:
    return ["qemu-img", "rebase", *([] if is_safe else ["-u"]), "-f", "qcow2", "-F", "qcow2", "-b", backing, overlay]


def rebase(overlay: Path, backing: Path, *, is_safe: bool = False, timeout_s: float = 60) -> None:
    """Point `overlay` at `backing` by rewriting its header; no data is copied.

    Both backing files must hold the same bytes, unless is_safe: then what differs is copied into the overlay first.
    Raises ToolError. Source: qemu-img(1), "rebase", -u.
    """
    run.query(rebase_argv(overlay, backing, is_safe=is_safe), why=f"rebase {overlay.name}", timeout_s=timeout_s)


def check(path: Path) -> None:
    """Check one file's inner tables; backing files are not looked at. Raises VerifyError on corruption and on leaks.

    Source: qemu-img(1), "check": 2 is corruption, 3 leaked clusters; both come with the JSON report.
    """
    _refuse_foreign(path)
    _check(path)


def _check(path: Path) -> None:
    answer = run.query(
        check_argv(path),
        why=f"check '{path.name}'",
        timeout_s=600,
        ok=(0, 2, 3),
    )
    report: dict[str, Any] = json.loads(answer)
    faults = {name: report[name] for name in ("check-errors", "corruptions", "leaks") if report.get(name)}
    if faults:
        raise _unfit(path, ", ".join(f"{count} {name}" for name, count in faults.items()))


def alone(path: Path) -> int:
    """The virtual size in bytes of a qcow2 made by others, by its header alone: no program has opened it yet.

    Raises VerifyError if it is no qcow2, is encrypted, has no sane size, or names any other file.
    """
    header = _header(path)
    version, backing, size, crypt = (
        struct.unpack_from(kind, header, offset)[0] for kind, offset in ((">I", 4), (">Q", 8), (">Q", 24), (">I", 32))
    )
    if version not in (2, 3):
        raise _unfit(path, f"it is qcow2 version {version}; there are 2 and 3")
    if backing:
        raise _unfit(path, "it has a backing file; an image to import has to be whole by itself")
    if version == 3 and struct.unpack_from(">Q", header, 72)[0] & _EXTERNAL_DATA_FILE:
        raise _unfit(path, "it keeps its data in another file (data-file)")
    if crypt:
        raise _unfit(path, "it is encrypted")
    return _sane_size(path, size)


def check_argv(path: Path) -> run.Argv:
    return ["qemu-img", "check", "-f", "qcow2", "--output=json", path.absolute()]


def check_alone(path: Path) -> None:
    """As `check`, for a qcow2 made by others. Raises VerifyError; also if it is cut short."""
    alone(path)
    _check(path)


def copy_argv(source: Path, target: Path) -> run.Argv:
    return ["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", source, target]


def copy(source: Path, target: Path, *, log: Path, timeout_s: float) -> None:
    """Write what a guest sees of `source`, which the caller has looked into, to a new qcow2 without a backing file.

    Not a copy of the file: so nothing of its header, its snapshots or its old version comes along.
    timeout_s: seconds. Raises ToolError.
    """
    run.run(copy_argv(source, target), why=f"copy '{source.name}'", timeout_s=timeout_s, log=log)


def resize_argv(path: Path, size_bytes: int) -> run.Argv:
    return ["qemu-img", "resize", "-q", "-f", "qcow2", path, str(size_bytes)]


def resize(path: Path, size_bytes: int) -> None:
    """Make the disk that the guest sees larger. Raises ToolError, VerifyError if it has another size afterwards."""
    run.query(resize_argv(path, size_bytes), why=f"resize '{path.name}'")
    if info(path).virtual_bytes != size_bytes:
        raise _unfit(path, f"its virtual size was to be {size_bytes} bytes")


def compress_argv(source: Path, target: Path, *, backing: str | None) -> run.Argv:
    argv: list[str | Path] = ["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", "-c", "-o", _COMPRESSION, "-W"]
    if backing is not None:
        argv += ["-B", backing, "-F", "qcow2"]
    return [*argv, source, target]


def convert_compressed(source: Path, target: Path, *, backing: str | None, log: Path, timeout_s: float) -> None:
    """Write `source` compressed to `target`; of an overlay of `backing` only what lies in the overlay itself.

    backing: a file name in the folder of `target`; it is written as it is, as the two will lie side by side wherever
    they are installed. timeout_s: seconds. Raises ToolError, or VerifyError if the target does not name `backing`.
    """
    argv = compress_argv(source, target, backing=backing)
    run.run(argv, why=f"compress '{source.name}'", timeout_s=timeout_s, log=log)
    if info(target).backing_name != backing:
        raise _unfit(target, f"its backing file was to be named {backing}")


def commit_argv(top: Path, base: Path) -> run.Argv:
    return ["qemu-img", "commit", "-q", "-f", "qcow2", "-b", base.absolute(), top]


def merge(top: Path, base: Path, *, log: Path, timeout_s: float) -> None:
    """Write what lies in `top` and in the overlays between into `base`, which then shows the same disk.

    To be done before `convert_compressed`: of an overlay it takes what lies in that one file, and none of those between
    it and the backing file that the target is to have (QEMU 7.2, convert_iteration_sectors). Raises ToolError.
    """
    run.run(commit_argv(top, base), why=f"merge '{top.name}' into '{base.name}'", timeout_s=timeout_s, log=log)


def convert_argv(source: Path, target: Path, *, format: str, options: Sequence[str], is_compressed: bool) -> run.Argv:
    words: list[str | Path] = ["qemu-img", "convert", "-p", "-f", "qcow2", "-O", format]
    if is_compressed:
        words.append("-c")
    for option in options:
        words += ["-o", option]
    return [*words, source, target]


def convert(
    source: Path,
    target: Path,
    *,
    format: str,
    options: Sequence[str] = (),
    is_compressed: bool = False,
    log: Path,
    timeout_s: float,
    note: Callable[[str], None],
) -> None:
    """Write what a guest sees of `source` and the chain below it to one file of another format.

    format, options: qemu-img's own words. timeout_s: seconds. note: hears how far it is. Raises ToolError.
    """
    chain(source)  # refuses what would reach outside of the chain
    argv = convert_argv(source, target, format=format, options=options, is_compressed=is_compressed)
    watch = _Progress(log, note)
    run.run(argv, why=f"convert '{source.name}' to {format}", timeout_s=timeout_s, log=log, watch=watch)


def flatten_options() -> list[str]:
    return [_COMPRESSION]


def compare_argv(a: Path, b: Path, *, format: str) -> run.Argv:
    return ["qemu-img", "compare", "-p", "-f", "qcow2", "-F", format, a, b]


def compare(a: Path, b: Path, *, format: str, log: Path, timeout_s: float, note: Callable[[str], None]) -> None:
    """Read a qcow2 and the chain below it, and another file, and see whether a guest would see the same disk.

    format: of `b`. timeout_s: seconds. Raises VerifyError where they differ, ToolError if one cannot be read.
    Source: qemu-img(1), "compare": 1 is a difference; a rest of zeros in the longer one is none.
    """
    try:
        run.run(
            compare_argv(a, b, format=format),
            why=f"compare '{b.name}' with '{a.name}'",
            timeout_s=timeout_s,
            log=log,
            watch=_Progress(log, note),
        )
    except ToolError as error:
        found = dict(error.details)
        if found["end"] != "exit 1":
            raise
        raise VerifyError(
            f"'{b.name}' does not hold the disk of '{a.name}'",
            details=[("command", found["command"]), ("output", found["output"])],
            log=log,
        ) from error


class _Progress:
    """Passes on the percentages that `-p` prints; they end in a carriage return, and the last one counts."""

    _PERCENT = re.compile(rb"\(([0-9.]+)/100%\)")

    def __init__(self, log: Path, note: Callable[[str], None]) -> None:
        self._log = log
        self._note = note
        self._said = ""

    def __call__(self) -> None:
        with self._log.open("rb") as stream:
            stream.seek(max(0, self._log.stat().st_size - 200))
            found = self._PERCENT.findall(stream.read())
        if found and (text := f"{float(found[-1]):.0f} %") != self._said:
            self._said = text
            self._note(text)


def _refuse_foreign(path: Path) -> None:
    """A qcow2 may name another file that holds its data, and qemu-img opens that: so it is seen to before qemu-img.

    So is the size, which its overlays take over. A guest that writes a raw disk can make it look like such a file,
    which is why `-f qcow2` is given as well.
    """
    header = _header(path)
    version, features = struct.unpack_from(">I", header, 4)[0], struct.unpack_from(">Q", header, 72)[0]
    if version < 3:
        raise _unfit(path, f"it is qcow2 version {version}; golden uses version 3")
    if features & _EXTERNAL_DATA_FILE:
        raise _unfit(path, "it keeps its data in another file (data-file)")
    _sane_size(path, struct.unpack_from(">Q", header, 24)[0])


def _sane_size(path: Path, size_bytes: int) -> int:
    if not 0 < size_bytes <= _LARGEST_BYTES or size_bytes % 512:
        raise _unfit(path, f"its virtual size makes no sense: {size_bytes} bytes")
    return size_bytes


def _header(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            header = stream.read(_HEADER_BYTES)
    except OSError as error:
        raise ToolError(f"could not read '{path}': {error.strerror}") from error
    if len(header) < _HEADER_BYTES or header[:4] != _MAGIC:
        raise _unfit(path, "it is not a qcow2 file")
    return header


def _unfit(path: Path, reason: str) -> VerifyError:
    return VerifyError(f"the image file '{path.name}' is not fit for use: {reason}", details=[("file", str(path))])

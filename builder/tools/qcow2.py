"""Headers of qcow2 files, read without any program: what one stands on; refused are those that reach outside."""

from __future__ import annotations

import struct
from pathlib import Path

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


def link(path: Path) -> Link:
    """What the file's header says that it stands on. Without a process: a clone's start asks it of each file.

    Raises VerifyError if it is no qcow2, or keeps its data in another file. Source: QEMU, docs/interop/qcow2.rst,
    "Header", "Header extensions".
    """
    refuse_foreign(path)
    with path.open("rb") as stream:
        start = stream.read(_LONGEST_HEADER_BYTES)
    offset, size = struct.unpack_from(">QI", start, 8)
    if not offset:
        return Link(path=path.absolute())
    if not size or offset + size > len(start):
        raise unfit(path, "the name of its backing file is not in its header")
    try:
        name = start[offset : offset + size].decode()
    except UnicodeDecodeError as error:
        raise unfit(path, "the name of its backing file is no text") from error
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
            raise unfit(above.path, f"its backing file is not a plain file: {above.backing_name}")
        if is_beside and "/" in (above.backing_name or ""):
            raise unfit(above.path, f"its backing file is not one beside it: {above.backing_name}")
        if above.backing_format != "qcow2":
            raise unfit(above.path, f"the format of its backing file is given as {above.backing_format}, not qcow2")
        if not backing.exists():
            raise unfit(above.path, f"its backing file is gone: {backing}")
        if len(found) == _LONGEST_CHAIN:
            raise unfit(path, f"its chain of backing files is longer than {_LONGEST_CHAIN}")
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


def alone(path: Path) -> int:
    """The virtual size in bytes of a qcow2 made by others, by its header alone: no program has opened it yet.

    Raises VerifyError if it is no qcow2, is encrypted, has no sane size, or names any other file.
    """
    header = _header(path)
    version, backing, size, crypt = (
        struct.unpack_from(kind, header, offset)[0] for kind, offset in ((">I", 4), (">Q", 8), (">Q", 24), (">I", 32))
    )
    if version not in (2, 3):
        raise unfit(path, f"it is qcow2 version {version}; there are 2 and 3")
    if backing:
        raise unfit(path, "it has a backing file; an image to import has to be whole by itself")
    if version == 3 and struct.unpack_from(">Q", header, 72)[0] & _EXTERNAL_DATA_FILE:
        raise unfit(path, "it keeps its data in another file (data-file)")
    if crypt:
        raise unfit(path, "it is encrypted")
    return _sane_size(path, size)


def refuse_foreign(path: Path) -> None:
    """A qcow2 may name another file that holds its data, and qemu-img opens that: so it is seen to before qemu-img.

    So is the size, which its overlays take over. A guest that writes a raw disk can make it look like such a file,
    which is why `-f qcow2` is given as well. Raises VerifyError.
    """
    header = _header(path)
    version, features = struct.unpack_from(">I", header, 4)[0], struct.unpack_from(">Q", header, 72)[0]
    if version < 3:
        raise unfit(path, f"it is qcow2 version {version}; golden uses version 3")
    if features & _EXTERNAL_DATA_FILE:
        raise unfit(path, "it keeps its data in another file (data-file)")
    _sane_size(path, struct.unpack_from(">Q", header, 24)[0])


def _sane_size(path: Path, size_bytes: int) -> int:
    if not 0 < size_bytes <= _LARGEST_BYTES or size_bytes % 512:
        raise unfit(path, f"its virtual size makes no sense: {size_bytes} bytes")
    return size_bytes


def _header(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            header = stream.read(_HEADER_BYTES)
    except OSError as error:
        raise ToolError(f"could not read '{path}': {error.strerror}") from error
    if len(header) < _HEADER_BYTES or header[:4] != _MAGIC:
        raise unfit(path, "it is not a qcow2 file")
    return header


def unfit(path: Path, reason: str) -> VerifyError:
    """The error, to be raised, of a file that golden will not work with."""
    return VerifyError(f"the image file '{path.name}' is not fit for use: {reason}", details=[("file", str(path))])

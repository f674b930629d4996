"""A machine's memory as a file that others map: saved without being written, gone on from without being read.

The first machine has its memory in the file; what QEMU saves is the state of its devices alone, half a megabyte. Those
that go on map the file privately: a page is read when it is touched, and copied when it is written. So a start costs
the same whatever the memory holds, and machines share what none of them changed.
Source: QEMU, docs/devel/migration, "x-ignore-shared"; kata-containers, virtcontainers/factory/template. QEMU 7.2.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from builder.errors import ToolError
from builder.tools.libvirt import Domain

_CAPABILITY = "x-ignore-shared"
_BLOCK_BYTES = 256 * 1024
_ZEROS = bytes(_BLOCK_BYTES)
_TIMEOUT_S, _POLL_S = 60, 0.005
_PIPE_BYTES = 64 * 1024


def make_file(file: Path, memory_mib: int, *, user: tuple[int, int] | None) -> None:
    """Room for a guest's memory, without taking any. user: whom QEMU runs as; None for the user who asks.

    It must be QEMU's to write: QEMU opens it so, even to map it privately. Raises ToolError.
    """
    try:
        file.touch(mode=0o600)
        os.truncate(file, memory_mib * 1024**2)
        if user is not None:
            os.chown(file, *user)
    except OSError as error:
        raise ToolError(f"could not make {file} QEMU's: {error.strerror}") from error


def prepare(domain: Domain) -> None:
    """Let what is saved, or gone on from, be without the memory that is a file. Raises ToolError if QEMU cannot."""
    _set(domain, True)


def save(domain: Domain, target: Path) -> None:
    """Stop the machine for good, and write the state of its devices to `target`. Raises ToolError."""
    domain.pause()
    try:
        with target.open("wb") as file:
            ours, theirs = os.pipe()
            with os.fdopen(ours, "rb", buffering=0) as stream:
                _hand(domain, theirs)
                domain.ask_qemu("migrate", uri="fd:golden")
                while piece := _once_ready(domain, stream, select.POLLIN).read(_PIPE_BYTES):
                    file.write(piece)
    except OSError as error:
        raise ToolError(f"could not write {target}: {error.strerror}") from error
    _wait(domain)


def load(domain: Domain, file: Path) -> None:
    """Give a machine that stands still, its memory mapped, the state that `save` wrote. Raises ToolError, OSError."""
    left = memoryview(file.read_bytes())
    prepare(domain)
    theirs, ours = os.pipe()
    os.set_blocking(ours, False)
    with os.fdopen(ours, "wb", buffering=0) as stream, contextlib.suppress(BrokenPipeError):
        _hand(domain, theirs)
        domain.ask_qemu("migrate-incoming", uri="fd:golden")
        while left:
            left = left[_once_ready(domain, stream, select.POLLOUT).write(left) or 0 :]
    _wait(domain)
    # From now on it is saved whole: what it wrote is in no file.
    _set(domain, False)


def checksum(memory: Path, *others: Path) -> int:
    """CRC-32 of a memory file and of other, whole ones; holes are not read, and count as the zeros that they are."""
    found = 0
    with memory.open("rb", buffering=0) as stream:
        for number in _blocks(stream.fileno()):
            block = os.pread(stream.fileno(), _BLOCK_BYTES, number * _BLOCK_BYTES)
            # Which zeros are a hole is the file system's to say, and to change.
            if block != _ZEROS[: len(block)]:
                found = zlib.crc32(block, zlib.crc32(number.to_bytes(8, "little"), found))
    for file in others:
        found = zlib.crc32(file.read_bytes(), found)
    return found


def _blocks(file: int) -> Iterator[int]:
    """Numbers of the blocks in which there is something. Source: lseek(2), SEEK_DATA."""
    end, number = os.fstat(file).st_size, 0
    while number * _BLOCK_BYTES < end:
        try:
            data = os.lseek(file, number * _BLOCK_BYTES, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing behind here
            return
        number = data // _BLOCK_BYTES
        hole = os.lseek(file, data, os.SEEK_HOLE)
        while number * _BLOCK_BYTES < hole:
            yield number
            number += 1


def _set(domain: Domain, is_on: bool) -> None:
    domain.ask_qemu("migrate-set-capabilities", capabilities=[{"capability": _CAPABILITY, "state": is_on}])


def _hand(domain: Domain, end: int) -> None:
    """QEMU gets one end of a pipe, and so needs no right to a path. Source: QEMU from 11 on refuses an open file."""
    try:
        domain.ask_qemu("getfd", file=end, fdname="golden")
    finally:
        os.close(end)


def _once_ready(domain: Domain, stream: IO[bytes], event: int) -> IO[bytes]:
    poll = select.poll()
    poll.register(stream, event)
    if not poll.poll(_TIMEOUT_S * 1000):
        raise ToolError(f"QEMU stands still with the state of the devices of '{domain.name}'")
    return stream


def _wait(domain: Domain) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while (found := domain.ask_qemu("query-migrate")).get("status") != "completed":
        if found.get("status") == "failed" or time.monotonic() > deadline:
            raise ToolError(
                f"the state of the devices of '{domain.name}' was not carried over",
                details=[("QEMU", found.get("error-desc") or str(found.get("status")))],
            )
        time.sleep(_POLL_S)

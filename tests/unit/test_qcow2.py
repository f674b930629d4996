"""Headers of disk images of others: what is read, and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from builder.errors import VerifyError
from builder.tools import qcow2
from builder.units import GIB


def header(**fields: int) -> bytes:
    """A qcow2 header of version 3 for a disk of 1 GiB; fields: offset name -> value."""
    data = bytearray(112)
    data[:4] = b"QFI\xfb"
    values = {"version": 3, "backing": 0, "size": GIB, "crypt": 0, "features": 0} | fields
    places = {"version": (">I", 4), "backing": (">Q", 8), "size": (">Q", 24), "crypt": (">I", 32)}
    for name, (kind, offset) in (places | {"features": (">Q", 72)}).items():
        struct.pack_into(kind, data, offset, values[name])
    return bytes(data)


@pytest.mark.parametrize("version", [2, 3])
def test_a_header_is_read(tmp_path: Path, version: int) -> None:
    (tmp_path / "x.qcow2").write_bytes(header(version=version))
    assert qcow2.alone(tmp_path / "x.qcow2") == GIB


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is not a qcow2 file"),
        (b"QFI\xfb", "it is not a qcow2 file"),
        (header(version=1), "it is qcow2 version 1; there are 2 and 3"),
        (header(backing=500), "it has a backing file; an image to import has to be whole by itself"),
        (header(version=2, backing=500), "it has a backing file; an image to import has to be whole by itself"),
        (header(features=4), "it keeps its data in another file (data-file)"),
        (header(crypt=2), "it is encrypted"),
        (header(size=0), "its virtual size makes no sense: 0 bytes"),
        (header(size=1000), "its virtual size makes no sense: 1000 bytes"),
        (header(size=2**62), f"its virtual size makes no sense: {2**62} bytes"),
    ],
)
def test_what_is_refused_before_any_program_opens_it(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x.qcow2").write_bytes(data)
    with pytest.raises(VerifyError) as caught:
        qcow2.alone(tmp_path / "x.qcow2")
    assert caught.value.what == f"the image file 'x.qcow2' is not fit for use: {message}"

"""qemu-img with small real chains: what is made, and what is refused."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.errors import ToolError, VerifyError
from builder.run import query
from builder.tools import qcow2, qemu_img
from tests.disks import SIZE, make_base, make_overlay, make_strange


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_base(tmp_path)


@pytest.fixture
def overlay(base: Path) -> Path:
    return make_overlay(base)


def test_an_overlay_stands_on_its_backing_file(base: Path, overlay: Path) -> None:
    found = qemu_img.info(overlay)
    assert (found.backing, found.backing_format, found.virtual_bytes) == (base, "qcow2", SIZE)
    assert [link.path for link in qcow2.chain(overlay)] == [overlay, base]
    qcow2.verify_chain(overlay, [base])
    qemu_img.check(overlay)


def test_a_compressed_layer_names_its_parent_by_file_name_and_holds_its_own_data_alone(
    base: Path, overlay: Path
) -> None:
    layer = base.with_name("layer-1.qcow2")
    qemu_img.convert_compressed(overlay, layer, backing=base.name, log=base.with_name("log"), timeout_s=60)
    found = qemu_img.info(layer)
    assert (found.backing_name, found.backing_format) == (base.name, "qcow2")
    assert (found.compression, found.cluster_bytes) == ("zstd", 65536)
    answer = query(["qemu-img", "map", "--output=json", layer], why="see what lies where")
    own = [part["length"] for part in json.loads(answer) if part["depth"] == 0 and part["data"]]
    assert own == [65536]
    query(["qemu-img", "compare", overlay, layer], why="compare the two")
    # Side by side in another folder, the pair is as good.
    elsewhere = base.parent.parent / "elsewhere"
    shutil.copytree(base.parent, elsewhere)
    qcow2.verify_chain(elsewhere / layer.name, [elsewhere / base.name])


def test_a_compressed_base_has_no_parent(base: Path) -> None:
    target = base.with_name("base-2.qcow2")
    qemu_img.convert_compressed(base, target, backing=None, log=base.with_name("log"), timeout_s=60)
    qcow2.verify_chain(target, [])


def test_a_disk_that_keeps_its_data_elsewhere_is_refused(base: Path) -> None:
    secret = base.with_name("secret.raw")
    path = make_strange(base.with_name("strange.qcow2"), "-o", f"data_file={secret}", str(SIZE))
    for look in (qemu_img.info, qemu_img.check):
        with pytest.raises(VerifyError, match=r"it keeps its data in another file \(data-file\)"):
            look(path)


def test_what_is_no_qcow2_of_version_3_is_refused(base: Path) -> None:
    old = make_strange(base.with_name("old.qcow2"), "-o", "compat=0.10", str(SIZE))
    with pytest.raises(VerifyError, match="it is qcow2 version 2; golden uses version 3"):
        qemu_img.info(old)
    for content in (b"", b"QFI\xfb", bytes(SIZE)):
        old.write_bytes(content)
        with pytest.raises(VerifyError, match=r"'old.qcow2' is not fit for use: it is not a qcow2 file"):
            qemu_img.info(old)
    with pytest.raises(ToolError, match=r"could not read '.*/gone.qcow2': No such file or directory"):
        qemu_img.info(base.with_name("gone.qcow2"))


# Of the header and of what it leads to: numbers that are small, wrong, or larger than anything.
NUMBERS = st.sampled_from([0, 1, 9, 21, 63, 512, 65536, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1])


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(fields=st.lists(st.tuples(st.integers(4, 140), st.sampled_from([1, 4, 8]), NUMBERS), min_size=1, max_size=4))
def test_a_header_of_any_numbers_is_taken_or_refused(base: Path, fields: list[tuple[int, int, int]]) -> None:
    """By the real qemu-img, in bounded time and with bounded memory, and it changes nothing in the file."""
    path = base.with_name("strange.qcow2")
    data = bytearray(base.read_bytes())
    for offset, length, number in fields:
        data[offset : offset + length] = (number % 2 ** (8 * length)).to_bytes(length, "big")
    path.write_bytes(data)
    for look in (qemu_img.check_alone, qcow2.chain, qemu_img.check):
        with contextlib.suppress(VerifyError, ToolError):
            look(path)
    assert path.read_bytes() == data
    # Besides the two, nothing is there: no data file, no backing file, no log.
    assert sorted(it.name for it in base.parent.iterdir()) == ["base-1.qcow2", "strange.qcow2"]


def test_a_corrupt_table_is_found_by_check(overlay: Path) -> None:
    # The first entry of the L1 table (its offset is at byte 40 of the header) leads far beyond the file's end.
    with overlay.open("r+b") as stream:
        stream.seek(40)
        table = int.from_bytes(stream.read(8), "big")
        stream.seek(table)
        stream.write((0x8000_0000_0000_0000 | (1 << 40)).to_bytes(8, "big"))
    with pytest.raises(VerifyError, match=r"'overlay.qcow2' is not fit for use: \d+ corruptions"):
        qemu_img.check(overlay)


def test_one_that_says_it_made_an_overlay_and_did_not_is_found_out(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.which("qemu-img")
    liar = tmp_path / "bin" / "qemu-img"
    liar.parent.mkdir()
    # Leaves "-F qcow2 -b BACKING" out, and is content.
    liar.write_text(f'#!/bin/sh\n[ "$1" = create ] && exec {real} create -q -f qcow2 "$9" 8M\nexec {real} "$@"\n')
    liar.chmod(0o755)
    monkeypatch.setenv("PATH", f"{liar.parent}:{os.environ['PATH']}")
    with pytest.raises(VerifyError, match=r"'x.qcow2' is not fit for use: it was to stand on .*base-1.qcow2"):
        qemu_img.create_overlay(tmp_path / "x.qcow2", base)

"""Headers of small real qcow2 files: which chains are read, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from builder.errors import VerifyError
from builder.run import query
from builder.tools import qcow2, qemu_img
from tests.disks import SIZE, make_base, make_overlay, make_strange


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_base(tmp_path)


@pytest.fixture
def overlay(base: Path) -> Path:
    return make_overlay(base)


def test_another_parent_than_expected_is_refused(base: Path, overlay: Path) -> None:
    other = shutil.copy(base, base.with_name("other.qcow2"))
    with pytest.raises(VerifyError, match=r"'overlay.qcow2' does not stand on the files that it should") as caught:
        qcow2.verify_chain(overlay, [Path(other)])
    assert ("found", str(base)) in caught.value.details
    with pytest.raises(VerifyError, match=r"'overlay.qcow2' does not stand"):
        qcow2.verify_chain(overlay, [])


def test_a_parent_that_is_gone_is_named(base: Path, overlay: Path) -> None:
    base.unlink()
    with pytest.raises(VerifyError, match=r"its backing file is gone: .*/base-1.qcow2"):
        qcow2.chain(overlay)


def test_a_parent_of_another_format_is_refused(base: Path) -> None:
    raw = base.with_name("disk.raw")
    raw.write_bytes(bytes(SIZE))
    path = make_strange(base.with_name("strange.qcow2"), "-F", "raw", "-b", raw, str(SIZE))
    with pytest.raises(VerifyError, match="the format of its backing file is given as raw, not qcow2"):
        qcow2.chain(path)


def test_a_parent_whose_format_qemu_would_have_to_guess_is_refused(overlay: Path) -> None:
    # The header's extension that gives the format becomes one that nobody knows.
    content = overlay.read_bytes()
    overlay.write_bytes(content.replace(b"\xe2\x79\x2a\xca", b"\x12\x34\x56\x78", 1))
    with pytest.raises(VerifyError, match="the format of its backing file is given as None, not qcow2"):
        qcow2.chain(overlay)


@pytest.mark.parametrize(
    "name",
    [
        "nbd://127.0.0.1:1/x",
        "http://127.0.0.1:1/x",
        "ssh://root@127.0.0.1:1/x",
        'json:{"driver":"file","filename":"/etc/passwd"}',
        "fat:rw:/etc",
    ],
)
def test_a_parent_that_is_no_plain_file_is_never_opened(base: Path, name: str) -> None:
    path = make_strange(base.with_name("strange.qcow2"), "-u", "-F", "qcow2", "-b", name, str(SIZE))
    with pytest.raises(VerifyError, match="its backing file is not a plain file"):
        qcow2.chain(path)


@pytest.mark.parametrize("name", ["{base}", "../a b:c/base-1.qcow2", "./base-1.qcow2"])
def test_an_images_parent_lies_beside_it_or_is_never_opened(base: Path, name: str) -> None:
    """A good image elsewhere, even: nothing of a file of golden's leads out of its folder."""
    path = make_strange(base.with_name("strange.qcow2"), "-u", "-F", "qcow2", "-b", name.format(base=base), str(SIZE))
    assert len(qcow2.chain(path)) == 2
    base.chmod(0)
    base.unlink()
    base.mkdir()  # whoever opens this fails in another way
    with pytest.raises(VerifyError, match="its backing file is not one beside it"):
        qcow2.chain(path, is_beside=True)


@pytest.mark.parametrize("size", [0, 1000, 16 * 1024**4 + 512, 2**63 - 512, 2**64 - 512])
def test_a_disk_that_says_it_is_huge_is_refused_before_qemu_looks(
    base: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with base.open("r+b") as stream:
        stream.seek(24)
        stream.write(size.to_bytes(8, "big"))
    monkeypatch.setenv("PATH", str(base.parent))  # without any program
    for look in (qemu_img.info, qcow2.chain, qemu_img.check, qcow2.alone, qemu_img.check_alone):
        with pytest.raises(VerifyError, match=rf"its virtual size makes no sense: {size} bytes"):
            look(base)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (8, (2**40).to_bytes(8, "big"), "the name of its backing file is not in its header"),
        (16, bytes(4), "the name of its backing file is not in its header"),
        (16, (2**31).to_bytes(4, "big"), "the name of its backing file is not in its header"),
        (8, (0).to_bytes(7, "big") + b"\1", "the name of its backing file is no text"),
        (100, (2**31).to_bytes(4, "big"), "the format of its backing file is given as None"),
    ],
)
def test_a_damaged_header_is_an_error_and_never_followed(overlay: Path, place: int, value: bytes, message: str) -> None:
    with overlay.open("r+b") as file:
        file.seek(place)
        file.write(value)
    with pytest.raises(VerifyError, match=message):
        qcow2.chain(overlay)


def test_a_chain_that_goes_in_a_circle_ends(base: Path, overlay: Path) -> None:
    query(["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", overlay, base], why="close the circle")
    with pytest.raises(VerifyError, match="its chain of backing files is longer than 64"):
        qcow2.chain(overlay)

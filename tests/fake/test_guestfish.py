"""guestfish that fails or lies: a fake one, all else is real."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.errors import ToolError, VerifyError
from builder.tools import guestfish
from builder.tools.guestfish import Layout, Partition
from builder.units import GIB
from tests.fake.conftest import Fake

LAYOUT = Layout(
    table="gpt",
    partitions=(Partition(number=1, begin=1024**2, end=GIB - 1),),
    file_systems={"/dev/sda1": "xfs"},
)


def grow() -> None:
    guestfish.grow(Path("disk.qcow2"), LAYOUT, 2 * GIB, is_kvm=True, time_factor=1)


def test_a_file_system_that_libguestfs_does_not_have_is_named_with_its_package(fake: Fake) -> None:
    fake(
        "guestfish",
        "printf \"libguestfs: error: xfs_growfs: feature 'xfs' is not available in this\\nbuild of libguestfs.\" >&2; "
        "exit 1",
    )
    with pytest.raises(ToolError, match="could not grow the last partition of the image") as caught:
        grow()
    assert caught.value.try_next is not None
    assert caught.value.try_next.endswith(" install libguestfs-xfs")


@pytest.mark.parametrize("answer", ["", "blocks: 200000\\nfrsize: 4096\\n"])
def test_all_ended_well_and_nothing_grew(fake: Fake, answer: str) -> None:
    fake("guestfish", f"printf '{answer}'")
    with pytest.raises(VerifyError, match="all commands ended well, and the file system did not grow: "):
        grow()


def test_a_file_system_that_grew_is_enough(fake: Fake) -> None:
    fake("guestfish", "printf 'bsize: 4096\\nfrsize: 4096\\nblocks: 520000\\n'")
    grow()

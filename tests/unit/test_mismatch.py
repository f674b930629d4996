"""A clone boots although memory of its image is saved: the word that says what differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builder.clones import mismatch, saved
from builder.clones.leases import Lease
from builder.clones.saved import Circumstances, Saved
from builder.model import ImageId
from builder.tools.domain import Nic

HERE = Circumstances(
    image="a" * 64,
    qemu="8.2.2",
    libvirt="10.0.0",
    machine="q35",
    accelerator="kvm",
    cpu="c0ffee",
    host="beef",
    kernel="6.1",
    firmware="bios",
    memory_mib=1024,
    cpus=2,
    agent="abc",
)


def keep(state: Path, **differing: Any) -> None:
    """Memory of the image, saved in other circumstances."""
    circumstances = HERE.model_copy(update=differing)
    place = saved.folder(state) / circumstances.key
    place.mkdir(parents=True)
    found = Saved(
        circumstances=circumstances,
        stem="demo-base-20261121.1",
        pins=(),
        mac="52:54:00:00:00:01",
        cold_s=20,
        host_keys=(),
        size_bytes=1,
        memory_crc32=1,
        made="2026-11-21T00:00:00Z",
    )
    (place / "warm.json").write_text(found.model_dump_json())


def lease(**differing: Any) -> Lease:
    return Lease(
        name="web1",
        image=ImageId(image="demo-base", version="20261121.1", sha256="a" * 64),
        files=(),
        uuid="f7c5d6f2-57a6-4d2c-a1f5-4f8d7e7b2c11",
        uri="qemu:///system",
        memory_mib=1024,
        cpus=2,
        accelerator="kvm",
        ssh_port=2222,
        key=None,
        made="2026-11-21T00:00:00Z",
    ).model_copy(update=differing)


@pytest.mark.parametrize(
    ("differing", "word"),
    [
        ({"qemu": "8.2.1"}, "QEMU 8.2.1 → 8.2.2"),
        ({"libvirt": "9.0.0"}, "libvirt 9.0.0 → 10.0.0"),
        ({"kernel": "6.0"}, "kernel 6.0 → 6.1"),
        ({"machine": "pc"}, "machine type pc → q35"),
        ({"accelerator": "tcg"}, "accelerator tcg → kvm"),
        ({"firmware": "uefi"}, "firmware uefi → bios"),
        ({"memory_mib": 2048}, "memory 2048 → 1024 MiB"),
        ({"cpus": 4}, "CPUs 4 → 2"),
        ({"cpu": "decaf"}, "another processor"),
        ({"host": "food"}, "another host"),
        ({"agent": "def"}, "another golden"),
        ({"kernel": "6.0", "memory_mib": 512}, "kernel 6.0 → 6.1, memory 512 → 1024 MiB"),
    ],
)
def test_what_differs_is_named(tmp_path: Path, differing: dict[str, Any], word: str) -> None:
    keep(tmp_path, **differing)
    assert saved.find(tmp_path, HERE) is None
    found = mismatch.explain(lease(), HERE, state=tmp_path)
    assert found == f"memory of demo-base-20261121.1 is saved, but it does not fit: {word}"


def test_every_circumstance_has_a_word() -> None:
    assert {"image", *mismatch._SHOWN} == set(Circumstances.model_fields)


def test_of_several_the_most_alike_is_named(tmp_path: Path) -> None:
    keep(tmp_path, kernel="6.0", qemu="8.0", cpus=1)
    keep(tmp_path, cpus=4)
    keep(tmp_path, kernel="5.9", cpus=3)
    assert str(mismatch.explain(lease(), HERE, state=tmp_path)).endswith("it does not fit: CPUs 4 → 2")


@pytest.mark.parametrize(
    ("differing", "word"),
    [
        ({"nics": (Nic(), Nic(kind="lan", source="x"))}, "it has other network cards than the one in user mode"),
        ({"extra_disks": (1,)}, "it has extra disks or a seed"),
        ({"has_seed": True}, "it has extra disks or a seed"),
    ],
)
def test_a_machine_that_no_memory_fits_is_told_where_there_is_one(
    tmp_path: Path, differing: dict[str, Any], word: str
) -> None:
    assert mismatch.explain(lease(**differing), HERE, state=tmp_path) is None
    keep(tmp_path)
    found = mismatch.explain(lease(**differing), HERE, state=tmp_path)
    assert found == f"memory of demo-base-20261121.1 is saved, but {word}"


def test_memory_of_other_images_and_what_cannot_be_read_is_no_reason_for_a_word(tmp_path: Path) -> None:
    keep(tmp_path, image="b" * 64)
    keep(tmp_path, cpus=4)
    (saved.folder(tmp_path) / HERE.model_copy(update={"cpus": 4}).key / "warm.json").write_text("{")
    assert mismatch.explain(lease(), HERE, state=tmp_path) is None

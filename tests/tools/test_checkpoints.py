"""Checkpoints as real qcow2 files: what is sealed is the same with and without them, and a rewind forgets the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder import seal
from builder.checkpoints import FILE, Checkpoint, Record, Trail, left, left_of
from builder.model import Build
from builder.run import query
from builder.store import Store
from builder.tools import qemu_img

KIB = 1024


def write(disk: Path, pattern: int, *, at_kib: int, kib: int = 64) -> None:
    query(["qemu-io", "-c", f"write -q -P {pattern} {at_kib * KIB} {kib * KIB}", disk], why="write as a guest does")


def trim(disk: Path, *, at_kib: int, kib: int = 64) -> None:
    query(["qemu-io", "-d", "unmap", "-c", f"discard -q {at_kib * KIB} {kib * KIB}", disk], why="trim as a guest does")


def reads(disk: Path, pattern: int, *, at_kib: int, kib: int = 64) -> bool:
    """Whether that part of the disk is all of one byte."""
    said = query(["qemu-io", "-r", "-c", f"read -P {pattern} {at_kib * KIB} {kib * KIB}", disk], why="r", ok=(0, 1))
    return "verification failed" not in said


@pytest.fixture
def trail(store: Store, chain: dict[str, Build]) -> Trail:
    """A build of a child of sandbox-upgrade under way, nothing written yet."""
    work = store.workspace("sandbox-app", "20261121.1")
    found = Trail(
        work, Record(image="sandbox-app", version="20261121.1", parent=chain["sandbox-upgrade"].id, inputs={"a": "b"})
    )
    qemu_img.create_overlay(found.top, store.qcow2(chain["sandbox-upgrade"]))
    return found


def grow(trail: Trail, after: int) -> None:
    trail.mark(after)
    qemu_img.create_overlay(trail.next, trail.top)
    trail.grow()


def test_with_checkpoints_or_without_the_same_is_sealed(store: Store, chain: dict[str, Build], trail: Trail) -> None:
    """Written, written over, trimmed, in every file of the chain; the parent's data too."""
    parents = [store.qcow2(build) for build in store.chain(chain["sandbox-upgrade"])]
    plain = trail.work / "plain.qcow2"
    qemu_img.create_overlay(plain, parents[0])

    for number, work in enumerate(
        (
            lambda disk: (write(disk, 1, at_kib=1024, kib=512), write(disk, 2, at_kib=2048)),
            lambda disk: (write(disk, 3, at_kib=1088), trim(disk, at_kib=2048), trim(disk, at_kib=0)),
            lambda disk: (trim(disk, at_kib=1152), write(disk, 4, at_kib=3072)),
        ),
        1,
    ):
        work(plain)
        work(trail.top)
        if number < 3:
            grow(trail, number)
    trail.mark(3, is_sealed=True)
    assert len(trail.below) == 2

    trail.is_to_be_merged()
    qemu_img.merge(trail.top, trail.work / "disk.qcow2", log=trail.work / "log", timeout_s=60)
    trail.is_merged()
    assert sorted(path.name for path in trail.work.glob("disk*")) == ["disk.qcow2"]
    sealed = {}
    for name, disk in (("plain", plain), ("merged", trail.top)):
        target = store.images / f".{name}.qcow2.part"
        sealed[name] = seal.compress(disk, target, parents=parents, log=trail.work / "log", timeout_s=60)
    compared = ["qemu-img", "compare", store.images / ".plain.qcow2.part", store.images / ".merged.qcow2.part"]
    assert "Images are identical." in query(compared, why="compare")
    assert sealed["merged"].size_bytes <= sealed["plain"].size_bytes + 64 * KIB


def test_without_the_merge_what_lies_between_would_be_lost(store: Store, chain: dict[str, Build], trail: Trail) -> None:
    """Why `merge` is needed: if this fails one day, qemu-img has learnt to take the whole chain."""
    write(trail.top, 5, at_kib=1024)
    grow(trail, 1)
    write(trail.top, 6, at_kib=2048)
    target = store.images / ".x.qcow2.part"
    parent = store.qcow2(chain["sandbox-upgrade"]).name
    qemu_img.convert_compressed(trail.top, target, backing=parent, log=trail.work / "log", timeout_s=60)
    assert reads(target, 6, at_kib=2048)
    assert not reads(target, 5, at_kib=1024)


def test_a_rewind_forgets_what_came_after(store: Store, trail: Trail) -> None:
    write(trail.top, 1, at_kib=1024)
    grow(trail, 1)
    write(trail.top, 2, at_kib=1024)
    grow(trail, 2)
    write(trail.top, 3, at_kib=1024)
    trail.keep()

    (found,) = left(store)
    assert found.record == trail.record
    assert found.is_whole
    first = found.record.checkpoints[0]
    found.rewind(first, inputs={"c": "d"})
    assert found.record.inputs == {"c": "d"}
    assert found.last == Checkpoint(after=1, disk="disk.qcow2")
    assert sorted(path.name for path in trail.work.glob("disk*")) == ["disk.qcow2"]
    assert reads(found.top, 1, at_kib=1024)
    qemu_img.create_overlay(found.next, found.top)
    found.grow()
    assert [path.name for path in (found.top, *found.below)] == ["disk.1.qcow2", "disk.qcow2"]
    assert found.chain_of(first) == [trail.work / "disk.qcow2"]


def test_a_later_state_after_the_same_step_replaces_the_earlier(trail: Trail) -> None:
    grow(trail, 1)
    trail.mark(1, is_prepared=True)
    assert trail.record.checkpoints == (Checkpoint(after=1, disk="disk.1.qcow2", is_prepared=True),)
    trail.mark(1, is_sealed=True)
    assert [it.is_sealed for it in trail.record.checkpoints] == [False, True]


def test_after_a_crash_of_the_host_only_what_was_synced_counts(store: Store, trail: Trail) -> None:
    grow(trail, 1)
    assert trail.is_whole
    rebooted = trail.record.model_copy(update={"boot": "another"})
    assert not Trail(trail.work, rebooted).is_whole
    assert Trail(trail.work, rebooted.model_copy(update={"is_synced": True})).is_whole
    (trail.work / "disk.qcow2").unlink()
    assert not trail.is_whole


@pytest.mark.parametrize("text", ["", "{", json.dumps({"image": "x"})])
def test_a_damaged_record_is_none(store: Store, trail: Trail, text: str) -> None:
    grow(trail, 1)
    (trail.work / FILE).write_text(text)
    assert left(store) == []
    assert left_of(store, "sandbox-app") is None

"""A build counts only with the very file that was built; looking at it again costs nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder.digests import Artifacts
from builder.errors import VerifyError
from builder.model import Build
from builder.store import Store, sha256
from tests.builds import make_build


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path, "demo")
    found.images.mkdir(parents=True)
    return found


@pytest.fixture
def build(store: Store) -> Build:
    file = store.images / "a-base-20261121.1.qcow2"
    file.write_text("an image")
    found = make_build("a-base", digest=sha256(file), size_bytes=file.stat().st_size)
    store.facts(found).write_text(found.model_dump_json())
    return found


def test_a_file_is_read_once(store: Store, build: Build) -> None:
    said: list[str] = []
    first = Artifacts(store, note=said.append)
    assert first.fault(build) == ""
    first.save()
    assert said == ["reading a-base-20261121.1.qcow2: it is not known by its inode and times"]
    os.link(store.qcow2(build), store.images / "a-link-of-a-package")
    assert Artifacts(store, note=said.append).fault(build) == ""
    assert len(said) == 1


def test_what_was_just_built_is_not_read_at_all(store: Store, build: Build) -> None:
    Artifacts(store).remember(build)
    said: list[str] = []
    assert Artifacts(store, note=said.append).fault(build) == ""
    assert said == []


def test_another_file_does_not_count(store: Store, build: Build) -> None:
    Artifacts(store).remember(build)
    file = store.qcow2(build)
    file.write_text("an imagE")
    assert Artifacts(store).fault(build) == "the file of 20261121.1 was changed after it was built"
    file.write_text("longer than it was")
    assert Artifacts(store).fault(build) == "the file of 20261121.1 was changed after it was built"
    file.unlink()
    assert Artifacts(store).fault(build) == "the file of 20261121.1 is gone"


def test_a_copy_of_the_same_bytes_counts(store: Store, build: Build) -> None:
    Artifacts(store).remember(build)
    file = store.qcow2(build)
    other = file.with_suffix(".copy")
    other.write_bytes(file.read_bytes())
    other.replace(file)
    assert Artifacts(store).fault(build) == ""


def test_a_change_that_the_file_system_does_not_show_is_found_before_anything_stands_on_it(
    store: Store, build: Build
) -> None:
    Artifacts(store).remember(build)
    file = store.qcow2(build)
    times = file.stat()
    file.write_text("an imagE")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert Artifacts(store).fault(build) == ""
    with pytest.raises(VerifyError, match=r"'a-base-20261121\.1' was changed after it was built"):
        store.verify(build)


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_damaged_memory_costs_reading(store: Store, build: Build, text: str) -> None:
    (store.root / "artifacts.json").write_text(text)
    assert Artifacts(store).fault(build) == ""

"""The store: what makes a build, what does not, and what is never touched."""

from __future__ import annotations

import fcntl
import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from builder.digests import Artifacts, remembered_sha256
from builder.errors import ConfigError, HostError, VerifyError
from builder.locks import lock
from builder.model import Build, ImageId
from builder.store import Store, is_stem_of, read_build, sha256, write_atomically
from tests.builds import make_build

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state", "trial")


def commit(store: Store, image: str, version: str = "20261121.1", parent: ImageId | None = None) -> Build:
    """A build whose disk is a few bytes of its own name, committed as the pipeline does."""
    work = store.workspace(image, version)
    disk, packages, logs = work / "disk", work / "packages", work / "logs"
    disk.write_text(f"{image} {version}")
    packages.write_text("bash-5-1.x86_64\n")
    logs.mkdir()
    (logs / "console.log").write_text("hello\n")
    build = make_build(image, version=version, parent=parent, digest=sha256(disk), size_bytes=disk.stat().st_size)
    store.commit(build, disk=disk, packages=packages, logs=logs)
    work.rmdir()
    return build


def test_a_committed_build_is_found_again(store: Store) -> None:
    build = commit(store, "a-base")
    assert store.builds() == [build]
    assert store.find("a-base") == build
    assert store.find("a-base", "20261121.1") == build
    assert Artifacts(store).fault(build) == ""
    assert store.qcow2(build).stat().st_mode & 0o777 == 0o444
    assert (store.logs / build.stem / "console.log").read_text() == "hello\n"
    store.verify(build)


def test_the_newest_is_by_number_and_not_by_letter(store: Store) -> None:
    for count in (9, 10, 2):
        commit(store, "a-base", f"20261121.{count}")
    newest = store.newest("a-base")
    assert newest is not None
    assert newest.version == "20261121.10"


@pytest.mark.parametrize(
    ("image", "version", "message"),
    [
        ("a-base", "20261121.7", "there is no build 20261121.7 of 'a-base'; there are 20261121.1"),
        ("b-base", None, "there is no build of 'b-base' yet"),
    ],
)
def test_what_is_not_there_is_said_so(store: Store, image: str, version: str | None, message: str) -> None:
    commit(store, "a-base")
    with pytest.raises(ConfigError, match=message):
        store.find(image, version)


def test_a_flipped_byte_is_found_and_the_file_named(store: Store) -> None:
    base = commit(store, "a-base")
    child = commit(store, "a-app", parent=base.id)
    disk = store.qcow2(base)
    data = bytearray(disk.read_bytes())
    data[3] ^= 1
    disk.chmod(0o644)
    disk.write_bytes(data)
    with pytest.raises(VerifyError, match=r"'a-base-20261121\.1' was changed after it was built") as caught:
        store.verify(child)
    assert ("file", str(disk)) in caught.value.details
    assert caught.value.exit_code == 5


def test_a_parent_that_is_gone_is_named(store: Store) -> None:
    base = commit(store, "a-base")
    child = commit(store, "a-app", parent=base.id)
    store.facts(base).unlink()
    with pytest.raises(VerifyError, match=r"'a-app-20261121\.1' stands on 'a-base-20261121\.1', which is gone"):
        store.chain(child)


@pytest.mark.parametrize("text", ["", "{}", "{", "[]", '{"format": 2}', "\0"])
def test_damaged_facts_are_refused(store: Store, text: str) -> None:
    store.images.mkdir(parents=True)
    path = store.images / "a-base-20261121.1.json"
    path.write_text(text)
    with pytest.raises(VerifyError, match="the facts of a build are damaged"):
        read_build(path)


def test_what_has_no_facts_is_no_build_and_is_swept(store: Store) -> None:
    build = commit(store, "a-base")
    half = [
        store.images / name for name in ("a-app-20261121.1.qcow2", ".a-app-20261121.1.qcow2.part", ".x.json.7.part")
    ]
    for path in half:
        path.write_text("half")
    assert store.builds() == [build]
    assert sorted(store.remove_orphans()) == sorted(half)
    assert Artifacts(store).fault(build) == ""
    assert store.package_list(build).exists()


def test_versions_go_up(store: Store) -> None:
    assert store.next_version("a-base", now=NOON) == "20261121.1"
    commit(store, "a-base", "20261121.1")
    assert store.next_version("a-base", now=NOON) == "20261121.2"
    assert store.next_version("a", now=NOON) == "20261121.1"


def test_versions_go_up_when_the_clock_goes_back(store: Store) -> None:
    commit(store, "a-base", "20271231.3")
    assert store.next_version("a-base", now=NOON) == "20271231.4"


def test_what_a_failed_build_left_is_kept_until_the_next(store: Store) -> None:
    work = store.workspace("a-base", "20261121.1")
    (work / "disk.qcow2").write_text("x")
    other = store.workspace("a-base-two", "20261121.1")
    assert store.next_version("a-base", now=NOON) == "20261121.2"
    store.discard_failed("a-base")
    assert not work.exists()
    assert other.exists()


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        ("a-b-20261121.1", "a-b", True),
        ("a-b-20261121.1", "a", False),
        ("a-b", "a-b", False),
        ("20261121.1", "a", False),
        ("a-b-20261121.01", "a-b", False),
    ],
)
def test_stems(name: str, image: str, expected: bool) -> None:
    assert is_stem_of(name, image) is expected


def hold(path: Path, ready: object, done: object) -> None:
    with lock(path, what="x"):
        ready.set()  # type: ignore[attr-defined]
        done.wait(20)  # type: ignore[attr-defined]


def test_a_lock_that_is_taken_names_its_holder_and_goes_with_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path / "lock", ready, done))
    process.start()
    assert ready.wait(20)
    with (
        pytest.raises(HostError, match="could not lock the store: another golden is at work") as caught,
        lock(tmp_path / "lock", what="the store"),
    ):
        pass
    assert f"pid {process.pid} since" in dict(caught.value.details)["holder"]
    process.kill()
    process.join()
    with lock(tmp_path / "lock", what="the store"):
        assert f"pid {multiprocessing.current_process().pid} since" in (tmp_path / "lock").read_text()


def test_an_interrupted_write_leaves_the_old_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    write_atomically(path, "old")

    def interrupt(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_remembered_digest_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.iso"
    path.write_text("one")
    first = remembered_sha256(path, state=tmp_path)
    assert first == sha256(path) == remembered_sha256(path, state=tmp_path)
    path.write_text("two")
    assert remembered_sha256(path, state=tmp_path) == sha256(path) != first


def test_a_damaged_memory_of_digests_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "x.iso"
    path.write_text("one")
    remembered_sha256(path, state=tmp_path)
    (tmp_path / "host" / "digests.json").write_text("{")
    assert remembered_sha256(path, state=tmp_path) == sha256(path)


def test_threads_that_write_the_same_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    texts = [f"{number}\n" * 1000 for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: write_atomically(path, text), texts))
    assert path.read_text() in texts
    assert [*tmp_path.iterdir()] == [path]


def test_a_lock_that_a_program_about_to_start_still_has_comes_free(tmp_path: Path) -> None:
    """Between fork and exec it has the files of all threads."""
    path = tmp_path / "lock"
    with lock(path, what="a trial"):
        pass
    held = path.open("r")
    fcntl.flock(held, fcntl.LOCK_EX)
    threading.Timer(0.3, held.close).start()
    with lock(path, what="a trial"):
        assert held.closed

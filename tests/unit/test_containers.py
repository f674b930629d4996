"""Processes whose number says nothing here: those of a container that shares a folder with its host."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import locks, transient
from builder.clones.leases import Owner, this_process
from builder.store import write_atomically

NOBODY = 2**22 + 1  # above all numbers that the kernel gives: it is somebody in another container

OWNER = """
import sys
from builder.clones.leases import this_process
print(this_process().model_dump_json(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def contained() -> Iterator[tuple[Owner, subprocess.Popen[str]]]:
    """The first process of another pid namespace, as it says who it is; it ends when its input does."""
    argv = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-c", OWNER]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Owner.model_validate_json(process.stdout.readline()), process
        process.kill()


def test_the_host_sees_whether_an_owner_in_a_container_is_alive(
    contained: tuple[Owner, subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, process = contained
    monkeypatch.setattr(sys.modules[Owner.__module__], "_HOST", Path("/proc/self/ns/pid").stat().st_ino)
    assert owner.pid == 1
    assert owner.is_alive()
    assert not owner.model_copy(update={"start": owner.start + 1}).is_alive()
    process.communicate()
    assert not owner.is_alive()


def test_a_container_does_not_believe_that_an_owner_in_another_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    here = this_process()
    elsewhere = here.model_copy(update={"pid": NOBODY, "container": 1})
    monkeypatch.setattr(sys.modules[Owner.__module__], "_HOST", 2)
    assert elsewhere.is_alive()
    # After a reboot nobody is.
    assert not elsewhere.model_copy(update={"boot": "another"}).is_alive()
    assert not elsewhere.model_copy(update={"container": here.container}).is_alive()


def test_the_owner_of_an_earlier_golden_has_no_container() -> None:
    here = this_process()
    assert here.model_copy(update={"container": None}).is_alive()
    assert not here.model_copy(update={"container": None, "pid": NOBODY}).is_alive()


def test_a_folder_that_is_held_stays_whoever_its_number_names(tmp_path: Path) -> None:
    held, left = tmp_path / f"x-{NOBODY}-1", tmp_path / f"x-{NOBODY}-2"
    held.mkdir()
    left.mkdir()
    ended: list[Path] = []
    with locks.held(held), transient.folder("x", parent=tmp_path, end=ended.append) as mine:
        assert {held, mine} == set(tmp_path.iterdir())
        assert locks.is_held(mine)
    assert ended == [left, mine]
    with transient.folder("x", parent=tmp_path, end=lambda _: None):
        assert not held.exists()


def test_a_text_that_another_is_writing_stays(tmp_path: Path) -> None:
    held, left = tmp_path / f".x.json.{NOBODY}.1.part", tmp_path / f".x.json.{NOBODY}.2.part"
    held.touch()
    left.touch()
    with locks.held(held):
        write_atomically(tmp_path / "x.json", "{}\n")
    assert {path.name for path in tmp_path.iterdir()} == {"x.json", held.name}

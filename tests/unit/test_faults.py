"""Faults on demand, and what the system refuses, as people are told of it."""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from builder import faults
from builder.channels import compose as composes
from builder.errors import HostError, host_error, host_errors_told
from builder.store import Store, write_atomically
from tests.builds import make_build


@pytest.fixture(autouse=True)
def nothing_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "_seen", Counter())


def test_nothing_happens_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(faults.VARIABLE, raising=False)
    faults.place("file.named")
    monkeypatch.setenv(faults.VARIABLE, "build.disk:enospc")
    faults.place("file.named")


def test_an_error_comes_at_the_place_and_the_time_that_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(faults.VARIABLE, "build.disk#2:enospc")
    faults.place("build.disk")
    with pytest.raises(OSError, match="No space left on device"):
        faults.place("build.disk")
    faults.place("build.disk")


def test_a_signal_comes_to_whom_it_was_meant_for(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda process, number: sent.append((process, number)))
    for wanted in ("a:kill", "b:term@child", "c:int@4711"):
        monkeypatch.setenv(faults.VARIABLE, wanted)
        faults.place(wanted[0], child=12)
    assert sent == [(os.getpid(), signal.SIGKILL), (12, signal.SIGTERM), (4711, signal.SIGINT)]


def test_a_trace_names_all_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(faults.VARIABLE, f"trace:{tmp_path / 'trace'}")
    for name in ("file.aside", "file.named"):
        faults.place(name)
    assert (tmp_path / "trace").read_text() == "file.aside\nfile.named\n"


@pytest.mark.parametrize("text", ["build.disk", "build.disk:", "build disk:kill", ":kill", "a:kill@somebody"])
def test_what_is_no_fault_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(faults.VARIABLE, text)
    with pytest.raises(ValueError, match="is no fault"):
        faults.place("a")


def test_a_full_disk_is_this_machines_and_says_how_to_make_room() -> None:
    told = host_error(OSError(errno.ENOSPC, "No space left on device", "/srv/golden/x"))
    assert told is not None
    assert (told.exit_code, told.what) == (3, "could not use /srv/golden/x: No space left on device")
    assert "golden collect" in str(told.try_next)


def test_what_is_not_the_machines_stays_a_bug() -> None:
    assert host_error(FileNotFoundError(errno.ENOENT, "No such file", "/x")) is None
    with pytest.raises(FileNotFoundError), host_errors_told():
        raise FileNotFoundError(errno.ENOENT, "No such file", "/x")
    with pytest.raises(HostError, match="this machine refused to go on: Too many open files"), host_errors_told():
        raise OSError(errno.EMFILE, "Too many open files")


def test_a_work_folder_whose_build_is_whole_goes(tmp_path: Path) -> None:
    """Gone on from, it would put other bytes under a version that is taken."""
    store = Store(tmp_path, "demo")
    build = make_build("sandbox-app")
    finished, failed = (store.workspace("sandbox-app", version) for version in (build.version, "20261121.2"))
    write_atomically(store.facts(build), build.model_dump_json())
    assert store.remove_finished() == [finished]
    assert failed.is_dir() and not finished.exists()


def test_what_a_killed_golden_left_of_a_file_goes_with_the_next_one(tmp_path: Path) -> None:
    dead, alive, other = (
        tmp_path / f".{it}.part" for it in ("a.json.999999999.1", f"a.json.{os.getpid()}.1", "b.json.1")
    )
    for path in (dead, alive, other):
        path.touch()
    write_atomically(tmp_path / "a.json", "{}")
    assert sorted(tmp_path.iterdir()) == sorted([alive, other, tmp_path / "a.json"])


def test_a_channel_that_was_being_removed_is_none(tmp_path: Path) -> None:
    """What collecting put aside before it was killed still has a mirrorlist, and no compose that it names."""
    for name in ("candidate", ".x-private.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mirrorlist").touch()
    assert composes.names(tmp_path) == ["candidate"]


def test_a_lock_is_had_where_there_is_no_room_to_sign_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(_handle: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", no_room)
    with Store(tmp_path, "demo").lock():
        pass

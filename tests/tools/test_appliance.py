"""Pauses between the operations of a virt-customize, with a real QEMU under a shell script that reads as it does."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.errors import ToolError
from builder.run import run
from builder.tools import qcow2, qemu_img, qmp
from builder.tools.appliance import Appliance, Pauses, pausing
from builder.units import MIB

# A QEMU with the disk, and one script after the other, each read when its turn comes.
CUSTOMIZE = """\
"$LIBGUESTFS_HV" -machine none -nodefaults -display none -drive file=$1,format=qcow2,id=hd0,if=none -pidfile $2/pid \\
    -daemonize || exit 1
trap 'kill $(cat $2/pid)' EXIT
for script in "$3" "$4"; do
    text=$(cat "$script")
    echo "$text" >> $2/read
done
"""


class Stage:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.disk = folder / "disk.qcow2"
        qemu_img.create(self.disk, MIB)
        self.scripts = [folder / "1.sh", folder / "2.sh"]
        for script in self.scripts:
            script.write_text(f"echo {script.name}\n")

    def customize(self, pauses: Pauses | None) -> None:
        run(
            ["sh", "-c", CUSTOMIZE, "sh", self.disk, self.folder, *self.scripts],
            why="customize",
            timeout_s=120,
            log=self.folder / "log",
            env=pauses.environment if pauses else {"LIBGUESTFS_HV": "qemu-system-x86_64"},
            watch=pauses.poll if pauses else None,
        )

    @property
    def read(self) -> str:
        return (self.folder / "read").read_text()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    yield Stage(tmp_path)
    # A shell that is killed ends nobody, and a QEMU that is a daemon is not of its group.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)


def test_between_two_operations_the_disk_becomes_an_overlay_of_itself(stage: Stage) -> None:
    files = [stage.folder / f"disk.{number}.qcow2" for number in (1, 2)]
    seen = []

    def switch(appliance: Appliance) -> None:
        seen.append((stage.folder / "read").exists())
        appliance.switch_to(files[len(seen) - 1])

    with pausing(stage.disk, dict.fromkeys(stage.scripts, switch)) as pauses:
        assert all(script.is_fifo() for script in stage.scripts)
        stage.customize(pauses)
    assert seen == [False, True]
    assert stage.read == "echo 1.sh\necho 2.sh\n"
    assert [script.read_text() for script in stage.scripts] == ["echo 1.sh\n", "echo 2.sh\n"]
    assert [link.path for link in qcow2.chain(files[1])] == [files[1], files[0], stage.disk]
    assert files[0].stat().st_mode & 0o777 == 0o644


def test_what_fails_in_a_pause_ends_the_program_and_says_what_qemu_said(stage: Stage) -> None:
    todo = {stage.scripts[1]: lambda appliance: appliance.switch_to(stage.folder / "nowhere" / "disk.qcow2")}
    with (
        pytest.raises(ToolError, match=r"QEMU refused 'blockdev-snapshot-sync': Could not create .*nowhere"),
        pausing(stage.disk, todo) as pauses,
    ):
        stage.customize(pauses)
    # Nothing was written to the pipe: whether its reader came that far before it was ended does not matter.
    assert stage.read.strip() == "echo 1.sh"
    assert all(script.is_file() for script in stage.scripts)


def test_a_program_that_ends_before_a_pause_is_the_one_that_is_named(stage: Stage) -> None:
    stage.scripts[0].unlink()
    stage.scripts.insert(0, stage.folder / "gone.sh")

    def never(_: Appliance) -> None:
        raise AssertionError("nobody came so far")

    with (
        pytest.raises(ToolError, match="could not customize"),
        pausing(stage.disk, {stage.scripts[2]: never}) as pauses,
    ):
        run(["false"], why="customize", timeout_s=60, log=stage.folder / "log", watch=pauses.poll if pauses else None)
    assert stage.scripts[2].is_file()


def test_libguestfs_knows_the_wrapper_again_and_asks_qemu_nothing_twice(stage: Stage) -> None:
    """It remembers answers by size and time of change, in seconds. Source: libguestfs, lib/qemu.c."""
    keys = []
    for _ in range(2):
        with pausing(stage.disk, dict.fromkeys(stage.scripts, lambda _: None)) as pauses:
            assert pauses is not None
            found = Path(pauses.environment["LIBGUESTFS_HV"]).stat()
            keys.append((found.st_size, int(found.st_mtime)))
    program = shutil.which(f"qemu-system-{platform.machine()}")
    assert program is not None
    assert keys[0] == keys[1] == (keys[0][0], int(Path(program).stat().st_mtime))


def test_without_a_qemu_that_is_known_there_are_no_pauses(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    monkeypatch.setattr("builder.tools.appliance._LIBEXEC", stage.folder / "qemu-kvm")
    for name in ("LIBGUESTFS_HV", "LIBGUESTFS_QEMU"):
        monkeypatch.delenv(name, raising=False)
    with pausing(stage.disk, dict.fromkeys(stage.scripts, lambda _: None)) as pauses:
        assert pauses is None
        assert all(script.is_file() for script in stage.scripts)


def test_nor_where_temporary_files_may_not_be_executed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pausing(stage.disk, dict.fromkeys(stage.scripts, lambda _: None)) as pauses:
        assert pauses is None
        assert all(script.is_file() for script in stage.scripts)


@contextlib.contextmanager
def qemu(folder: Path) -> Iterator[Path]:
    monitor = folder / "qmp"
    words = ["qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", "-daemonize"]
    pid = folder / "pid"
    subprocess.run([*words, "-qmp", f"unix:{monitor},server=on,wait=off", "-pidfile", pid], check=True)
    yield monitor
    os.kill(int(pid.read_text()), 15)


def test_a_monitor_answers_one_question_after_the_other(tmp_path: Path) -> None:
    with qemu(tmp_path) as monitor:
        assert qmp.execute(monitor, "query-status")["running"] in (True, False)
        with pytest.raises(ToolError, match="QEMU refused 'nonsense': The command nonsense has not been found"):
            qmp.execute(monitor, "nonsense")
        assert qmp.execute(monitor, "query-block") == []
    with pytest.raises(ToolError, match="QEMU does not answer 'query-status'"):
        qmp.execute(tmp_path / "nobody", "query-status")

"""What a night decides: who may start beside whom, which exit code it ends with, what a failed step said."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from builder.admission import admits, job_mib
from builder.cli import golden
from builder.errors import HostError, ToolError
from builder.night import worst
from builder.night_steps import failed_with
from builder.units import GIB


@pytest.mark.parametrize(
    ("at_work_mib", "wanted_mib", "total_mib", "jobs", "room_gib", "may"),
    [
        ([], 9000, 4096, 1, 0, True),  # alone, any may
        ([2560], 2560, 8192, 2, 99, True),
        ([2560], 2560, 8192, 1, 99, False),  # jobs
        ([2560], 5000, 8192, 9, 99, False),  # memory: 1 GiB is left alone
        ([2560], 4608, 8192, 9, 99, True),
        ([2560], 2560, 8192, 9, 7, False),  # 4 GiB of disk for each
        ([2560], 2560, 8192, 9, 8, True),
        ([2560, 2560], 2560, 8704, 3, 12, True),
    ],
)
def test_another_job_starts_if_memory_disk_and_jobs_allow(
    at_work_mib: list[int], wanted_mib: int, total_mib: int, jobs: int, room_gib: int, may: bool
) -> None:
    assert admits(at_work_mib, wanted_mib, total_mib=total_mib, jobs=jobs, room_bytes=room_gib * GIB) is may


def test_a_job_takes_its_machine_or_the_appliance_and_what_runs_them() -> None:
    assert job_mib(2048) == 2560
    assert job_mib(512) == 1792  # libguestfs' appliance has 1280 MiB


@pytest.mark.parametrize(
    ("codes", "code"),
    [([], 0), ([0, 0], 0), ([0, 3, 4], 4), ([4, 5, 2], 5), ([2, 3], 3), ([0, 130, 4], 130), ([1, 4], 1)],
)
def test_the_worst_image_gives_the_night_its_exit_code(codes: list[int], code: int) -> None:
    assert worst(codes) == code


def test_a_failed_step_is_quoted_in_its_own_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("$ golden build\n10:00:00 step …\ngolden: error: no room\n  free:  1 GiB\n  try:  df -h\n")
    ended = ToolError("could not build x", details=[("command", "golden"), ("end", "exit 3"), ("output", "…")])
    assert failed_with(ended, log) == (3, "no room\n  free:  1 GiB\n  try:  df -h")


def test_a_step_that_could_not_say_anything_is_described(tmp_path: Path) -> None:
    killed = ToolError("could not build x", details=[("end", "killed by SIGKILL"), ("output", "10:00 step")])
    code, text = failed_with(killed, tmp_path / "log")
    assert (code, text.splitlines()[:2]) == (4, ["could not build x", "  end: killed by SIGKILL"])
    assert failed_with(HostError("no python"), tmp_path / "log") == (3, "no python")


def test_a_pause_has_a_unit() -> None:
    ended = CliRunner().invoke(golden, ["nightly", "--pause", "60"], standalone_mode=False)
    assert isinstance(ended.exception, click.BadParameter)
    assert "'60' is not a duration" in ended.exception.message

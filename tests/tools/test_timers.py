"""The units and the cron line for nights: systemd takes them, and golden knows the command in them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from builder.cli.nightly import nightly

REPO = Path(__file__).parents[2] / "repo"


def commands() -> list[str]:
    service = (REPO / "golden-nightly.service").read_text()
    cron = (REPO / "golden-nightly.cron").read_text()
    found = re.findall(r"^ExecStart=(.*)$", service, flags=re.MULTILINE)
    return found + re.findall(r"^(?:\S+ ){6}cd \S+ && \S+ (.*)$", cron, flags=re.MULTILINE)


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for name in ("golden-nightly.service", "golden-nightly.timer"):
        text = (REPO / name).read_text()
        (tmp_path / name).write_text(text.replace("/usr/local/bin/golden", sys.executable))
    units = [str(path) for path in sorted(tmp_path.iterdir())]
    ended = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *units], capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("line", commands())
def test_golden_knows_the_command(line: str) -> None:
    program, command, *words = shlex.split(line)
    assert (program, command) == ("/usr/local/bin/golden", "nightly")
    context = nightly.make_context("nightly", words)
    assert context.params["copies"] == Path("/srv/www/golden-report")


def test_there_is_one_command_for_each() -> None:
    assert len(commands()) == 2

"""A short crash campaign; `make torture` runs the long one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.torture.scenarios import SHORT


def test_commands_survive_what_befalls_them(tmp_path: Path) -> None:
    """Ended at a place, or in want of something, and run again: the result is that of an undisturbed run."""
    report = tmp_path / "report.json"
    argv = [sys.executable, "-m", "tests.torture", "--short", "--seed", "1", "--json", report]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr[-4000:]
    found = json.loads(report.read_text())
    assert {it["scenario"] for it in found["trials"]} == set(SHORT)
    assert found["survived"] == found["tried"] == 3 * len(SHORT)

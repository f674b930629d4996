"""golden's command line, as benchmarks run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


class Golden:
    """For one project. progress: as of the command, on standard error; a call returns what is on standard output."""

    def __init__(self, file: Path, state: Path, *, progress: str = "plain") -> None:
        self.state = state
        self._argv = [sys.executable, "-m", "builder", "--file", str(file), "--state", str(state)]
        self._argv += ["--progress", progress]

    def __call__(self, *words: str) -> str:
        return subprocess.run([*self._argv, *words], check=True, stdout=subprocess.PIPE, text=True).stdout

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "--json"))

"""Fake programs in front of PATH, started by the real `run`."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Fake = Callable[[str, str], Path]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """fake(name, body): a shell script that is found before the real program."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def write(name: str, body: str) -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    return write


class Family:
    """Tells when a program runs, and when it and all its children have ended: they hold the pipe that is read here."""

    def __init__(self, pipe: Path) -> None:
        os.mkfifo(pipe)
        self._reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        # To be put at the begin of a fake program.
        self.join = f"exec 9>'{pipe}'; echo started >&9"

    def has_started(self, within_s: float = 20) -> bool:
        ready, _, _ = select.select([self._reader], [], [], within_s)
        return bool(ready) and b"started" in os.read(self._reader, 100)

    def has_ended(self, within_s: float = 20) -> bool:
        while select.select([self._reader], [], [], within_s)[0]:
            if not os.read(self._reader, 100):
                return True
        return False

    def close(self) -> None:
        os.close(self._reader)


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Family]:
    made = Family(tmp_path / "family")
    yield made
    made.close()

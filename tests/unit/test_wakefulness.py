from __future__ import annotations

import struct
from pathlib import Path

import pytest

from builder.tools import wakefulness


def handles() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_the_request_stands_while_the_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "cpu_dma_latency"
    device.touch()
    monkeypatch.setattr(wakefulness, "_REQUEST", device)
    before = handles()
    with wakefulness.awake():
        assert struct.unpack("i", device.read_bytes()) == (0,)
        assert handles() == before + 1
    assert handles() == before


def test_who_may_not_ask_waits_a_little_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakefulness, "_REQUEST", tmp_path / "none")
    with wakefulness.awake():
        pass

"""Memory promised to several machines at once, by two processes; on an account that nobody else is on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from builder.clones import memory
from builder.clones.memory import Capacity, declared, promised
from builder.errors import HostError

TOP = Path(__file__).parents[2]
MINE = f"golden-promised-{os.getpid()}-"

# Machines of others, which come and go, do not count here.
SCRIPT = """
import sys
from builder.clones import memory
everything, mine, name = memory.declared, sys.argv[1], sys.argv[2]
memory.declared = lambda **how: {k: v for k, v in everything(**how).items() if k.startswith(mine)}
machines = {f"{mine}{name}-{number}": 1 for number in (1, 2)}
with memory.promised(machines, memory.Capacity(total_mib=3, wait_s=600), note=lambda text: print(text, flush=True)):
    print("has both", flush=True)
    sys.stdin.readline()
"""


def starting(name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, MINE, name],
        env=os.environ | {"PYTHONPATH": str(TOP)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_that_want_two_machines_each_come_one_after_the_other() -> None:
    """There is room for three: with one each both would wait for ever. What a killed one was promised is free again."""
    with starting("a") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "has both\n"
        with starting("b") as second:
            assert second.stdout is not None
            names = ", ".join(f"{MINE.removeprefix('golden-')}b-{number}" for number in (1, 2))
            assert second.stdout.readline() == f"{names}: waiting for 2 MiB of memory\n"
            first.kill()
            assert second.stdout.readline() == "has both\n"
            second.communicate("\n", timeout=60)
        assert second.returncode == 0
    assert not [name for name in declared() if name.startswith(MINE)]


def test_all_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = declared
    monkeypatch.setattr(
        memory, "declared", lambda **how: {k: v for k, v in everything(**how).items() if k.startswith(MINE)}
    )
    machines, limit, said = {f"{MINE}1": 1, f"{MINE}2": 2}, Capacity(total_mib=4), list[str]()
    with promised(machines, limit, note=said.append):
        assert memory.declared() == machines
        with memory.reserved(2, Capacity(total_mib=3), names="2", note=said.append, own=f"{MINE}2"):
            pass
        with pytest.raises(HostError, match="3 MiB are needed, 1 MiB are free"):  # noqa: SIM117
            with promised({f"{MINE}3": 1, f"{MINE}4": 2}, limit, note=said.append):
                pytest.fail("there is no room")
        assert memory.declared() == machines
    assert (memory.declared(), said) == ({}, [])
    waiting = Capacity(total_mib=2, wait_s=600)
    with pytest.raises(HostError, match="would need 3 MiB of memory"), promised(machines, waiting, note=said.append):
        pytest.fail("there never is room")


def test_who_is_interrupted_waits_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "declared", lambda **_: {"golden-other": 2})
    waiting = Capacity(total_mib=2, wait_s=600)
    with (
        pytest.raises(HostError, match="there is no memory for x"),
        promised({"golden-x": 1}, waiting, note=lambda _: None, is_stopped=lambda: True),
    ):
        pytest.fail("there is no room")

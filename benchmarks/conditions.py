"""What a result says of its run: when, on what machine, by what command, and what others did there meanwhile."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# Processors. A machine at rest has some hundredths, of the kernel and of daemons.
BUSY = 0.3
LOOK_S = 0.25
_TICKS_S = os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, Any]:
    """As benchmarks/page.py shows it."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    return {
        "processors": os.cpu_count(),
        "model": model.strip(),
        "memory_gib": round(pages / 2**30),
        "kernel": platform.release(),
    }


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def command(argv: Sequence[str]) -> str:
    """A script's words as they may be typed again. Places of this machine are as benchmarks/page.py explains them."""
    script = Path(argv[0])
    result = f"docs/benchmarks-{script.stem.replace('_', '-')}.json"
    places = {"--file": "golden.toml", "--state": "STATE", "--work": "FOLDER", "--json": result, "--output": result}
    words, last = [], ""
    for word in argv[1:]:
        option, equals, _ = word.partition("=")
        if last in places:
            words.append(places[last])
        else:
            words.append(f"{option}={places[option]}" if equals and option in places else word)
        last = word
    return f"PYTHONPATH=. python3 benchmarks/{script.name} {shlex.join(words)}".rstrip()


def timed(do: Callable[[], object]) -> tuple[float, float]:
    """Seconds that passed, and seconds of processors, of this process and of the children that it waited for."""
    begin, busy = time.monotonic(), own_s()
    do()
    return time.monotonic() - begin, own_s() - busy


def own_s() -> float:
    """Seconds of processors of this process and of the children that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(it.ru_utime + it.ru_stime for it in used)


class Run:
    """One run of a benchmark, from when this is made.

    states: golden's state directories. A QEMU that libvirt started with a file below one is the run's own work.
    """

    def __init__(self, *states: Path) -> None:
        self._machines = _Machines(states)
        self._load, self._begin = os.getloadavg()[0], time.monotonic()
        self._used, self._own = all_s(), own_s()

    def owns(self, state: Path) -> None:
        """Another state directory."""
        self._machines.states.append(state)

    def said(self, **machine_more: object) -> dict[str, Any]:
        """At the end. others_processors: how many others kept busy meanwhile, on average; busy: that is much.

        machine_more: what else there is to say of the machine, as {"accelerator": "kvm"}. load_before: of the minute
        before, which the run before this one may have made.
        """
        passed, machines_s = time.monotonic() - self._begin, self._machines.end()
        others_s = all_s() - self._used - (own_s() - self._own) - machines_s
        others = max(0.0, others_s / passed) if passed else 0.0
        return {
            "when": now(),
            "machine": machine() | machine_more,
            "command": command(sys.argv),
            "load_before": round(self._load, 2),
            "others_processors": round(others, 2),
            "busy": others > BUSY,
        }


class _Machines:
    """How long processors worked for QEMUs that are no children of ours; the last moment of each is not seen."""

    def __init__(self, states: Sequence[Path]) -> None:
        self.states = list(states)
        self._first: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._is_over = threading.Event()
        self._look(is_begin=True)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> float:
        """Seconds of processors since this was made."""
        self._is_over.set()
        self._thread.join()
        self._look()
        return sum(last - self._first[name] for name, last in self._last.items())

    def _watch(self) -> None:
        while not self._is_over.wait(LOOK_S):
            self._look()

    def _look(self, *, is_begin: bool = False) -> None:
        for process in machines(self.states):
            with contextlib.suppress(OSError):
                # After the name, which may hold spaces. Source: proc_pid_stat(5), "utime", "stime", "starttime".
                fields = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()
                name, used_s = f"{process.name} {fields[19]}", (int(fields[11]) + int(fields[12])) / _TICKS_S
                self._first.setdefault(name, used_s if is_begin else 0.0)
                self._last[name] = used_s


def machines(states: Sequence[Path]) -> Iterator[Path]:
    """Folders in /proc of the QEMUs that libvirt started with a file below one of `states`."""
    wanted = {os.fsencode(path) for state in states for path in (state, state.resolve())}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            is_libvirts = b"qemu" in words[0] and any(word.startswith(b"guest=") for word in words)
            if is_libvirts and any(it in word for it in wanted for word in words):
                yield process


def all_s() -> float:
    """Seconds of processors of the whole machine since its start: user, nice, system, irq, softirq; proc_stat(5)."""
    words = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:]
    return sum(int(words[at]) for at in (0, 1, 2, 5, 6)) / _TICKS_S

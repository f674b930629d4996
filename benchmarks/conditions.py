"""What a measurement says of the machine it ran on, and of the other work that this machine did meanwhile."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# Processors. A machine at rest has some hundredths, of the kernel and of daemons.
BUSY = 0.3


def machine() -> dict[str, Any]:
    """As benchmarks/page.py shows it."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {"processors": os.cpu_count(), "memory_gib": round(pages / 2**30), "kernel": platform.release()}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def timed(do: Callable[[], object]) -> tuple[float, float]:
    """Seconds that passed, and seconds of processors, of this process and of the children that it waited for."""
    begin, busy = time.monotonic(), own_s()
    do()
    return time.monotonic() - begin, own_s() - busy


def own_s() -> float:
    """Seconds of processors of this process and of the children that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(it.ru_utime + it.ru_stime for it in used)


class Others:
    """How many processors others kept busy since this was made, on average; guests that libvirt started are others."""

    def __init__(self) -> None:
        self._load, self._begin, self._used, self._own = os.getloadavg()[0], time.monotonic(), all_s(), own_s()

    def seen(self) -> dict[str, Any]:
        """{"load_before": of the last minute before, "others_processors": on average, "busy": that is much}."""
        passed = time.monotonic() - self._begin
        others = max(0.0, (all_s() - self._used - (own_s() - self._own)) / passed) if passed else 0.0
        return {"load_before": round(self._load, 2), "others_processors": round(others, 2), "busy": others > BUSY}


def all_s() -> float:
    """Seconds of processors of the whole machine since its start: user, nice, system, irq, softirq; proc_stat(5)."""
    words = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:]
    return sum(int(words[at]) for at in (0, 1, 2, 5, 6)) / os.sysconf("SC_CLK_TCK")

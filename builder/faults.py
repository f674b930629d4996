"""Faults on demand: at a named place, a signal or an error of the system. For `make torture`; off unless asked for.

    GOLDEN_FAULT=compose.named:kill         SIGKILL for golden when it comes there
    GOLDEN_FAULT=file.named#3:term          SIGTERM, the third time
    GOLDEN_FAULT=program.rpmbuild:kill@child    for the program that was just started
    GOLDEN_FAULT=clone.leased:kill@4711     for another process
    GOLDEN_FAULT=build.disk:enospc          as if the system had said so
    GOLDEN_FAULT=trace:FILE                 nothing; the names of all places are added to FILE

A place is where something has just become visible to others: a name in a folder, a machine in libvirt, a program.
"""

from __future__ import annotations

import errno
import os
import re
import signal
from collections import Counter
from pathlib import Path

VARIABLE = "GOLDEN_FAULT"

_WANTED = re.compile(r"(?P<place>[\w.-]+)(#(?P<count>[0-9]+))?:(?P<what>[a-z0-9]+)(@(?P<target>child|[0-9]+))?")
_seen: Counter[str] = Counter()


def place(name: str, *, child: int | None = None) -> None:
    """Golden has come to the place `name`. child: id of the process that was started just now."""
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    if wanted.startswith("trace:"):
        with Path(wanted.removeprefix("trace:")).open("a", encoding="utf-8") as trace:
            trace.write(f"{name}\n")
        return
    match = _WANTED.fullmatch(wanted)
    if match is None:
        raise ValueError(f"{VARIABLE}={wanted!r} is no fault")
    if name != match["place"]:
        return
    _seen[name] += 1
    if _seen[name] == int(match["count"] or 1):
        _happen(match["what"], match["target"], child=child)


def _happen(what: str, target: str | None, *, child: int | None) -> None:
    if hasattr(errno, what.upper()):
        code = getattr(errno, what.upper())
        raise OSError(code, os.strerror(code))
    process = child if target == "child" else int(target) if target else os.getpid()
    if process is None:
        raise ValueError(f"no program was started here: {os.environ[VARIABLE]}")
    # To this process alone: the children of one that is killed have to be seen to end by themselves.
    os.kill(process, signal.Signals[f"SIG{what.upper()}"])

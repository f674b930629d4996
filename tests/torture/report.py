"""What a campaign tried and what survived: for the terminal, as JSON, and as a section of docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

_ABOUT = """\
Each command of golden's that writes is run once undisturbed, and then ended again and again: at the places where \
something becomes visible to others, at random times, and in want of room, of open files and of large ones, or beside \
itself; all of that in an order that is random, until there is nothing left or the time is over. \
What is struck is golden, a program that it started, libvirtd, or the QEMU of a machine. After each: every channel \
is checked by golden, and the real dnf installs all of it into an empty root, where rpm verifies it; every \
build is read; no process, mount or lock is left. Then the command is run again, and its result has to be that of the \
undisturbed run.

Real are golden, qemu-img, rpmbuild, rpmsign, gpg, createrepo_c, dnf, libvirtd and QEMU, in a world of mounts and \
processes of their own. Stand-ins are the images (a few hundred KiB, with no operating system in them), virt-install, \
virt-customize and ssh."""


@dataclass(frozen=True)
class Trial:
    """One command ended once. fault: as GOLDEN_FAULT has it, or what happened in words; kind: without where and when.

    status: its exit code, or below zero the signal that ended it. wrong: empty if it survived.
    """

    scenario: str
    fault: str
    kind: str
    status: int | None
    wrong: tuple[str, ...]
    seconds: float


@dataclass
class Report:
    """planned: trials that there were to be. missed: that came when the command was over. installations: by dnf."""

    trials: list[Trial] = field(default_factory=list)
    seconds: float = 0.0
    planned: int = 0
    missed: int = 0
    installations: int = 0

    def add(self, trial: Trial) -> None:
        """And say so: a campaign takes a while."""
        self.trials.append(trial)
        print(f"{trial.scenario}: {trial.fault}: {'; '.join(trial.wrong) or 'survived'}", file=sys.stderr, flush=True)

    @property
    def failed(self) -> list[Trial]:
        return [it for it in self.trials if it.wrong]

    def places(self) -> set[tuple[str, str]]:
        """Which command came where, by the first of its trials there."""
        return {(it.scenario, it.fault.partition(":")[0]) for it in self.trials if ":" in it.fault}

    def as_json(self) -> dict[str, Any]:
        return {
            "seconds": round(self.seconds, 1),
            "planned": self.planned,
            "tried": len(self.trials),
            "survived": len(self.trials) - len(self.failed),
            "missed": self.missed,
            "places": len(self.places()),
            "dnf_installations": self.installations,
            "trials": [{**asdict(it), "seconds": round(it.seconds, 2)} for it in self.trials],
        }

    @classmethod
    def of_parts(cls, parts: Sequence[Mapping[str, Any]]) -> Report:
        """Out of what `as_json` said of each, side by side."""
        trials = [Trial(**{**it, "wrong": tuple(it["wrong"])}) for part in parts for it in part["trials"]]
        return cls(
            trials=trials,
            seconds=max(part["seconds"] for part in parts),
            planned=sum(part["planned"] for part in parts),
            missed=sum(part["missed"] for part in parts),
            installations=sum(part["dnf_installations"] for part in parts),
        )

    def verdict(self) -> str:
        count, left = len(self.trials), self.planned - self.missed - len(self.trials)
        return (
            f"{count} trials at {len(self.places())} places in {self.seconds:.0f} s: "
            f"{count - len(self.failed)} survived, {len(self.failed)} did not; "
            f"{f'there was no time for {left} more' if left else 'nothing was left out'}; "
            f"{self.missed} came when the command was over; dnf installed {self.installations} states of channels"
        )


def table(report: Report) -> str:
    lines = []
    for head, by in (("COMMAND", _scenario), ("WHAT HAPPENED", _kind)):
        lines.append(f"{head:<44} {'TRIED':>6} {'SURVIVED':>9}")
        lines += [f"{name:<44} {tried:>6} {survived:>9}" for name, tried, survived in _counted(report, by)]
        lines.append("")
    for it in report.failed:
        lines.append(f"{it.scenario}, {it.fault}, ended with {it.status}:")
        lines += [f"  {text}" for text in it.wrong]
    return "\n".join([*lines, report.verdict()])


def section(report: Report, *, seed: int) -> dict[str, Any]:
    """For docs/benchmarks.md; its shape is in benchmarks/page.py."""
    return {
        "title": "What golden's commands survive",
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processors": os.cpu_count(), "kernel": platform.release()},
        "busy": os.getloadavg()[2] > (os.cpu_count() or 1),
        "command": "make torture JSON=docs/benchmarks-torture.json",
        "about": _ABOUT,
        "tables": [
            {"title": "By command", "head": ["command", "tried", "survived"], "rows": _counted(report, _scenario)},
            {"title": "By what happened", "head": ["", "tried", "survived"], "rows": _counted(report, _kind)},
        ],
        "notes": f"Seed {seed}: {report.verdict()}.",
    }


def _scenario(trial: Trial) -> str:
    return trial.scenario


def _kind(trial: Trial) -> str:
    return trial.kind


def _counted(report: Report, by: Callable[[Trial], str]) -> list[tuple[str, int, int]]:
    """What `by` says of a trial -> how many were tried and survived; in the order of the words."""
    found = []
    for name in sorted({by(it) for it in report.trials}):
        mine = [it for it in report.trials if by(it) == name]
        found.append((name, len(mine), sum(not it.wrong for it in mine)))
    return found

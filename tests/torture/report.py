"""What a campaign tried and what survived: for the terminal, and as the JSON that benchmarks/torture.py shows."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.torture import counted, verdict


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


def table(report: Report) -> str:
    found, lines = report.as_json(), []
    for head, key in (("COMMAND", "scenario"), ("WHAT HAPPENED", "kind")):
        lines.append(f"{head:<44} {'TRIED':>6} {'SURVIVED':>9}")
        lines += [f"{name:<44} {tried:>6} {survived:>9}" for name, tried, survived in counted(found["trials"], key)]
        lines.append("")
    for it in report.failed:
        lines.append(f"{it.scenario}, {it.fault}, ended with {it.status}:")
        lines += [f"  {text}" for text in it.wrong]
    return "\n".join([*lines, verdict(found)])

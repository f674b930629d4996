"""What a campaign tried and what survived: for the terminal, and as the JSON that benchmarks/torture.py shows."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.torture import counted, verdict


@dataclass(frozen=True)
class Trial:
    """One command ended once. fault: as GOLDEN_FAULT has it, or what happened in words; kind: without where and when.

    status: its exit code, or below zero the signal that ended it. wrong: empty if it survived. key: the same in each
    campaign of a seed.
    """

    scenario: str
    fault: str
    kind: str
    status: int | None
    wrong: tuple[str, ...]
    seconds: float
    key: str


@dataclass
class Report:
    """planned: trials that there were to be. missed: that came when the command was over. installations: by dnf.

    pairs: of a command and a kind of fault, and of a program and its signal. covered: those that a trial was of.
    """

    trials: list[Trial] = field(default_factory=list)
    planned: int = 0
    missed: int = 0
    installations: int = 0
    pairs: list[str] = field(default_factory=list)
    covered: list[str] = field(default_factory=list)

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
            "seconds": round(sum(it.seconds for it in self.trials), 1),
            "planned": self.planned,
            "tried": len(self.trials),
            "survived": len(self.trials) - len(self.failed),
            "missed": self.missed,
            "places": len(self.places()),
            "dnf_installations": self.installations,
            "pairs_covered": self.covered,
            "pairs_left": sorted({*self.pairs} - {*self.covered}),
            "trials": [{**asdict(it), "seconds": round(it.seconds, 2)} for it in self.trials],
        }

    @classmethod
    def of_parts(cls, parts: Sequence[Mapping[str, Any]]) -> Report:
        """Out of what `as_json` said of each, side by side."""
        trials = [Trial(**{**it, "wrong": tuple(it["wrong"])}) for part in parts for it in part["trials"]]
        # A program runs in several commands, and those may be of several parts.
        covered = {pair for part in parts for pair in part["pairs_covered"]}
        return cls(
            pairs=sorted(covered.union(*(part["pairs_left"] for part in parts))),
            covered=sorted(covered),
            trials=trials,
            planned=sum(part["planned"] for part in parts),
            missed=sum(part["missed"] for part in parts),
            installations=sum(part["dnf_installations"] for part in parts),
        )


class Journal:
    """Trials in a file, a line for each as it ends, so that a campaign that was cut off or out of time is gone on with.

    Several parts write to one.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def seed(self) -> int | None:
        """Of the campaign that is gone on with; None if there is none."""
        lines = self._lines()
        return int(lines[0]["seed"]) if lines else None

    def begin(self, seed: int) -> None:
        if self._file is None:
            return
        if self._file.exists() and not (text := self._file.read_text()).endswith("\n"):
            self._file.write_text(text[: text.rfind("\n") + 1])
        if self.seed() is None:
            self._write({"seed": seed})

    def trials(self) -> list[Trial]:
        return [Trial(**{**it, "wrong": tuple(it["wrong"])}) for it in self._lines()[1:]]

    def note(self, trial: Trial) -> None:
        self._write(asdict(trial))

    def _lines(self) -> list[dict[str, Any]]:
        if self._file is None or not self._file.exists():
            return []
        # The last one may have been cut off, or be on its way.
        return [json.loads(line) for line in self._file.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def _write(self, found: Mapping[str, Any]) -> None:
        if self._file is not None:
            with self._file.open("a") as stream:
                stream.write(f"{json.dumps(found)}\n")


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

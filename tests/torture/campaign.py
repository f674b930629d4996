"""Trials: a command is ended somewhere, what is left is looked at, and the command is run again."""

from __future__ import annotations

import random
import resource
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from builder.units import KIB, MIB
from tests.torture import scenarios, world
from tests.torture.scenarios import Scenario
from tests.torture.stage import Ended, Stage

# What becomes of golden by what happens to it: its exit code, or the signal that ended it.
_ENDS = {"kill": {-9}, "term": {130}, "int": {130}, "hup": {130}}
# A program's end, an error of the system, or libvirt's end is golden's to tell, or to do without.
_TOLD = {0, 3, 4, 5}
_SHORT = 2
KINDS = ("places", "lacks", "random")
_BUG = "this is a bug in golden"


@dataclass(frozen=True)
class Trial:
    """One command ended once. fault: as GOLDEN_FAULT has it, or "SIGNAL after N s". wrong: empty if it survived."""

    scenario: str
    fault: str
    status: int | None
    wrong: tuple[str, ...]


@dataclass(frozen=True)
class Hardship:
    """What a command has to do with: little room, little of something else, others that want the same."""

    name: str
    room_bytes: int | None = None
    is_readonly: bool = False
    limits: Mapping[int, int] | None = None
    count: int = 1


@dataclass
class Report:
    trials: list[Trial] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, trial: Trial) -> None:
        """And say so: a campaign takes a while."""
        self.trials.append(trial)
        print(f"{trial.scenario}: {trial.fault}: {'; '.join(trial.wrong) or 'survived'}", file=sys.stderr, flush=True)

    @property
    def failed(self) -> list[Trial]:
        return [it for it in self.trials if it.wrong]

    def places(self) -> set[str]:
        return {it.fault.partition("#")[0].partition(":")[0] for it in self.trials if ":" in it.fault}

    def as_json(self) -> dict[str, Any]:
        return {
            "seconds": round(self.seconds, 1),
            "tried": len(self.trials),
            "survived": len(self.trials) - len(self.failed),
            "places": sorted(self.places()),
            "trials": [asdict(it) for it in self.trials],
        }


def table(report: Report) -> str:
    lines = [f"{'COMMAND':<18} {'TRIED':>6} {'SURVIVED':>9}"]
    for name in dict.fromkeys(it.scenario for it in report.trials):
        mine = [it for it in report.trials if it.scenario == name]
        lines.append(f"{name:<18} {len(mine):>6} {sum(not it.wrong for it in mine):>9}")
    for it in report.failed:
        lines.append(f"\n{it.scenario}, {it.fault}, ended with {it.status}:")
        lines += [f"  {text}" for text in it.wrong]
    count = len(report.trials)
    lines.append(
        f"\n{count} trials at {len(report.places())} places in {report.seconds:.0f} s: "
        f"{count - len(report.failed)} survived, {len(report.failed)} did not"
    )
    return "\n".join(lines)


class Campaign:
    """folder: an empty one, which is mounted over. rounds: of ends at random times."""

    def __init__(self, folder: Path, dice: random.Random, *, kinds: Sequence[str], is_short: bool, rounds: int) -> None:
        world.furnish(folder)
        self._dice, self._kinds, self._is_short, self._rounds = dice, kinds, is_short, rounds
        self._folder = folder
        self._libvirt = world.Libvirt(Path("/run/libvirtd.log"))
        self._libvirt.start()
        self._stage = Stage(folder)
        self._mounts = _mounts()

    def carry_out(self, wanted: Sequence[Scenario]) -> Report:
        report, begin = Report(), time.monotonic()
        scenarios.prepare(self._stage, {it.begin for it in wanted})
        for scenario in wanted:
            self._set_out(scenario)
            started = time.monotonic()
            trace = self._stage.trace(*scenarios.words(scenario, self._stage))
            seconds = time.monotonic() - started
            self._after(scenario)
            expected = scenario.result(self._stage)
            wanted = list(self._faults(scenario, trace)) if "places" in self._kinds else []
            if self._is_short:
                wanted = self._dice.sample(wanted, k=min(_SHORT, len(wanted)))
            for fault in wanted:
                report.add(self._try(scenario, expected, fault=fault))
            for hardship in self._hardships(scenario) if "lacks" in self._kinds else []:
                report.add(self._try(scenario, expected, hardship=hardship))
            for _ in range(self._rounds if "random" in self._kinds and not self._is_short else 0):
                report.add(self._try(scenario, expected, at_random_s=self._dice.uniform(0, seconds)))
        report.seconds = time.monotonic() - begin
        return report

    def _faults(self, scenario: Scenario, trace: Sequence[str]) -> Iterator[str]:
        """At each place that the command comes to, each time it comes there: SIGKILL and another fault."""
        counts: dict[str, int] = {}
        for place in trace:
            counts[place] = number = counts.get(place, 0) + 1
            kinds = ["kill@child", "term@child"] if place.startswith("program.") else ["kill", "term", "int", "enospc"]
            if scenario.has_machines and not place.startswith("program."):
                kinds.append("kill@libvirtd")
            if self._is_short or (place.startswith(("file.", "program.")) and number > 2):
                kinds = [self._dice.choice(kinds)]
            else:
                kinds = [kinds[0], self._dice.choice(kinds[1:])]
            for kind in kinds:
                yield f"{place}#{number}:{kind}"

    def _hardships(self, scenario: Scenario) -> list[Hardship]:
        """What a command may lack; in a short campaign one of them."""
        found = [
            *(Hardship(f"{size // KIB} KiB of room", room_bytes=size) for size in (0, 64 * KIB, 256 * KIB, MIB)),
            # Where a machine runs, its disk is being written.
            *([] if scenario.has_machines else [Hardship("a read-only store", is_readonly=True)]),
            *(
                Hardship(f"files of {size // KIB} KiB", limits={resource.RLIMIT_FSIZE: size})
                for size in (4 * KIB, 100 * KIB)
            ),
            *(Hardship(f"{count} open files", limits={resource.RLIMIT_NOFILE: count}) for count in (8, 16, 32)),
            *(Hardship(f"{count} at once", count=count) for count in (2, 5)),
        ]
        return self._dice.sample(found, k=1) if self._is_short else found

    def _suffer(self, words: Sequence[str], hardship: Hardship) -> tuple[Ended, set[int]]:
        """Run the command so; returns how it ended, and how it may."""
        if hardship.count > 1:
            ended = self._stage.goldens(*words, count=hardship.count)
            # One does it; the others are told who is at work, or come when it is done.
            return next((it for it in ended if it.status not in (0, 3) or _BUG in it.err), ended[0]), {0, 2, 3}
        if hardship.room_bytes is not None:
            world.leave_room(self._folder, hardship.room_bytes)
        if hardship.is_readonly:
            world.remount(self._folder, "ro")
        try:
            return self._stage.golden(*words, limits=hardship.limits), _TOLD
        finally:
            world.remount(self._folder, "rw,size=50%")

    def _set_out(self, scenario: Scenario) -> None:
        if scenario.has_machines:
            self._libvirt.start()
            for name in world.domains():
                world.virsh("destroy", name, is_checked=False)
                world.virsh("undefine", name, is_checked=False)
        self._stage.come_back(scenario.begin)
        scenario.before(self._stage)

    def _after(self, scenario: Scenario) -> None:
        for command in scenario.afterwards:
            self._stage.ok(*command)

    def _try(
        self,
        scenario: Scenario,
        expected: Any,
        *,
        fault: str | None = None,
        at_random_s: float | None = None,
        hardship: Hardship | None = None,
    ) -> Trial:
        self._set_out(scenario)
        words = scenarios.words(scenario, self._stage)
        if hardship is not None:
            said = hardship.name
            first, expects = self._suffer(words, hardship)
        elif at_random_s is None:
            assert fault is not None
            said, kind = fault, fault.rpartition(":")[2]
            asked = fault.replace("@libvirtd", f"@{self._libvirt.pid}")
            first = self._stage.golden(*words, fault=asked)
            expects = _ENDS.get(kind, _TOLD)
        else:
            by = self._dice.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
            said = f"{by.name} after {at_random_s:.2f} s"
            first = self._stage.golden(*words, at_random_s=at_random_s, by=by)
            # It may have ended before, and the signal may come before golden takes heed of it.
            expects = {0, -by, 130}
        wrong: list[str] = []
        try:
            wrong += self._look(first, expects)
            wrong += self._again(scenario, words, expected)
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {error}")
        return Trial(scenario.name, said, first.status, tuple(wrong))

    def _look(self, first: Ended, expects: set[int]) -> list[str]:
        """What is wrong right after the end."""
        wrong = []
        if first.status not in expects or _BUG in first.err:
            wrong.append(f"it ended with {first.status}, not one of {sorted(expects)}: {first.err[-1500:]}")
        self._libvirt.start()
        wrong += self._ended(but=("gpg-agent",))  # the next command ends it
        wrong += [f"a mount is left: {it}" for it in _mounts() - self._mounts]
        store = self._stage.store
        for channel in sorted(path.parent.name for path in store.channels.glob("[!.]*/mirrorlist")):
            check = self._stage.golden("repo", "check", "--channel", channel)
            if check.status != 0:
                wrong.append(f"the channel {channel} is not sound: {check.err}")
        listed = self._stage.golden("list")
        if listed.status != 0:
            wrong.append(f"golden list ends with {listed.status}: {listed.err}")
        self._stage.builds()
        return wrong

    def _ended(self, *, but: tuple[str, ...] = ()) -> list[str]:
        """What does not end, which is then ended. but: programs that may go on."""

        def strays() -> dict[int, str]:
            return {pid: command for pid, command in self._strays().items() if not command.startswith(but)}

        try:
            world.wait_until(lambda: not strays(), "processes end")
        except TimeoutError:
            left = strays()
            for pid in left:
                world.kill(pid)
            return [f"a process is left: {command}" for command in left.values()]
        return []

    def _strays(self) -> dict[int, str]:
        """Machines are no strays: what is told of those is told by libvirt."""
        return {
            pid: command
            for pid, command in world.processes(self._libvirt).items()
            if "qemu-system" not in command.partition(" ")[0]
        }

    def _again(self, scenario: Scenario, words: Sequence[str], expected: Any) -> list[str]:
        wrong = []
        for command in scenario.clears:
            self._stage.ok(*command)
        second = self._stage.golden(*words)
        if scenario.undo and second.status == 2 and scenario.is_done(second):
            self._stage.ok(*scenario.undo)
            second = self._stage.golden(*words)
        if second.status != 0 and not (second.status == 2 and scenario.is_done(second)):
            wrong.append(f"the next run ended with {second.status}: {second.err[-1500:]}")
        self._after(scenario)
        wrong += self._ended()
        found = scenario.result(self._stage)
        if found != expected:
            wrong += [
                f"it is {_short(found[it])}, not {_short(expected[it])}, with {it}" for it in _unlike(found, expected)
            ]
        return wrong


def _unlike(found: Any, expected: Any) -> list[Any]:
    return [it for it in expected if found.get(it) != expected[it]] if isinstance(expected, dict) else []


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 900 else f"{text[:900]}…"


def _mounts() -> set[str]:
    return {line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()}

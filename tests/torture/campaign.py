"""Trials: a command is ended somewhere, what is left is looked at, and the command is run again."""

from __future__ import annotations

import random
import resource
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from builder.channels import compose as composes
from builder.units import KIB, MIB
from tests.torture import scenarios, world
from tests.torture.clients import Clients
from tests.torture.report import Report, Trial
from tests.torture.scenarios import Scenario
from tests.torture.stage import Blow, Ended, Stage

# What becomes of golden by what happens to it: its exit code, or the signal that ended it.
_ENDS = {"kill": {-9}, "reboot": {-9}, "term": {130}, "int": {130}, "hup": {130}}
# A program's end, an error of the system, or libvirt's end is golden's to tell, or to do without.
_TOLD = {0, 3, 4, 5}
_SHORT = 2
_WORDS = {"enospc": "no space left on device", "reboot": "the host rebooted"}
KINDS = ("places", "lacks", "random")
_BUG = "this is a bug in golden"


@dataclass(frozen=True)
class Hardship:
    """What a command has to do with: little room, little of something else, others that want the same."""

    name: str
    room_bytes: int | None = None
    is_readonly: bool = False
    limits: Mapping[int, int] | None = None
    count: int = 1
    is_from_future: bool = False


# A fault is a place's and what happens there, as GOLDEN_FAULT has it.
Disturbance = str | Hardship | Blow


@dataclass(frozen=True)
class _Undisturbed:
    """What a scenario comes to by itself. seconds: that it takes."""

    scenario: Scenario
    trace: Sequence[str]
    result: Any
    seconds: float


class Campaign:
    """folder: an empty one, which is mounted over. rounds: of ends at random times. limit_s: no trial begins later.

    seed: says what is random. part: which of how many this campaign is; together they are one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        part: tuple[int, int],
        kinds: Sequence[str],
        is_short: bool,
        rounds: int,
        limit_s: float,
    ) -> None:
        world.furnish(folder)
        self._seed, self._part, self._kinds, self._is_short, self._rounds = seed, part, kinds, is_short, rounds
        self._dice = random.Random(seed)
        self._folder, self._limit_s = folder, limit_s
        self._libvirt = world.Libvirt(Path("/run/libvirtd.log"))
        self._libvirt.start()
        self._stage = Stage(folder)
        self._clients = Clients(Path("/run"))
        self._mounts = _mounts()

    def carry_out(self, wanted: Sequence[Scenario]) -> Report:
        """In an order that the dice say: what there is no time for is then of all commands alike."""
        report, begin = Report(), time.monotonic()
        scenarios.prepare(self._stage, {it.begin for it in wanted})
        planned = self._planned([self._undisturbed(it) for it in wanted])
        report.planned = len(planned)
        for undisturbed, disturbance in planned:
            if time.monotonic() - begin > self._limit_s:
                break
            if (trial := self._try(undisturbed, disturbance)) is None:
                report.missed += 1
            else:
                report.add(trial)
        report.installations = self._clients.installations
        report.seconds = time.monotonic() - begin
        return report

    def _planned(self, known: Sequence[_Undisturbed]) -> list[tuple[_Undisturbed, Disturbance]]:
        """This part's. By what a trial is, and not how many came before: parts may see a scenario differ a little."""
        number, count = self._part
        found = []
        for it in known:
            self._dice = random.Random(f"{self._seed} {it.scenario.name}")
            for index, disturbance in enumerate(self._disturbances(it)):
                place = random.Random(f"{self._seed} {it.scenario.name} {index}").randrange(2**32)
                found.append((place, it, disturbance))
        found.sort(key=lambda entry: entry[0])
        return [(it, disturbance) for place, it, disturbance in found if place % count == number]

    def _undisturbed(self, scenario: Scenario) -> _Undisturbed:
        self._set_out(scenario)
        started = time.monotonic()
        trace = self._stage.trace(*scenarios.words(scenario, self._stage))
        seconds = time.monotonic() - started
        self._after(scenario)
        found = _Undisturbed(scenario, trace, scenario.result(self._stage), seconds)
        if wrong := self._channels():
            raise AssertionError(f"{scenario.name}, undisturbed: {wrong}")
        return found

    def _disturbances(self, it: _Undisturbed) -> list[Disturbance]:
        places = list(self._faults(it.scenario, it.trace)) if "places" in self._kinds else []
        if self._is_short:
            places = self._dice.sample(places, k=min(_SHORT, len(places)))
        lacks = self._hardships(it.scenario) if "lacks" in self._kinds else []
        rounds = self._rounds if "random" in self._kinds and not self._is_short else 0
        return [*places, *lacks, *(self._blow(it) for _ in range(rounds))]

    def _faults(self, scenario: Scenario, trace: Sequence[str]) -> Iterator[str]:
        """At each place that the command comes to, each time it comes there: SIGKILL and another fault."""
        if not scenario.has_places:
            return
        counts: Counter[str] = Counter()
        for place in trace:
            counts[place] += 1
            number = counts[place]
            kinds = (
                ["kill@child", "term@child"]
                if place.startswith("program.")
                else ["kill", "term", "int", "enospc", "reboot"]
            )
            if scenario.has_machines and not place.startswith("program."):
                kinds.append("kill@libvirtd")
            if self._is_short or (place.startswith(("file.", "program.")) and number > 2):
                kinds = [self._dice.choice(kinds)]
            else:
                kinds = [kinds[0], self._dice.choice(kinds[1:])]
            for kind in kinds:
                yield f"{place}#{number}:{kind}"

    def _blow(self, it: _Undisturbed) -> Blow:
        """At a random time: mostly for golden, else for a program of its, for libvirtd or for a machine's QEMU."""
        whom = ["golden", "golden", "a program", *(["libvirtd", "QEMU"] if it.scenario.has_machines else [])]
        name = self._dice.choice(whom)
        signals = [signal.SIGKILL, signal.SIGTERM, *([signal.SIGINT] if name == "golden" else [])]
        by = self._dice.choice(signals) if name in ("golden", "a program") else signal.SIGKILL
        return Blow(self._dice.uniform(0, it.seconds), by, name, partial(self._victim, name))

    def _victim(self, name: str, golden: int) -> int | None:
        match name:
            case "golden":
                return golden
            case "libvirtd":
                return self._libvirt.pid
            case "QEMU":
                return next(iter(world.machines()), None)
            case _:
                return next(iter(world.below(golden)), None)

    def _hardships(self, scenario: Scenario) -> list[Hardship]:
        """What a command may lack; in a short campaign one of them."""
        found = [
            *(
                Hardship(f"{size // KIB} KiB of room", room_bytes=size)
                for size in (0, 64 * KIB, 256 * KIB, MIB, 16 * MIB)
            ),
            # Where a machine runs, its disk is being written.
            *([] if scenario.begins_running else [Hardship("a read-only store", is_readonly=True)]),
            *(
                Hardship(f"files of {size // KIB} KiB", limits={resource.RLIMIT_FSIZE: size})
                for size in (4 * KIB, 100 * KIB)
            ),
            *(Hardship(f"{count} open files", limits={resource.RLIMIT_NOFILE: count}) for count in (8, 16, 32)),
            *(Hardship(f"{count} at once", count=count) for count in (2, 5)),
            Hardship("a clock that went back", is_from_future=True),
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
        if hardship.is_from_future:
            self._stage.come_from_the_future()
            return self._stage.golden(*words), {0}
        if hardship.is_readonly:
            world.remount(self._folder, "ro")
        try:
            return self._stage.golden(*words, limits=hardship.limits), _TOLD
        finally:
            world.remount(self._folder, "rw,size=50%")

    def _set_out(self, scenario: Scenario) -> None:
        self._libvirt.start()
        # Of the trial before, which may have been another command's.
        for name in world.domains():
            world.virsh("destroy", name, is_checked=False)
            world.virsh("undefine", name, is_checked=False)
        self._stage.come_back(scenario.begin)
        scenario.before(self._stage)

    def _after(self, scenario: Scenario) -> None:
        for command in scenario.afterwards:
            self._stage.ok(*command)

    def _try(self, it: _Undisturbed, disturbance: Disturbance) -> Trial | None:
        """None if nothing happened: the command was over before the blow, or whom it was for was not there."""
        scenario, begin = it.scenario, time.monotonic()
        said, kind = _named(disturbance)
        status, wrong = None, []
        try:
            self._set_out(scenario)
            words = scenarios.words(scenario, self._stage)
            first, expects = self._disturb(words, disturbance)
            if isinstance(disturbance, Blow) and not first.was_struck:
                return None
            status = first.status
            wrong += self._look(first, expects)
            wrong += self._again(scenario, words, it.result, is_off=kind == _WORDS["reboot"] or "for QEMU" in kind)
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {error}")
        return Trial(scenario.name, said, kind, status, tuple(wrong), time.monotonic() - begin)

    def _disturb(self, words: Sequence[str], disturbance: Disturbance) -> tuple[Ended, set[int]]:
        """Run the command so; returns how it ended, and how it may."""
        if isinstance(disturbance, Hardship):
            return self._suffer(words, disturbance)
        if isinstance(disturbance, Blow):
            # The signal may come before golden takes heed of it, or when it has nothing left to do.
            expects = {0, -disturbance.by, 130} if disturbance.name == "golden" else _TOLD
            return self._stage.golden(*words, blow=disturbance), expects
        what = disturbance.rpartition(":")[2]
        asked = disturbance.replace("@libvirtd", f"@{self._libvirt.pid}").replace(":reboot", ":kill")
        ended = self._stage.golden(*words, fault=asked)
        if what == "reboot":
            world.reboot(self._libvirt, self._stage.upstream.pid)
        return ended, _ENDS.get(what, _TOLD)

    def _look(self, first: Ended, expects: set[int]) -> list[str]:
        """What is wrong right after the end."""
        wrong = []
        if first.status not in expects or _BUG in first.err:
            wrong.append(f"it ended with {first.status}, not one of {sorted(expects)}: {first.err[-1500:]}")
        self._libvirt.start()
        wrong += self._ended(but=("gpg-agent",))  # the next command ends it
        wrong += [f"a mount is left: {it}" for it in _mounts() - self._mounts]
        wrong += [f"a lock is left: {it}" for it in world.locks(self._folder)]
        wrong += self._channels()
        listed = self._stage.golden("list")
        if listed.status != 0:
            wrong.append(f"golden list ends with {listed.status}: {listed.err}")
        self._stage.builds()
        return wrong

    def _channels(self) -> list[str]:
        """What golden's own check and dnf say against them."""
        wrong, channels = [], self._stage.store.channels
        for channel in composes.names(channels):
            check = self._stage.golden("repo", "check", "--channel", channel)
            if check.status != 0:
                wrong.append(f"the channel {channel} is not sound: {check.err}")
            if (refusal := self._clients.refused(channels, channel)) is not None:
                wrong.append(f"dnf and the channel {channel}: {refusal}")
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
            for pid, command in world.processes(self._libvirt.pid, self._stage.upstream.pid).items()
            if "qemu-system" not in command.partition(" ")[0]
        }

    def _again(self, scenario: Scenario, words: Sequence[str], expected: Any, *, is_off: bool) -> list[str]:
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
        wrong += self._channels()
        found = scenario.result(self._stage)
        if found != expected and is_off and scenario.begins_running:
            # A machine that ran before is off, which it says.
            found, expected = ({**it, "clones": [name for name, _ in it["clones"]]} for it in (found, expected))
        if found != expected:
            wrong += [
                f"it is {_short(found[it])}, not {_short(expected[it])}, with {it}" for it in _unlike(found, expected)
            ]
        return wrong


def _named(disturbance: Disturbance) -> tuple[str, str]:
    """What happens, with where or when, and without."""
    if isinstance(disturbance, Hardship):
        return disturbance.name, disturbance.name
    if isinstance(disturbance, Blow):
        what = f"{disturbance.by.name} for {disturbance.name}"
        return f"{what} after {disturbance.after_s:.2f} s", f"{what} at a random time"
    return disturbance, _kind(disturbance)


def _kind(fault: str) -> str:
    """What happened, without where: "SIGKILL for golden"."""
    place, _, what = fault.partition(":")
    name, _, whom = what.partition("@")
    if name in _WORDS:
        return _WORDS[name]
    program = place.removeprefix("program.").partition("#")[0]
    return f"SIG{name.upper()} for {program if whom == 'child' else whom or 'golden'}"


def _unlike(found: Any, expected: Any) -> list[Any]:
    return [it for it in expected if found.get(it) != expected[it]] if isinstance(expected, dict) else []


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 900 else f"{text[:900]}…"


def _mounts() -> set[str]:
    return {line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()}

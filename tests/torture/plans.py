"""What a campaign does to each command, and in which order: each kind of fault once, and then more of them."""

from __future__ import annotations

import random
import resource
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from builder.units import KIB, MIB
from tests.torture.scenarios import Scenario
from tests.torture.stage import Blow

KINDS = ("places", "lacks", "random")
REBOOT, NO_SPACE, RESTART = "the host rebooted", "no space left on device", "libvirtd restarted"
_WORDS = {"enospc": NO_SPACE, "reboot": REBOOT, "restart@libvirtd": RESTART}
_GOLDEN = ("kill", "term", "int", "enospc", "reboot")
_PROGRAM = ("kill@child", "term@child", "int@child")
_LIBVIRT = ("kill@libvirtd", "term@libvirtd", "restart@libvirtd")
_QEMU = ("kill@QEMU", "term@QEMU")
# How many more places are kept in mind of what may meet nobody there.
_MORE = 3
_SHORT = 2
_OFTEN = ("file.", "program.")


@dataclass(frozen=True)
class Hardship:
    """What a command has to do with: little room, little of something else, others that want the same."""

    name: str
    group: str
    room_bytes: int | None = None
    is_readonly: bool = False
    limits: Mapping[int, int] | None = None
    count: int = 1
    is_from_future: bool = False


# A fault is a place's and what happens there, as GOLDEN_FAULT has it.
Disturbance = str | Hardship | Blow


@dataclass(frozen=True)
class Undisturbed:
    """What a scenario comes to by itself. seconds: that it takes."""

    scenario: Scenario
    trace: Sequence[str]
    result: Any
    seconds: float


@dataclass(frozen=True)
class Planned:
    """One trial to be. key: which it is of its scenario's, the same in each campaign of a seed.

    covers: pairs of a command and a kind of fault, and of a program and its signal.
    """

    undisturbed: Undisturbed
    disturbance: Disturbance
    key: str
    covers: frozenset[str]


@dataclass
class Coverage:
    """Pairs that some trial was of."""

    done: set[str] = field(default_factory=set)

    def next(self, queue: list[Planned]) -> Planned:
        """Taken out of `queue`: the first that is of a pair that no trial was of, else the first."""
        found = next((it for it in queue if it.covers - self.done), queue[0])
        queue.remove(found)
        return found


def all_trials(
    known: Sequence[Undisturbed], *, seed: int, part: tuple[int, int], kinds: Sequence[str], is_short: bool, rounds: int
) -> list[Planned]:
    """Of this part, in an order that the seed says. Parts share pairs out, as each may see another trace."""
    number, count = part
    found = []
    for it in known:
        dice = random.Random(f"{seed} {it.scenario.name}")
        counts: Counter[str] = Counter()
        for disturbance in _disturbances(it, dice, kinds=kinds, is_short=is_short, rounds=rounds):
            _, kind = named(disturbance)
            group = group_of(disturbance)
            counts[group] += 1
            key = f"{disturbance if isinstance(disturbance, str) else f'{kind} {counts[group]}'}"
            covers = {f"{it.scenario.name}: {group}", *_program(disturbance)}
            share = random.Random(f"{seed} {it.scenario.name} {group}").randrange(2**32)
            if share % count == number:
                place = random.Random(f"{seed} {it.scenario.name} {key}").random()
                found.append((place, Planned(it, disturbance, key, frozenset(covers))))
    return [planned for _, planned in sorted(found, key=lambda entry: entry[0])]


def _disturbances(
    it: Undisturbed, dice: random.Random, *, kinds: Sequence[str], is_short: bool, rounds: int
) -> list[Disturbance]:
    places: list[str] = []
    if "places" in kinds:
        places = list(_faults(it.scenario, it.trace, dice, is_short=is_short))
    if is_short:
        places = dice.sample(places, k=min(_SHORT, len(places)))
    lacks = hardships(it.scenario) if "lacks" in kinds else []
    if is_short:
        lacks = dice.sample(lacks, k=1)
    blows = rounds if "random" in kinds and not is_short else 0
    return [*places, *lacks, *(_blow(it, dice) for _ in range(blows))]


def _faults(scenario: Scenario, trace: Sequence[str], dice: random.Random, *, is_short: bool) -> Iterator[str]:
    """SIGKILL and another fault at each place, each time the command comes there; and each kind of fault at some."""
    counts: Counter[str] = Counter()
    chosen: list[str] = []
    possible: dict[str, list[str]] = {}
    is_on = scenario.begins_running
    for place in trace:
        counts[place] += 1
        is_on = is_on or place == "machine.started"
        kinds = _kinds_at(place, scenario, is_on=is_on)
        if not kinds:
            continue
        faults = [f"{place}#{counts[place]}:{kind}" for kind in kinds]
        for fault in faults:
            # Of each program, too.
            possible.setdefault(" ".join(sorted([group_of(fault), *_program(fault)])), []).append(fault)
        if is_short or (place.startswith(_OFTEN) and counts[place] > _SHORT):
            chosen.append(dice.choice(faults))
        else:
            chosen += [faults[0], dice.choice(faults[1:])]
    yield from chosen
    if not is_short:
        for faults in possible.values():
            left = [it for it in faults if it not in chosen]
            wanted = _MORE if len(left) == len(faults) or "@QEMU" in faults[0] else 0
            yield from dice.sample(left, k=min(wanted, len(left)))


def _kinds_at(place: str, scenario: Scenario, *, is_on: bool) -> tuple[str, ...]:
    """Of faults; the first is the hardest. is_on: a machine is there by now."""
    if scenario.steps is not None:
        # What golden commands that it starts come to is theirs; between them is this one's.
        return (*_GOLDEN, *_PROGRAM) if place == scenario.steps else ()
    if place.startswith("program."):
        return _PROGRAM
    machines = (*_LIBVIRT, *(_QEMU if is_on else ())) if scenario.has_machines else ()
    return (*_GOLDEN, *machines)


def _blow(it: Undisturbed, dice: random.Random) -> Blow:
    """At a random time: mostly for golden, else for a program of its, for libvirtd, a machine's QEMU, or the host."""
    whom = ["golden", "golden", "a program", "the host", *(["libvirtd", "QEMU"] if it.scenario.has_machines else [])]
    name = dice.choice(whom)
    signals = [signal.SIGKILL, signal.SIGTERM, *([signal.SIGINT] if name in ("golden", "a program") else [])]
    by = dice.choice(signals) if name != "the host" else signal.SIGKILL
    return Blow(dice.uniform(0, it.seconds), by, name)


def hardships(scenario: Scenario) -> list[Hardship]:
    """What a command may lack, and who may be at work beside it."""
    if scenario.beside:
        return [Hardship("nothing else", "different commands at once")]
    rooms = [
        Hardship(f"{size // KIB} KiB of room", "little room", room_bytes=size)
        for size in (0, 64 * KIB, 256 * KIB, MIB, 16 * MIB)
    ]
    # Where a machine runs, its disk is being written.
    readonly = [] if scenario.begins_running else [Hardship("a read-only store", "a read-only store", is_readonly=True)]
    limits = [
        *(
            Hardship(f"files of {size // KIB} KiB", "only small files", limits={resource.RLIMIT_FSIZE: size})
            for size in (4 * KIB, 100 * KIB)
        ),
        *(
            Hardship(f"{count} open files", "few open files", limits={resource.RLIMIT_NOFILE: count})
            for count in (8, 16, 32)
        ),
    ]
    others = [Hardship(f"{count} at once", f"{count} at once", count=count) for count in (2, 5)]
    clock = "a clock that went back"
    return [*rooms, *readonly, *limits, *others, Hardship(clock, clock, is_from_future=True)]


def named(disturbance: Disturbance) -> tuple[str, str]:
    """What happens, with where or when, and without: "SIGKILL for rpmbuild"."""
    if isinstance(disturbance, Hardship):
        return disturbance.name, disturbance.name
    if isinstance(disturbance, Blow):
        what = REBOOT if disturbance.name == "the host" else f"{disturbance.by.name} for {disturbance.name}"
        return f"{what} after {disturbance.after_s:.2f} s", f"{what} at a random time"
    place, _, what = disturbance.partition(":")
    name, _, whom = what.partition("@")
    program = place.removeprefix("program.").partition("#")[0]
    words = f"SIG{name.upper()} for {program if whom == 'child' else whom or 'golden'}"
    return disturbance, _WORDS.get(what, words)


def group_of(disturbance: Disturbance) -> str:
    """The kind of fault of which each command has to have one: of all programs, and of all times, as one."""
    if isinstance(disturbance, Hardship):
        return disturbance.group
    if isinstance(disturbance, str) and disturbance.endswith("@child"):
        return f"SIG{disturbance.rpartition(':')[2].removesuffix('@child').upper()} for a program"
    return named(disturbance)[1].removesuffix(" at a random time")


def _program(disturbance: Disturbance) -> list[str]:
    """The pair of a program and its signal."""
    is_program = isinstance(disturbance, str) and disturbance.endswith("@child")
    return [named(disturbance)[1]] if is_program else []

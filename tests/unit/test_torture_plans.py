"""What a campaign of faults tries, and in which order; no command is run."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

from tests.torture import plans
from tests.torture.plans import Coverage, Planned, Undisturbed
from tests.torture.report import Journal, Report, Trial
from tests.torture.scenarios import SCENARIOS, Scenario

PACKAGE = ["program.gpg", "program.gpg", "program.gpg", "program.rpmbuild", "package.companion", "package.rpm"]
CLONE = ["file.named", "clone.leased", "program.qemu-img", "machine.defined", "machine.started", "file.named"]
NIGHT = ["file.named", "program.python", "program.gpg", "package.rpm", "program.python", "channel.switched"]


def scenario(name: str) -> Scenario:
    return next(it for it in SCENARIOS if it.name == name)


def undisturbed(name: str, trace: list[str]) -> Undisturbed:
    return Undisturbed(scenario(name), trace, result={}, seconds=2.0)


def planned(*known: Undisturbed, part: tuple[int, int] = (0, 1), seed: int = 7, rounds: int = 10) -> list[Planned]:
    return plans.all_trials(known, seed=seed, part=part, kinds=plans.KINDS, is_short=False, rounds=rounds)


def kinds(found: list[Planned]) -> set[str]:
    return {plans.named(it.disturbance)[1] for it in found}


def test_each_program_gets_each_signal() -> None:
    found = kinds(planned(undisturbed("package", PACKAGE)))
    assert {f"SIG{name} for {program}" for name in ("KILL", "TERM", "INT") for program in ("gpg", "rpmbuild")} <= found


def test_qemu_and_libvirtd_are_struck_where_there_is_a_machine() -> None:
    found = planned(undisturbed("create a clone", CLONE))
    names = kinds(found)
    assert {"SIGKILL for QEMU", "SIGTERM for QEMU", "SIGKILL for libvirtd", "SIGTERM for libvirtd"} <= names
    assert plans.RESTART in names
    places = {it.disturbance for it in found if isinstance(it.disturbance, str) and "@QEMU" in it.disturbance}
    assert {re.split("[#:]", place)[0] for place in places} <= {"machine.started", "file.named"}
    assert not any("QEMU" in name or "libvirtd" in name for name in kinds(planned(undisturbed("package", PACKAGE))))


def test_the_host_reboots_between_the_steps_of_a_night() -> None:
    night = scenario("publish by night")
    assert night.steps is not None
    trace = [night.steps if place == "program.python" else place for place in NIGHT]
    places = [it.disturbance for it in planned(undisturbed(night.name, trace)) if isinstance(it.disturbance, str)]
    assert {place.partition("#")[0] for place in places} == {night.steps}
    assert any(place.endswith(":reboot") for place in places)
    assert any(place.endswith(":kill") for place in places)


def test_different_commands_are_at_work_at_once() -> None:
    (hardship,) = plans.hardships(scenario("several at once"))
    assert hardship.group == "different commands at once"
    words = {word for it in (scenario("several at once").words, *scenario("several at once").beside) for word in it}
    assert words >= {"publish", "build", "clone", "collect"}


def test_every_pair_comes_before_any_comes_twice() -> None:
    known = [undisturbed("package", PACKAGE), undisturbed("create a clone", CLONE)]
    queue, coverage = planned(*known), Coverage()
    pairs = frozenset[str]().union(*(it.covers for it in queue))
    count = len(queue)
    while coverage.done != pairs:
        taken = coverage.next(queue)
        assert taken.covers - coverage.done
        coverage.done |= taken.covers
    assert len(queue) > count / 2
    while queue:
        coverage.next(queue)


def test_a_pair_is_tried_with_another_trial_if_one_met_nobody() -> None:
    queue, coverage = planned(undisturbed("create a clone", CLONE)), Coverage()
    pair = "create a clone: SIGKILL for QEMU"
    first, second = [it for it in queue if pair in it.covers][:2]
    queue = [first, second]
    assert coverage.next(queue) is first
    assert coverage.next(queue) is second


def test_parts_are_together_what_one_is_alone() -> None:
    known = [undisturbed("package", PACKAGE), undisturbed("create a clone", CLONE)]
    parts = [planned(*known, part=(number, 2)) for number in range(2)]
    assert all(parts)
    keys = [(it.undisturbed.scenario.name, it.key) for part in parts for it in part]
    assert len(set(keys)) == len(keys)
    assert set(keys) == {(it.undisturbed.scenario.name, it.key) for it in planned(*known)}


def test_the_same_seed_plans_the_same() -> None:
    known = undisturbed("package", PACKAGE)
    first, second, other = (planned(known, seed=seed) for seed in (3, 3, 4))
    assert [it.key for it in first] == [it.key for it in second] != [it.key for it in other]


def test_a_campaign_that_was_cut_off_is_gone_on_with(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    trial = Trial("package", "package.rpm#1:kill", "SIGKILL for golden", -9, ("a lock is left",), 1.5, "key")
    journal = Journal(file)
    assert journal.seed() is None
    assert journal.trials() == []
    journal.begin(7)
    journal.note(trial)
    with file.open("a") as stream:
        stream.write('{"scenario": "pack')  # cut off
    again = Journal(file)
    again.begin(8)
    again.note(trial)
    assert again.seed() == 7
    assert again.trials() == [trial, trial]


def test_no_journal_is_written_where_none_is_asked_for() -> None:
    journal = Journal(None)
    journal.begin(7)
    assert journal.seed() is None


def test_parts_cover_a_pair_together() -> None:
    trial = Trial("package", "a", "b", 0, (), 1.0, "key")
    one = Report(trials=[trial], pairs=["x", "y"], covered=["x"], planned=2)
    other = Report(trials=[trial], pairs=["x", "z"], covered=["z"], planned=2)
    both = Report.of_parts([one.as_json(), other.as_json()])
    assert (both.pairs, both.covered) == (["x", "y", "z"], ["x", "z"])
    assert both.as_json()["pairs_left"] == ["y"]
    assert [asdict(it) for it in both.trials] == [asdict(trial)] * 2

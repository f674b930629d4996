"""Trials: a command is ended somewhere, what is left is looked at, and the command is run again."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from builder.channels import compose as composes
from tests.torture import plans, scenarios, world
from tests.torture.clients import Clients
from tests.torture.plans import Coverage, Disturbance, Hardship, Planned, Undisturbed
from tests.torture.report import Report, Trial
from tests.torture.scenarios import Scenario
from tests.torture.stage import BUG, Blow, Ended, Stage

# What becomes of golden by what happens to it: its exit code, or the signal that ended it.
_ENDS = {"kill": {-9}, "reboot": {-9}, "term": {130}, "int": {130}, "hup": {130}}
# A program's end, an error of the system, or libvirt's end is golden's to tell, or to do without.
_TOLD = {0, 3, 4, 5}


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
        self._all_trials = partial(
            plans.all_trials, seed=seed, part=part, kinds=kinds, is_short=is_short, rounds=rounds
        )
        self._folder, self._limit_s = folder, limit_s
        self._libvirt = world.Libvirt(Path("/run/libvirtd.log"))
        self._libvirt.start()
        self._stage = Stage(folder)
        self._clients = Clients(Path("/run"))
        self._mounts = _mounts()

    def carry_out(
        self, wanted: Sequence[Scenario], *, before: Sequence[Trial] = (), note: Callable[[Trial], None]
    ) -> Report:
        """First a trial of each pair of a command and a kind of fault, and of a program and a signal; then the others.

        before: of the same seed, which are not tried again. note: called with each trial when it is over.
        """
        report, begin, coverage = Report(), time.monotonic(), Coverage()
        scenarios.prepare(self._stage, {it.begin for it in wanted})
        queue = self._all_trials([self._undisturbed(it) for it in wanted])
        report.planned = len(queue)
        known = {(it.scenario, it.key): it for it in before}
        for planned in list(queue):
            if trial := known.get((planned.undisturbed.scenario.name, planned.key)):
                queue.remove(planned)
                coverage.done |= planned.covers
                report.trials.append(trial)
        while queue and time.monotonic() - begin < self._limit_s:
            planned = coverage.next(queue)
            if (trial := self._try(planned)) is None:
                report.missed += 1
            else:
                coverage.done |= planned.covers
                report.add(trial)
                note(trial)
        # Of a pair all of whose trials came too late there is none.
        report.pairs = sorted(coverage.done.union(*(it.covers for it in queue)))
        report.covered = sorted(coverage.done)
        report.installations = self._clients.installations
        return report

    def _undisturbed(self, scenario: Scenario) -> Undisturbed:
        self._set_out(scenario)
        started = time.monotonic()
        trace = self._stage.trace(*scenarios.words(scenario, self._stage))
        seconds = time.monotonic() - started
        # One after the other is what comes of them at once, too.
        if wrong := self._run_beside(scenario):
            raise AssertionError(f"{scenario.name}, undisturbed: {wrong}")
        self._after(scenario)
        found = Undisturbed(scenario, trace, scenario.result(self._stage), seconds)
        if wrong := self._channels():
            raise AssertionError(f"{scenario.name}, undisturbed: {wrong}")
        return found

    def _victim(self, name: str, golden: int) -> int | None:
        match name:
            case "golden" | "the host":
                return golden
            case "libvirtd":
                return self._libvirt.pid
            case "QEMU":
                return next(iter(world.machines()), None)
            case _:
                return next(iter(world.below(golden)), None)

    def _suffer(self, scenario: Scenario, words: Sequence[str], hardship: Hardship) -> tuple[Ended, set[int]]:
        """Run the command so; returns how it ended, and how it may."""
        if hardship.count > 1:
            ended = self._stage.goldens(*[words] * hardship.count)
            # One does it; the others are told who is at work, or come when it is done.
            return next((it for it in ended if it.status not in (0, 3) or BUG in it.err), ended[0]), {0, 2, 3}
        if hardship.room_bytes is not None:
            world.leave_room(self._folder, hardship.room_bytes)
        if hardship.is_from_future:
            self._stage.come_from_the_future()
            return self._stage.golden(*words), {0}
        if hardship.is_readonly:
            world.remount(self._folder, "ro")
        try:
            ended_one = self._stage.golden(
                *words, limits=hardship.limits, beside=scenarios.beside(scenario, self._stage)
            )
            return ended_one, _TOLD
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

    def _try(self, planned: Planned) -> Trial | None:
        """None if nothing happened: the command was over before the blow, or whom it was for was not there."""
        it, disturbance = planned.undisturbed, planned.disturbance
        scenario, begin = it.scenario, time.monotonic()
        said, kind = plans.named(disturbance)
        status, wrong = None, []
        is_off = plans.REBOOT in kind or "for QEMU" in kind
        try:
            self._set_out(scenario)
            words = scenarios.words(scenario, self._stage)
            first, expects = self._disturb(scenario, words, disturbance)
            if not first.was_struck and (isinstance(disturbance, Blow) or kind.endswith("for QEMU")):
                return None
            status = first.status
            # Beside others, it may be told that they are at work.
            wrong += self._look(first, expects | {0, 3} if scenario.beside else expects)
            wrong += self._again(scenario, words, it.result, is_off=is_off)
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {error}")
        return Trial(scenario.name, said, kind, status, tuple(wrong), time.monotonic() - begin, planned.key)

    def _disturb(self, scenario: Scenario, words: Sequence[str], disturbance: Disturbance) -> tuple[Ended, set[int]]:
        """Run the command so; returns how it ended, and how it may."""
        if isinstance(disturbance, Hardship):
            return self._suffer(scenario, words, disturbance)
        if isinstance(disturbance, Blow):
            # The signal may come before golden takes heed of it, or when it has nothing left to do.
            is_own = disturbance.name in ("golden", "the host")
            at = partial(self._victim, disturbance.name)
            ended = self._stage.golden(*words, blow=disturbance, at=at, beside=scenarios.beside(scenario, self._stage))
            self._after_blow(disturbance.name, "kill" if disturbance.by == signal.SIGKILL else "term", ended)
            return ended, {0, -disturbance.by, 130} if is_own else _TOLD
        place, _, what = disturbance.rpartition(":")
        name, _, whom = what.partition("@")
        if whom == "QEMU" or name == "restart":
            at = partial(self._halted, name, whom)
            ended = self._stage.golden(
                *words, fault=f"{place}:stop", at=at, beside=scenarios.beside(scenario, self._stage)
            )
            return ended, _TOLD
        asked = f"{place}:{what}".replace("@libvirtd", f"@{self._libvirt.pid}").replace(":reboot", ":kill")
        ended = self._stage.golden(*words, fault=asked, beside=scenarios.beside(scenario, self._stage))
        self._after_blow("the host" if name == "reboot" else whom, name, ended)
        return ended, _ENDS.get(what, _TOLD)

    def _after_blow(self, whom: str, how: str, ended: Ended) -> None:
        if whom == "the host":
            world.reboot(self._libvirt, *self._stage.servers)
        elif whom == "libvirtd" and how == "term":
            # It is not gone at once; if nobody told it, it goes on.
            self._libvirt.end(by=signal.SIGTERM)

    def _halted(self, name: str, whom: str, _golden: int) -> bool:
        """While golden stands still at a place: whether there was somebody to be struck."""
        if whom == "libvirtd":
            self._libvirt.end(by=signal.SIGTERM)
            self._libvirt.start()
            return True
        struck = world.machines()
        for pid in struck:
            world.kill(pid, signal.Signals[f"SIG{name.upper()}"])
        return bool(struck)

    def _look(self, first: Ended, expects: set[int]) -> list[str]:
        """What is wrong right after the end."""
        wrong = []
        if first.status not in expects or BUG in first.err:
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
            for pid, command in world.processes(self._libvirt.pid, *self._stage.servers).items()
            if "qemu-system" not in command.partition(" ")[0]
        }

    def _run_beside(self, scenario: Scenario) -> list[str]:
        """One after the other, what was run at the same time as the command; what is wrong with that."""
        wrong = []
        for command in scenarios.beside(scenario, self._stage):
            ended = self._stage.golden(*command)
            if ended.status == 2 and scenario.is_done(ended):
                self._stage.ok(*scenario.undo)
                ended = self._stage.golden(*command)
            if ended.status != 0:
                wrong.append(f"the next run of {' '.join(command)} ended with {ended.status}: {ended.err[-1500:]}")
        return wrong

    def _again(self, scenario: Scenario, words: Sequence[str], expected: Any, *, is_off: bool) -> list[str]:
        wrong = []
        for command in scenario.clears:
            self._stage.ok(*command)
        wrong += self._run_beside(scenario)
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


def _unlike(found: Any, expected: Any) -> list[Any]:
    return [it for it in expected if found.get(it) != expected[it]] if isinstance(expected, dict) else []


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 900 else f"{text[:900]}…"


def _mounts() -> set[str]:
    return {line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()}

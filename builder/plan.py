"""Definitions and builds -> what to do, in order, and why. Pure: reads nothing, starts nothing, asks no clock."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import Field

from builder.checks import Check
from builder.input_changes import NOT_KNOWN as NOT_KNOWN
from builder.input_changes import Change, changes, in_detail, in_short
from builder.inputs import Inputs
from builder.model import Build, Frozen, Image, ImageId, Project, Refresh

# Half a day less than their names say: a night that begins a little earlier than the last one is the next one still.
PERIODS: Mapping[Refresh, timedelta] = {
    "nightly": timedelta(hours=12),
    "weekly": timedelta(days=6, hours=12),
    "monthly": timedelta(days=29, hours=12),
}

Action = Literal["reuse", "build", "rebuild", "refresh"]


class Planned(Frozen):
    """One image's turn. parent: the image that it is made from, also where that is no parent but is made flat.

    action: "build" is the first of an image, "rebuild" follows a change, "refresh" the time. build: the one to reuse,
    None if there will be a new one. key: content key, over `inputs`; of a build that is reused, its own. texts: as of
    `Build`. reason: one line; why: the same with the change itself. changes: since the newest build.
    recipe: SHA-256 over what decides the result besides what time brings. standing: the build that goes on standing
    if the new one comes out with the same packages. due: when its time comes, UTC, ISO 8601, if it has one.
    """

    image: str
    parent: str | None
    action: Action
    reason: str
    why: str
    key: str
    inputs: dict[str, str]
    texts: dict[str, str] = Field(default={})
    changes: tuple[Change, ...] = ()
    recipe: str = ""
    build: Build | None
    standing: Build | None = None
    due: str | None = None


@dataclass(frozen=True)
class Known:
    """What a plan knows of the store. builds: all of the images concerned. checks: image -> its newest.

    fault: why a build does not count, in words; empty if its file is the one that was built.
    """

    builds: Iterable[Build]
    fault: Callable[[Build], str]
    checks: Mapping[str, Check] = field(default_factory=dict)


def content_key(inputs: Mapping[str, str]) -> str:
    """Hex SHA-256 over inputs, whatever their order."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def order(project: Project, wanted: Iterable[str]) -> list[str]:
    """The wanted images and all that they are made from, parents first, each once."""
    found: dict[str, None] = {}
    for name in wanted:
        chain: list[str] = []
        at: str | None = name
        while at is not None and at not in found:
            chain.append(at)
            at = project.images[at].source
        found |= dict.fromkeys(reversed(chain))
    return list(found)


def plan(
    project: Project,
    wanted: Iterable[str],
    *,
    inputs: Mapping[str, Inputs],
    known: Known,
    now: datetime,
    rebuild: Iterable[str] = (),
    refresh: Iterable[str] = (),
    standing: Mapping[str, Build] | None = None,
) -> list[Planned]:
    """Decide for every wanted image and its parents between its newest build and a new one.

    inputs: of every image concerned. now: what the time is, with its zone. rebuild: images to build whatever their key
    says. refresh: images whose time has come, whatever the clock says.
    standing: builds that are taken as they are, whatever has changed since; no inputs are needed of them.
    """
    planner = _Planner(project, inputs, known, now, rebuild=frozenset(rebuild), refresh=frozenset(refresh))
    for name in order(project, wanted):
        planner.decide(name, (standing or {}).get(name))
    return list(planner.planned.values())


class _Planner:
    """One plan in the making; parents are decided before their children."""

    def __init__(
        self,
        project: Project,
        inputs: Mapping[str, Inputs],
        known: Known,
        now: datetime,
        *,
        rebuild: frozenset[str],
        refresh: frozenset[str],
    ) -> None:
        self.project = project
        self.inputs = inputs
        self.known = known
        self.now = now
        self.rebuild = rebuild
        self.refresh = refresh
        self.builds = {build.stem: build for build in known.builds}
        self.newest: dict[str, Build] = {}
        for build in sorted(known.builds, key=lambda build: build.id.age):
            self.newest[build.image] = build
        self.planned: dict[str, Planned] = {}
        self._recipes: dict[str, str] = {}

    def decide(self, name: str, standing: Build | None) -> None:
        image = self.project.images[name]
        if standing is not None:
            self.planned[name] = self._as_it_stands(standing, image.source)
            return
        self.planned[name] = _Case(self, image).planned()

    def _as_it_stands(self, build: Build, parent: str | None) -> Planned:
        return Planned(
            image=build.image,
            parent=parent,
            action="reuse",
            reason="it is taken as it stands",
            why="it is taken as it stands",
            key=build.key,
            inputs=build.inputs,
            recipe=self.recipe_of(build),
            build=build,
        )

    def lasting(self, name: str, inputs: Mapping[str, str]) -> dict[str, str]:
        """Less what time brings: the parent's key, and what package repositories hold."""
        timely = self.inputs[name].timely if name in self.inputs else frozenset()
        return {
            key: value
            for key, value in inputs.items()
            if key not in timely and not key.startswith(("repository ", "parent ", "flat form of "))
        }

    def recipe(self, name: str, inputs: Mapping[str, str], below: str) -> str:
        """below: the recipe of what it is made from."""
        return content_key({**self.lasting(name, inputs), "": below})

    def recipe_of(self, build: Build) -> str:
        """The recipe that a build was made by, and those below it; of none that is known if one is gone."""
        if build.stem not in self._recipes:
            source = self.builds.get(build.source.stem) if build.source else None
            below = "" if build.source is None else self.recipe_of(source) if source else "gone"
            self._recipes[build.stem] = self.recipe(build.image, build.inputs, below)
        return self._recipes[build.stem]


class _Case:
    """One image, and all that speaks for a new build of it."""

    def __init__(self, planner: _Planner, image: Image) -> None:
        self.planner = planner
        self.image = image
        self.below = planner.planned[image.source] if image.source else None
        own = planner.inputs[image.name]
        self.inputs = dict(own.values)
        if self.below is not None:
            self.inputs[f"{'flat form of' if image.flat_of else 'parent'} {image.source}"] = self.below.key
        self.build = planner.newest.get(image.name)
        check = planner.known.checks.get(image.name)
        self.check = check if check and self.build and check.build == self.build.id else None
        self.changes: list[Change] = []
        if self.build is not None:
            last = self.check or self.build
            self.changes = changes(last.inputs, self.inputs, old_texts=last.texts, new_texts=own.texts)

    def planned(self) -> Planned:
        action, reason, why = self._decided()
        image, build = self.image, self.build
        if action == "reuse":
            assert build is not None
            key, inputs, texts = build.key, build.inputs, build.texts
        else:
            key, inputs, texts = content_key(self.inputs), self.inputs, self.planner.inputs[image.name].texts
        due = self._due()
        return Planned(
            image=image.name,
            parent=image.source,
            action=action,
            reason=reason,
            why=why or reason,
            key=key,
            inputs=inputs,
            texts=texts,
            changes=tuple(self.changes),
            recipe=self._recipe(),
            build=build if action == "reuse" else None,
            standing=self._standing() if action in ("rebuild", "refresh") else None,
            due=due.isoformat(timespec="minutes") if due else None,
        )

    def _decided(self) -> tuple[Action, str, str]:
        """(action, reason, the reason with the change itself)"""
        build = self.build
        if build is None:
            unknown = [change.short for change in changes({}, self.inputs) if change.kind == "unknown"]
            return "build", "; ".join(["never built", *unknown]), ""
        if self.image.name in self.planner.rebuild:
            return "rebuild", "asked for", ""
        if fault := self.planner.known.fault(build):
            return "rebuild", fault, ""
        if self.image.name in self.planner.refresh:
            more = f": {in_short(self.changes)}" if self.changes else ""
            return "refresh", f"a refresh was asked for{more}", self._detailed("a refresh was asked for")
        if self.image.refresh == "on-change" or self.image.flat_of:
            reason, why = self._changed()
            return ("rebuild", reason, why) if reason else ("reuse", f"nothing changed since {build.version}", "")
        return self._in_its_time(build)

    def _in_its_time(self, build: Build) -> tuple[Action, str, str]:
        """Of an image that is refreshed by the clock: what time brings waits for it, all else does not."""
        refresh, due = self.image.refresh, self._due()
        assert due is not None
        reason, why = self._changed()
        if gone := self._gone_below(build):
            return "rebuild", gone, ""
        if self._recipe() != self.planner.recipe_of(build):
            return "rebuild", reason or f"the recipe changed since {build.version}", why
        if self.planner.now < due:
            if not reason:
                return "reuse", f"nothing changed since {build.version}", ""
            return "reuse", f"{reason}; it is refreshed {refresh}, next from {due:%Y-%m-%d %H:%M} UTC", ""
        time_came = f"its time came ({refresh})"
        if reason:
            return "refresh", f"{time_came}: {reason}", f"{time_came}: {why or reason}"
        if self.planner.inputs[self.image.name].is_blind:
            return "refresh", f"{time_came}, and golden cannot see all that decides it", ""
        return "reuse", f"its time came ({refresh}), and nothing changed since {build.version}", ""

    def _changed(self) -> tuple[str, str]:
        """What is not as it was, parents included; empty if all is."""
        below, build = self.below, self.build
        if below is not None and below.build is None:
            verb = "refreshed" if below.action == "refresh" else "built"
            return f"{below.image} will be {verb}", f"{below.image} will be {verb}: {below.why}"
        if self.changes:
            return in_short(self.changes), in_detail(self.changes)
        if below is not None and below.build is not None and build is not None and build.source != below.build.id:
            return f"{build.version} stands on another build of {below.image}", self._moved(build.source, below.build)
        return "", ""

    def _moved(self, before: ImageId | None, now: Build) -> str:
        old = before.stem if before else "none"
        return f"{self.build.version if self.build else ''} stands on {old}, and the newest is {now.stem}"

    def _detailed(self, reason: str) -> str:
        return f"{reason}: {in_detail(self.changes)}" if self.changes else reason

    def _recipe(self) -> str:
        return self.planner.recipe(self.image.name, self.inputs, self.below.recipe if self.below else "")

    def _gone_below(self, build: Build) -> str:
        """What it stands on may be older than its parent's newest build, and nobody else has looked at that."""
        at = build.source
        while at is not None:
            link = self.planner.builds.get(at.stem)
            if link is None:
                return f"{build.version} stands on {at.stem}, which is gone"
            if fault := self.planner.known.fault(link):
                return f"{build.version} stands on {at.image}: {fault}"
            at = link.source
        return ""

    def _standing(self) -> Build | None:
        """The newest build, if nothing but time speaks against it and it stands on the same parent."""
        build, below = self.build, self.below
        assert build is not None
        if self.image.name in self.planner.rebuild or self.planner.known.fault(build):
            return None
        if below is not None and (below.build is None or build.source != below.build.id):
            return None
        old, new = (self.planner.lasting(self.image.name, it) for it in (build.inputs, self.inputs))
        return build if old == new else None

    def _due(self) -> datetime | None:
        if self.build is None or self.image.refresh == "on-change" or self.image.flat_of:
            return None
        times = [self.build.started, *([self.check.at] if self.check else [])]
        last = max((_time(text) for text in times if text), default=datetime.min.replace(tzinfo=UTC))
        return last + PERIODS[self.image.refresh]


def _time(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)

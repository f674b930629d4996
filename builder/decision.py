"""Definitions, store and clock -> plan: looked up once, decided as often as a build is finished."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from builder import checks
from builder.digests import Artifacts
from builder.inputs import all_inputs
from builder.model import Build, Project
from builder.plan import Known, Planned, order, plan
from builder.store import Store


class Decision:
    """Everything that a plan of `wanted` needs, read once; builds' files are looked at when it comes to them."""

    def __init__(
        self,
        project: Project,
        store: Store,
        wanted: Iterable[str],
        *,
        rebuild: Iterable[str] = (),
        refresh: Iterable[str] = (),
        standing: Mapping[str, Build] | None = None,
        now: datetime | None = None,
        offline: Callable[[str], None] | None = None,
        note: Callable[[str], None] | None = None,
        builds: Iterable[Build] | None = None,
    ) -> None:
        """Raises ConfigError for what cannot be planned. Starts no machine.

        standing: builds that are taken as they are, whatever has changed since. now: the real time unless given.
        offline: as of `inputs.Repositories`. note: hears of what may take a while.
        builds: in place of the store's, those of a channel: their files are not here and are taken to be right.
        """
        self.project = project
        self.store = store
        self.names = order(project, wanted)
        self.rebuild, self.refresh = list(rebuild), list(refresh)
        self.standing = dict(standing or {})
        self.now = now or datetime.now(UTC)
        self.inputs = all_inputs(
            project,
            [name for name in self.names if name not in self.standing],
            state=store.state,
            offline=offline,
        )
        self.artifacts = Artifacts(store, note=note)
        self._faults: dict[str, str] = {}
        self.known = Known(
            builds=store.builds() if builds is None else list(builds),
            fault=self._fault if builds is None else lambda _: "",
            checks=checks.checks(store),
        )

    def plan(self, *, done: Mapping[str, Build] | None = None) -> list[Planned]:
        """What a build would do, and why. done: images whose turn is over, with the build that stands for each."""
        planned = self._plan(self.names, done or {})
        self.artifacts.save()
        return planned

    def next(self, name: str, *, done: Mapping[str, Build]) -> Planned:
        """The turn of one image, now that its parents' are over."""
        return self._plan([name], done)[-1]

    def _plan(self, names: Iterable[str], done: Mapping[str, Build]) -> list[Planned]:
        return plan(
            self.project,
            names,
            inputs=self.inputs,
            known=replace(self.known, builds=[*self.known.builds, *done.values()]),
            now=self.now,
            rebuild=self.rebuild,
            refresh=self.refresh,
            standing={**self.standing, **done},
        )

    def _fault(self, build: Build) -> str:
        if build.stem not in self._faults:
            self._faults[build.stem] = self.artifacts.fault(build)
        return self._faults[build.stem]

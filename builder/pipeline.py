"""Carries out a plan: one build after the other, each in a folder of its own, visible only when it is whole."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from builder import (
    bases,
    checks,
    dry_run,
    flatten,
    inputs,
    layer,
    package_changes,
    preflight,
    provision,
    resuming,
    seal,
)
from builder.checks import Check
from builder.construction import Construction
from builder.decision import Decision
from builder.digests import Artifacts
from builder.errors import GoldenError, host_errors_told
from builder.layer import Bench, Command
from builder.model import Build, ImageId, Project
from builder.plan import Planned, order
from builder.progress import Reporter
from builder.resuming import Start
from builder.store import Store
from builder.tools.free_port import free_port
from builder.tools.libvirt import Connection
from builder.units import GIB
from builder.workshop import Host, Workshop

_ROOM_BYTES = 4 * GIB
_COMPRESS_TIMEOUT_S = 3600
_PROGRAMS = ("virt-install", "virt-customize", "qemu-img", "ssh", "xorriso")


class Pipeline:
    """Builds images of one project into its store.

    standing: builds that are taken as they are. now: what the time is, for what is refreshed by the clock.
    """

    def __init__(
        self,
        project: Project,
        store: Store,
        *,
        host: Host,
        reporter: Reporter,
        standing: Mapping[str, Build] | None = None,
        now: datetime | None = None,
    ) -> None:
        self.standing = standing or {}
        self.now = now
        self.project = project
        self.store = store
        self.host = host
        self.reporter = reporter

    @property
    def workshop(self) -> Workshop:
        return Workshop(self.project, self.store, self.host)

    def build(
        self,
        wanted: Sequence[str],
        *,
        rebuild: Sequence[str] = (),
        refresh: Sequence[str] = (),
        resume: Sequence[str] = (),
        connection: Connection,
        is_step: bool = False,
    ) -> list[Build]:
        """Build `wanted` and whatever they stand on, as far as that is not there already.

        rebuild: images to build whatever their key says. refresh: images to look at anew as if their time had come.
        resume: images whose failed build is gone on from, as far as it holds what the recipe says now.
        is_step: of a night, which has the lock to share and has cleared away what earlier runs left.
        Returns the builds of the plan, parents first; of an image in which a new build found nothing new, the one that
        stands. What is finished stays when a later one fails.
        Raises what the failing step raised, with the place of what was kept.
        """
        preflight.require(_PROGRAMS, "build images")
        preflight.need_reach(self.store.root, connection)
        for name in order(self.project, wanted):
            preflight.need_architecture(self.project.distribution_of(name).arch, name)
        self._fetch(wanted, rebuild=rebuild, refresh=refresh)
        with self.store.lock_beside_others(wanted) if is_step else self.store.lock():
            if not is_step:
                clear(self.store, connection, reporter=self.reporter)
            done: dict[str, Build] = {}
            decision = self._decision(wanted, rebuild=rebuild, refresh=refresh)
            for name in decision.names:
                # Again each time: a parent that came out as it was leaves its children as they are.
                planned = decision.next(name, done=done)
                if planned.build is not None:
                    self.reporter.note(f"{name}: {planned.build.version} stands: {planned.reason}")
                    done[name] = planned.build
                else:
                    self.reporter.note(f"{name}: a new build: {planned.why}")
                    parent = done[planned.parent] if planned.parent else None
                    done[name] = self._build(planned, parent, connection, is_resumed=name in resume)
        return list(done.values())

    def _decision(self, wanted: Sequence[str], *, rebuild: Sequence[str], refresh: Sequence[str]) -> Decision:
        return Decision(
            self.project,
            self.store,
            wanted,
            rebuild=rebuild,
            refresh=refresh,
            standing=self.standing,
            now=self.now,
            note=self.reporter.note,
        )

    def dry_run(
        self, wanted: Sequence[str], *, rebuild: Sequence[str] = (), refresh: Sequence[str] = ()
    ) -> dict[str, list[Command]]:
        """As `dry_run.commands`, for what a build of `wanted` would make."""
        return dry_run.commands(self.workshop, self._decision(wanted, rebuild=rebuild, refresh=refresh))

    # --- one build

    def _build(
        self, planned: Planned, parent: Build | None, connection: Connection, *, is_resumed: bool = False
    ) -> Build:
        """is_resumed: go on from what a failed build left, as far as it is good."""
        image = self.project.images[planned.image]
        if image.flat_of and parent is not None:
            return flatten.flatten(self.store, planned, image, parent, reporter=self.reporter)
        preflight.need_disk(self.store.root, _ROOM_BYTES, f"build '{planned.image}'")
        provision.check(image.steps, project=self.project.folder)
        chain = self.store.chain(parent) if parent else []
        if parent is not None:
            with self.reporter.step(f"{planned.image}: verify the parent {parent.stem}"):
                self.store.verify(parent)
        start = resuming.begin(self.project, self.store, planned, parent=parent, is_resumed=is_resumed)
        if start.said:
            self.reporter.note(f"{image.name}: {start.said}")
        planned, trail = start.planned, start.trail
        bench = self.workshop.bench(planned, version=trail.record.version, work=trail.work)
        try:
            with host_errors_told():
                bench.logs.mkdir(parents=True, exist_ok=True)
                build = self._make(planned, bench, chain, connection, start=start)
        except KeyboardInterrupt:
            shutil.rmtree(bench.work)
            raise
        except GoldenError as error:
            error.details.append(("kept", f"{bench.work}: the disk, the logs, the exact commands"))
            resuming.keep(start, image, error)
            raise
        shutil.rmtree(bench.work)
        return build

    def _make(
        self, planned: Planned, bench: Bench, chain: Sequence[Build], connection: Connection, *, start: Start
    ) -> Build:
        name, started, first, trail = planned.image, datetime.now(UTC), len(self.reporter.times), start.trail
        parents = [self.store.qcow2(build) for build in chain]
        target = self.store.images / f".{name}-{bench.version}.qcow2.part"
        shop = self.workshop
        with shop.served_tree(bench) as bench, shop.repositories(planned) as repositories:
            shop.write_inputs(bench, parents, repositories, port=free_port())
            commands = shop.commands(bench, parents, target, repositories, port=0)
            (bench.logs / "commands").write_text("".join(f"{command.line}\n" for command in commands))
            work = Construction(shop, bench, trail, parents, repositories, connection, self.reporter)
            if trail.last is None:
                work.make_first_disk()
            elif not trail.last.is_sealed:
                resuming.grow(trail)
            for phase in start.phases(bench.phases):
                with self.reporter.step(f"{name}: {phase.title}") as step:
                    versions = work.carry_out(phase, note=step.note)
                resuming.mark_phase(trail, phase, is_prepared=bench.is_import, versions=versions)
        inputs.need_unchanged(self.project, bench.image, planned.inputs)
        report = seal.read_report(bench.output)
        packages = bench.work / "packages"
        packages.write_text("".join(f"{package}\n" for package in report.packages), encoding="utf-8")
        if (standing := self._same_as_before(planned, packages, trail.record.software)) is not None:
            return standing
        package_changes.write(
            package_changes.describe(
                list(report.packages),
                parent=chain[0] if chain else None,
                previous=self.store.newest(name),
                store=self.store,
                changelogs=report.changelogs,
            ),
            bench.logs,
        )
        with self.reporter.step(f"{name}: compress and check"):
            if parents and trail.below:
                resuming.merge(trail, log=bench.logs / "compress.log", timeout_s=_COMPRESS_TIMEOUT_S)
            sealed = seal.compress(
                trail.top,
                target,
                parents=parents,
                log=bench.logs / "compress.log",
                timeout_s=_COMPRESS_TIMEOUT_S,
            )
            if chain:
                self.store.verify(chain[0])
        build = Build(
            id=ImageId(image=name, version=bench.version, sha256=sealed.sha256),
            parent=chain[0].id if chain else None,
            private=bench.image.is_private
            or bases.is_private(bench.image, bench.distribution)
            or any(build.private for build in chain),
            obsoletes=bench.image.obsoletes,
            distribution=bench.distribution.name,
            description=bench.image.description,
            key=planned.key,
            inputs=planned.inputs,
            texts=planned.texts,
            reason=planned.why,
            size_bytes=sealed.size_bytes,
            virtual_bytes=sealed.virtual_bytes,
            packages=len(report.packages),
            packages_sha256=hashlib.sha256(packages.read_bytes()).hexdigest(),
            private_keys=report.private_keys,
            key_fingerprints=report.key_fingerprints,
            arch=bench.distribution.arch,
            firmware=bench.distribution.firmware,
            memory_mib=bench.distribution.memory_mib,
            cpus=bench.distribution.cpus,
            accelerator=self.host.accelerator.kind,
            started=started.isoformat(timespec="seconds"),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            times=tuple(self.reporter.times[first:]),
            commands=tuple(command.line for command in commands),
            # virt-install is asked only where it was used: it takes its time to say its version.
            tools=preflight.versions([name for name in _PROGRAMS if name != "virt-install" or not chain]),
            software=trail.record.software,
        )
        self.store.commit(build, disk=target, packages=packages, logs=bench.logs)
        Artifacts(self.store).remember(build)
        return build

    def _same_as_before(self, planned: Planned, packages: Path, software: Mapping[str, str]) -> Build | None:
        """The build that goes on standing because nothing new came of this one; remembered, so that it is not repeated.

        packages: the new list, a file. software: versions that online steps found, which no package list tells.
        """
        standing = planned.standing
        if standing is None or software != standing.software:
            return None
        if hashlib.sha256(packages.read_bytes()).hexdigest() != standing.packages_sha256:
            return None
        checks.write(
            self.store,
            Check(
                build=standing.id,
                key=planned.key,
                inputs=planned.inputs,
                texts=planned.texts,
                reason=planned.why,
                at=(self.now or datetime.now(UTC)).isoformat(timespec="seconds"),
            ),
        )
        self.reporter.note(f"{planned.image}: nothing new: the same recipe and packages; {standing.version} stands")
        return standing

    def _fetch(self, wanted: Sequence[str], *, rebuild: Sequence[str], refresh: Sequence[str]) -> None:
        """Before the lock of the store: what takes long here takes nothing from another golden of this project."""
        names = [name for name in order(self.project, wanted) if self._is_made_of_a_source(name)]
        bases.refresh(self.project, names, state=self.store.state, reporter=self.reporter)
        for planned in self._decision(wanted, rebuild=rebuild, refresh=refresh).plan():
            if planned.build is None and planned.image in names:
                bases.fetch(self.project, planned.image, state=self.store.state, reporter=self.reporter)

    def _is_made_of_a_source(self, name: str) -> bool:
        image = self.project.images[name]
        return image.parent is None and image.flat_of is None and name not in self.standing


def clear(store: Store, connection: Connection, *, reporter: Reporter) -> None:
    """What a golden that was killed left of this store; no other one is at work, since the lock is the caller's."""
    prefix = layer.domain_prefix(store.id)
    for name in connection.destroy_matching(lambda domain: domain.name.startswith(prefix)):
        reporter.note(f"removed the machine {name} that an earlier run left")
    for pool in connection.pools_below(store.work):
        pool.remove()
        reporter.note(f"removed the storage pool {pool.name} that an earlier run left")
    for path in store.remove_finished():
        reporter.note(f"removed {path.name}, which an earlier run had finished with")
    for path in store.remove_orphans():
        reporter.note(f"removed {path.name} that an earlier run left half-made")

"""Carries out a plan: one build after the other, each in a folder of its own, visible only when it is whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from builder import (
    bases,
    checks,
    flatten,
    importing,
    inputs,
    install,
    layer,
    mirrors,
    package_changes,
    preflight,
    provision,
    resuming,
    seal,
)
from builder.checkpoints import Trail
from builder.checks import Check
from builder.decision import Decision
from builder.decision import decide as decide
from builder.digests import Artifacts
from builder.errors import GoldenError, host_errors_told
from builder.layer import Bench, Command, Phase
from builder.model import Build, ImageId, Project, Repository
from builder.plan import Planned, order
from builder.preflight import Accelerator
from builder.progress import Reporter
from builder.resuming import Start
from builder.store import Store
from builder.tools import guestfs, proxies, qemu_img, scratch_disk, virt_install
from builder.tools.domain import domain_xml
from builder.tools.free_port import free_port
from builder.tools.guestfs import Operation
from builder.tools.libvirt import Connection
from builder.tools.virt_install import Installation
from builder.tools.webserver import serving
from builder.units import GIB

_ROOM_BYTES = 4 * GIB
_COMPRESS_TIMEOUT_S = 3600
_PROGRAMS = ("virt-install", "virt-customize", "qemu-img", "ssh", "xorriso")


@dataclass(frozen=True)
class Host:
    """What a build needs of this machine. uri: libvirt's, as virt-install is told it."""

    uri: str
    accelerator: Accelerator

    @property
    def is_kvm(self) -> bool:
        return self.accelerator.kind == "kvm"


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
        """The commands of each build that would be made, ready to paste, and the files they name, really written."""
        found: dict[str, list[Command]] = {}
        would_be: dict[str, list[Path]] = {}
        for planned in self._decision(wanted, rebuild=rebuild, refresh=refresh).plan():
            below = would_be[planned.parent] if planned.parent else []
            if planned.build is not None:
                would_be[planned.image] = [self.store.qcow2(planned.build), *below]
                continue
            folder = self.store.root / "dry-run" / planned.image
            shutil.rmtree(folder, ignore_errors=True)
            bench = self._bench(planned, version=self.store.next_version(planned.image), work=folder)
            bench.logs.mkdir(parents=True)
            target = self.store.images / f"{planned.image}-{bench.version}.qcow2"
            if self.project.images[planned.image].flat_of:
                would_be[planned.image] = [target]
                found[planned.image] = flatten.commands(below[0], target)
                continue
            would_be[planned.image] = [target, *below]
            port = free_port()
            servers, repositories = self._addresses(planned)
            if (folder_of_tree := _tree_of(bench)) is not None:
                tree_port = free_port()
                servers.append(_serve_command(folder_of_tree, port=tree_port, what="the tree"))
                bench = bench.model_copy(update={"tree": virt_install.host_address(tree_port)})
            self._write_inputs(bench, below, repositories, port=port)
            servers = self._download_commands(planned) + servers
            found[planned.image] = servers + self._commands(bench, below, target, repositories, port=port)
        return found

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
        bench = self._bench(planned, version=trail.record.version, work=trail.work)
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
        with self._served_tree(bench) as bench, self._repositories(planned) as repositories:
            self._write_inputs(bench, parents, repositories, port=free_port())
            commands = self._commands(bench, parents, target, repositories, port=0)
            (bench.logs / "commands").write_text("".join(f"{command.line}\n" for command in commands))
            if trail.last is None:
                self._make_first_disk(bench, parents, connection, trail)
            elif not trail.last.is_sealed:
                resuming.grow(trail)
            for phase in start.phases(bench.phases):
                with self.reporter.step(f"{name}: {phase.title}") as step:
                    versions = self._phase(bench, phase, parents, repositories, connection, trail=trail, note=step.note)
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
            arch=bench.distribution.arch,
            firmware=bench.distribution.firmware,
            memory_mib=bench.distribution.memory_mib,
            cpus=bench.distribution.cpus,
            accelerator=self.host.accelerator.kind,
            started=started.isoformat(timespec="seconds"),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            times=tuple(self.reporter.times[first:]),
            commands=tuple(command.line for command in commands),
            tools=preflight.versions(_PROGRAMS),
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

    def _make_first_disk(self, bench: Bench, parents: Sequence[Path], connection: Connection, trail: Trail) -> None:
        """An overlay, which is made as quickly again; or an installation, which is worth a checkpoint."""
        if parents:
            qemu_img.create_overlay(trail.top, parents[0])
            return
        self._make_base(bench, connection)
        trail.mark(0)
        resuming.grow(trail)

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

    def _make_base(self, bench: Bench, connection: Connection) -> None:
        source = bases.source_of(bench.distribution)
        with bases.held(source, state=self.store.state):
            if not bench.is_import:
                self._install(bench, connection)
                return
            with self.reporter.step(f"{bench.image.name}: import") as step:
                importing.bring_in(
                    source,
                    Path(source.location),
                    bench.disk,
                    image=bench.image,
                    log=bench.logs / "import.log",
                    is_kvm=self.host.is_kvm,
                    time_factor=self.host.accelerator.time_factor,
                    note=step.note,
                )

    def _install(self, bench: Bench, connection: Connection) -> None:
        qemu_img.create(bench.disk, bench.image.disk_bytes or 0)
        installation = layer.installation(
            bench, uri=self.host.uri, is_kvm=self.host.is_kvm, time_factor=self.host.accelerator.time_factor
        )
        self._say_what_is_odd(bench, installation)
        with self.reporter.step(f"{bench.image.name}: install") as step, self._removed(connection, bench.domain):
            install.install(
                installation,
                image=bench.image.name,
                log=bench.logs / "virt-install.log",
                silence_s=bench.distribution.limits.silence_s * self.host.accelerator.time_factor,
                note=step.note,
            )

    def _say_what_is_odd(self, bench: Bench, installation: Installation) -> None:
        name, distribution = bench.image.name, bench.distribution
        if installation.osinfo != distribution.osinfo:
            self.reporter.note(
                f"{name}: this machine's osinfo-db does not know '{distribution.osinfo}'; "
                f"virt-install is told '{installation.osinfo}'"
            )
        if installation.proxy and proxies.has_login(str(installation.location)):
            self.reporter.note(
                f"{name}: the installer is told the proxy {installation.proxy} without its login, which everybody on "
                "this host could read; if that is not let through, install from a DVD"
            )
        for what in install.advice(distribution, bench.kickstart.read_text(encoding="utf-8"), image=name):
            self.reporter.note(f"{name}: {what}")

    def _phase(
        self,
        bench: Bench,
        phase: Phase,
        parents: Sequence[Path],
        repositories: Sequence[Repository],
        connection: Connection,
        *,
        trail: Trail,
        note: Callable[[str], None],
    ) -> dict[str, str]:
        """Returns the versions that its steps found in the guest."""
        factor = self.host.accelerator.time_factor
        bench = bench.on(trail.top)
        if phase.is_online:
            scratch_disk.make(bench.scratch)
            below = [*trail.below, *parents]
            return provision.provision(
                layer.machine(bench, parents=below, is_kvm=self.host.is_kvm, port=free_port(), pid=os.getpid()),
                phase.steps,
                connection=connection,
                key=self.project.ssh_key,
                project=self.project.folder,
                logs=bench.logs,
                limits=bench.distribution.limits,
                time_factor=factor,
                note=note,
                checkpoint=lambda number, domain, versions: resuming.switch(trail, number, domain, versions),
                stage=self.reporter.part,
            )
        more = layer.more_disks(bench, phase)
        if bench.scratch in more:
            scratch_disk.make(bench.scratch)
        guestfs.customize(
            layer.operations(phase, repositories=repositories, preparations=self._preparations(bench, repositories)),
            disk=bench.disk,
            output=bench.output,
            scripts=bench.scripts,
            more=more,
            why=f"run {phase.title} on '{bench.image.name}'",
            log=bench.logs / "virt-customize.log",
            is_kvm=self.host.is_kvm,
            time_factor=factor,
            note=note,
        )
        seal.keep_output(bench.output, bench.logs)
        return {}

    # --- what a build stands in

    def _bench(self, planned: Planned, *, version: str, work: Path) -> Bench:
        image = self.project.images[planned.image]
        return Bench(
            image=image,
            distribution=bases.localized(self.project.distribution_of(image.name), state=self.store.state),
            version=version,
            work=work,
            store_id=self.store.id,
            project=self.project.folder,
        )

    def _write_inputs(
        self, bench: Bench, parents: Sequence[Path], repositories: Sequence[Repository], *, port: int
    ) -> None:
        machine = layer.machine(bench, parents=parents, is_kvm=self.host.is_kvm, port=port, pid=os.getpid())
        layer.write_inputs(
            bench,
            ssh_public_key=inputs.public_key(self.project),
            repositories=repositories,
            xml=domain_xml(machine),
            port=port,
            key=self.project.ssh_key,
            preparations=self._preparations(bench, repositories),
        )

    def _preparations(self, bench: Bench, repositories: Sequence[Repository]) -> list[Operation]:
        return bases.preparations(
            bench.image,
            bench.distribution,
            ssh_public_key=inputs.public_key(self.project),
            repositories=repositories,
        )

    def _download_commands(self, planned: Planned) -> list[Command]:
        line = bases.download_command(self.project, planned.image, state=self.store.state)
        return [Command(title="download", line=line)] if line else []

    def _commands(
        self, bench: Bench, parents: Sequence[Path], target: Path, repositories: Sequence[Repository], *, port: int
    ) -> list[Command]:
        return layer.commands(
            bench,
            parents=parents,
            target=target,
            repositories=repositories,
            uri=self.host.uri,
            is_kvm=self.host.is_kvm,
            time_factor=self.host.accelerator.time_factor,
            key=self.project.ssh_key,
            port=port,
            preparations=self._preparations(bench, repositories),
        )

    @contextlib.contextmanager
    def _repositories(self, planned: Planned) -> Iterator[list[Repository]]:
        """The image's repositories at addresses that libguestfs' appliance reaches, while the block runs."""
        with mirrors.served(self._needed_repositories(planned), host=guestfs.HOST, state=self.store.state) as found:
            yield found

    @contextlib.contextmanager
    def _served_tree(self, bench: Bench) -> Iterator[Bench]:
        """A source that is a folder is served while the block runs; the bench knows where."""
        folder = _tree_of(bench)
        if folder is None:
            yield bench
            return
        with serving(folder) as server:
            yield bench.model_copy(update={"tree": virt_install.host_address(server.port)})

    def _addresses(self, planned: Planned) -> tuple[list[Command], list[Repository]]:
        """As `_repositories`, for pasting: the commands that serve the folders, and the addresses."""
        commands, found = [], []
        for repository in self._needed_repositories(planned):
            if repository.folder is None:
                found.append(repository)
                continue
            port = free_port()
            commands.append(_serve_command(repository.folder, port=port, what=f"the repository {repository.name}"))
            found.append(mirrors.at(repository, host=guestfs.HOST, port=port))
        return commands, found

    def _needed_repositories(self, planned: Planned) -> Sequence[Repository]:
        image = self.project.images[planned.image]
        distribution = self.project.distribution_of(image.name)
        is_needed = image.needs_repositories or (image.parent is None and bases.is_import(distribution))
        return (*image.repositories, *self.project.repositories(planned.image)) if is_needed else ()

    @contextlib.contextmanager
    def _removed(self, connection: Connection, name: str) -> Iterator[None]:
        """Ending virt-install does not end its machine: whatever happens inside, the domain is gone afterwards."""
        try:
            yield
        finally:
            domain = connection.find(name)
            if domain is not None:
                domain.remove()


def clear(store: Store, connection: Connection, *, reporter: Reporter) -> None:
    """What a golden that was killed left of this store; no other one is at work, since the lock is the caller's."""
    prefix = layer.domain_prefix(store.id)
    for name in connection.destroy_matching(lambda domain: domain.name.startswith(prefix)):
        reporter.note(f"removed the machine {name} that an earlier run left")
    for path in store.remove_finished():
        reporter.note(f"removed {path.name}, which an earlier run had finished with")
    for path in store.remove_orphans():
        reporter.note(f"removed {path.name} that an earlier run left half-made")


def _tree_of(bench: Bench) -> Path | None:
    """The folder that a base is installed from, if it is one."""
    source = bench.distribution.source
    return source.tree if source is not None and bench.image.parent is None else None


def _serve_command(folder: Path, *, port: int, what: str) -> Command:
    line = f"python3 -m http.server --bind 127.0.0.1 --directory {folder} {port} &"
    return Command(title=f"serve {what}", line=line)

"""How one build comes into being: its first disk, then phase after phase on it."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder import bases, importing, install, layer, mirrors, provision, resuming, seal
from builder.checkpoints import Trail
from builder.layer import Bench, Phase
from builder.media import Repository
from builder.progress import Reporter
from builder.tools import guestfs, proxies, qemu_img, scratch_disk
from builder.tools.appliance import Appliance
from builder.tools.free_port import free_port
from builder.tools.libvirt import Connection
from builder.tools.virt_install import Installation
from builder.workshop import Workshop


@dataclass(frozen=True)
class Construction:
    """The work on one build. parents: the files of the chain below, nearest first."""

    workshop: Workshop
    bench: Bench
    trail: Trail
    parents: Sequence[Path]
    repositories: Sequence[Repository]
    connection: Connection
    reporter: Reporter

    def make_first_disk(self) -> None:
        """An overlay, which is made as quickly again; or an installation, which is worth a checkpoint."""
        if self.parents:
            qemu_img.create_overlay(self.trail.top, self.parents[0])
            return
        self._make_base()
        self.trail.mark(0)
        resuming.grow(self.trail)

    def _make_base(self) -> None:
        bench, host = self.bench, self.workshop.host
        source = bases.source_of(bench.distribution)
        with bases.held(source, state=self.workshop.store.state):
            if not bench.is_import:
                self._install()
                return
            with self.reporter.step(f"{bench.image.name}: import") as step:
                importing.bring_in(
                    source,
                    Path(source.location),
                    bench.disk,
                    image=bench.image,
                    log=bench.logs / "import.log",
                    is_kvm=host.is_kvm,
                    time_factor=host.accelerator.time_factor,
                    note=step.note,
                )

    def _install(self) -> None:
        bench, host = self.bench, self.workshop.host
        qemu_img.create(bench.disk, bench.image.disk_bytes or 0)
        installation = layer.installation(
            bench, uri=host.uri, is_kvm=host.is_kvm, time_factor=host.accelerator.time_factor
        )
        say_what_is_odd(bench, installation, note=self.reporter.note)
        with (
            self.reporter.step(f"{bench.image.name}: install") as step,
            self.connection.storage_pool(bench.work, name=bench.domain),
            _removed(self.connection, bench.domain),
        ):
            install.install(
                installation,
                image=bench.image.name,
                log=bench.logs / "virt-install.log",
                silence_s=bench.distribution.limits.silence_s * host.accelerator.time_factor,
                look=lambda: (domain := self.connection.find(bench.domain)) is None or domain.is_alive(),
                note=step.note,
            )

    def carry_out(self, phase: Phase, *, note: Callable[[str], None]) -> dict[str, str]:
        """Returns the versions that its steps found in the guest."""
        host, trail = self.workshop.host, self.trail
        bench, factor = self.bench.on(trail.top), host.accelerator.time_factor
        if phase.is_online:
            scratch_disk.make(bench.scratch)
            below = [*trail.below, *self.parents]
            return provision.provision(
                layer.machine(bench, parents=below, is_kvm=host.is_kvm, port=free_port(), pid=os.getpid()),
                phase.steps,
                repositories=mirrors.seen_from_guest(self.repositories),
                connection=self.connection,
                key=self.workshop.project.ssh_key,
                project=self.workshop.project.folder,
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
            layer.operations(
                phase,
                repositories=self.repositories,
                preparations=self.workshop.preparations(bench, self.repositories),
            ),
            disk=bench.disk,
            output=bench.output,
            scripts=bench.scripts,
            more=more,
            why=f"run {phase.title} on '{bench.image.name}'",
            log=bench.logs / "virt-customize.log",
            is_kvm=host.is_kvm,
            time_factor=factor,
            note=note,
            before={
                name: functools.partial(self._set_checkpoint, number)
                for name, number in layer.checkpoints(phase).items()
            },
        )
        seal.keep_output(bench.output, bench.logs)
        return {}

    def _set_checkpoint(self, number: int, appliance: Appliance) -> None:
        resuming.switch(self.trail, number, appliance, {})


def say_what_is_odd(bench: Bench, installation: Installation, *, note: Callable[[str], None]) -> None:
    """What a person should know before an installation that may take an hour."""
    name, distribution = bench.image.name, bench.distribution
    if installation.osinfo != distribution.osinfo:
        note(
            f"{name}: this machine's osinfo-db does not know '{distribution.osinfo}'; "
            f"virt-install is told '{installation.osinfo}'"
        )
    if installation.proxy and proxies.has_login(str(installation.location)):
        note(
            f"{name}: the installer is told the proxy {installation.proxy} without its login, which everybody on "
            "this host could read; if that is not let through, install from a DVD"
        )
    for what in install.advice(distribution, bench.kickstart.read_text(encoding="utf-8"), image=name):
        note(f"{name}: {what}")


@contextlib.contextmanager
def _removed(connection: Connection, name: str) -> Iterator[None]:
    """Ending virt-install does not end its machine: whatever happens inside, the domain is gone afterwards."""
    try:
        yield
    finally:
        domain = connection.find(name)
        if domain is not None:
            domain.remove()

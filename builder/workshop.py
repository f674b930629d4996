"""What builds of a project stand in: their work folders, package repositories served, and files written for them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder import bases, inputs, layer, mirrors
from builder.layer import Bench, Command
from builder.media import Repository
from builder.model import Project
from builder.plan import Planned
from builder.preflight.kvm import Accelerator
from builder.store import Store
from builder.tools import guestfs, virt_install
from builder.tools.domain import domain_xml
from builder.tools.guestfs import Operation
from builder.tools.webserver import serving


@dataclass(frozen=True)
class Host:
    """What a build needs of this machine. uri: libvirt's, as virt-install is told it."""

    uri: str
    accelerator: Accelerator

    @property
    def is_kvm(self) -> bool:
        return self.accelerator.kind == "kvm"


@dataclass(frozen=True)
class Workshop:
    """Where builds of one project are made, on this machine."""

    project: Project
    store: Store
    host: Host

    def bench(self, planned: Planned, *, version: str, work: Path) -> Bench:
        image = self.project.images[planned.image]
        return Bench(
            image=image,
            distribution=bases.localized(self.project.distribution_of(image.name), state=self.store.state),
            version=version,
            work=work,
            store_id=self.store.id,
            project=self.project.folder,
        )

    def write_inputs(
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
            preparations=self.preparations(bench, repositories),
        )

    def preparations(self, bench: Bench, repositories: Sequence[Repository]) -> list[Operation]:
        return bases.preparations(
            bench.image,
            bench.distribution,
            ssh_public_key=inputs.public_key(self.project),
            repositories=repositories,
        )

    def commands(
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
            preparations=self.preparations(bench, repositories),
        )

    def needed_repositories(self, planned: Planned) -> Sequence[Repository]:
        image = self.project.images[planned.image]
        distribution = self.project.distribution_of(image.name)
        is_needed = (
            image.needs_repositories
            or any(step.is_online for step in image.steps)
            or (image.parent is None and bases.is_import(distribution))
        )
        return (*image.repositories, *self.project.repositories(planned.image)) if is_needed else ()

    @contextlib.contextmanager
    def repositories(self, planned: Planned) -> Iterator[list[Repository]]:
        """The image's repositories at addresses that libguestfs' appliance reaches, while the block runs.

        Online steps decide by nothing that these hold; they have them so that each package comes here once.
        """
        with mirrors.served(self.needed_repositories(planned), host=guestfs.HOST, state=self.store.state) as found:
            yield found

    @contextlib.contextmanager
    def served_tree(self, bench: Bench) -> Iterator[Bench]:
        """A source that is a folder is served while the block runs; the bench knows where."""
        folder = tree_of(bench)
        if folder is None:
            yield bench
            return
        with serving(folder) as server:
            yield bench.model_copy(update={"tree": virt_install.host_address(server.port)})


def tree_of(bench: Bench) -> Path | None:
    """The folder that a base is installed from, if it is one."""
    source = bench.distribution.source
    return source.tree if source is not None and bench.image.parent is None else None

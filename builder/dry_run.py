"""What a build would run, as commands to paste; the files that they name are really written."""

from __future__ import annotations

import shutil
from pathlib import Path

from builder import bases, flatten, mirrors
from builder.decision import Decision
from builder.layer import Command
from builder.media import Repository
from builder.plan import Planned
from builder.tools import guestfs, virt_install
from builder.tools.free_port import free_port
from builder.workshop import Workshop, tree_of


def commands(workshop: Workshop, decision: Decision) -> dict[str, list[Command]]:
    """The commands of each build that would be made, ready to paste, and the files they name, really written."""
    found: dict[str, list[Command]] = {}
    would_be: dict[str, list[Path]] = {}
    for planned in decision.plan():
        below = would_be[planned.parent] if planned.parent else []
        if planned.build is not None:
            would_be[planned.image] = [workshop.store.qcow2(planned.build), *below]
            continue
        folder = workshop.store.root / "dry-run" / planned.image
        shutil.rmtree(folder, ignore_errors=True)
        bench = workshop.bench(planned, version=workshop.store.next_version(planned.image), work=folder)
        bench.logs.mkdir(parents=True)
        target = workshop.store.images / f"{planned.image}-{bench.version}.qcow2"
        if workshop.project.images[planned.image].flat_of:
            would_be[planned.image] = [target]
            found[planned.image] = flatten.commands(below[0], target)
            continue
        would_be[planned.image] = [target, *below]
        port = free_port()
        servers, repositories = _addresses(workshop, planned)
        if (folder_of_tree := tree_of(bench)) is not None:
            tree_port = free_port()
            servers.append(_serve_command(folder_of_tree, port=tree_port, what="the tree"))
            bench = bench.model_copy(update={"tree": virt_install.host_address(tree_port)})
        workshop.write_inputs(bench, below, repositories, port=port)
        servers = _download_commands(workshop, planned) + servers
        found[planned.image] = servers + workshop.commands(bench, below, target, repositories, port=port)
    return found


def _download_commands(workshop: Workshop, planned: Planned) -> list[Command]:
    line = bases.download_command(workshop.project, planned.image, state=workshop.store.state)
    return [Command(title="download", line=line)] if line else []


def _addresses(workshop: Workshop, planned: Planned) -> tuple[list[Command], list[Repository]]:
    """As `Workshop.repositories`, for pasting: the commands that serve the folders, and the addresses."""
    servers, found = [], []
    for repository in workshop.needed_repositories(planned):
        if repository.folder is None:
            found.append(repository)
            continue
        port = free_port()
        servers.append(_serve_command(repository.folder, port=port, what=f"the repository {repository.name}"))
        found.append(mirrors.at(repository, host=guestfs.HOST, port=port))
    return servers, found


def _serve_command(folder: Path, *, port: int, what: str) -> Command:
    line = f"python3 -m http.server --bind 127.0.0.1 --directory {folder} {port} &"
    return Command(title=f"serve {what}", line=line)

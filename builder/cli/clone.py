"""`golden clone …`: throw-away machines made from images. Made in clone_create, used in clone_use."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import click

from builder import clones
from builder.cli.clone_create import create, facts_of, warm_
from builder.cli.clone_options import (
    capacity,
    capacity_options,
    some_names,
)
from builder.cli.clone_pool import pool_
from builder.cli.clone_use import check, console, cp, exec_, logs, repair, revert, snapshot, ssh_
from builder.cli.overview import Lazy, Overview
from builder.cli.session import Session, examples, json_option, pass_session, print_json, print_table
from builder.clones import collection
from builder.clones.collection import Garbage
from builder.harness import suite
from builder.tools import libvirt
from builder.units import format_bytes, format_moment

_STOP_TIMEOUT_S = 60.0


@click.group(cls=Overview, commands=Lazy({"revive": "revive.revive"}))
def clone() -> None:
    """Throw-away machines, each on an overlay of an image that is only ever read."""


@clone.command(name="list", epilog=examples("golden clone list", "golden clone list --json | jq -r '.[].name'"))
@json_option
@pass_session
def list_(session: Session, as_json: bool) -> None:
    """List the clones of this machine.

    They are running, off, or paused, as virsh has it: their disk found no room on this host, or somebody did it.
    `golden clone start` lets them go on.
    """
    found = list(clones.leases(session.state))
    states = _states(found)
    if as_json:
        print_json([facts_of(lease) | {"state": states[lease.name]} for lease in found])
        return
    print_table(
        ["NAME", "STATE", "IMAGE", "VERSION", "SSH PORT", "OWNER", "MADE"],
        [
            [
                c.name,
                states[c.name],
                c.image.image,
                c.image.version,
                str(c.ssh_port),
                _owner_text(c),
                format_moment(c.made),
            ]
            for c in found
        ],
        empty="no clones",
    )


def _owner_text(lease: clones.Lease) -> str:
    if lease.pool is not None:
        return "waits in a pool"
    if lease.owner is None:
        return "kept"
    return f"{lease.owner.pid} (dead)" if lease.is_orphaned else str(lease.owner.pid)


@clone.command(epilog=examples("golden clone start web1", "golden clone start web1 web2 --no-wait"))
@some_names
@click.option("--no-wait", is_flag=True, help="Do not wait until they answer on SSH.")
@click.option("--cold", "is_cold", is_flag=True, help="Boot, whatever memory is saved.")
@capacity_options
@json_option
@pass_session
def start(
    session: Session,
    names: tuple[str, ...],
    no_wait: bool,
    is_cold: bool,
    host_mib: int | None,
    wait_s: float,
    as_json: bool,
) -> None:
    """Switch clones on, and wait until they answer on SSH. One that is on stays as it is."""
    limit = capacity(host_mib, wait_s)
    boot_s = clones.BOOT_TIMEOUT_S * session.accelerator().time_factor
    wanted = [clones.find(session.state, name) for name in names]
    with contextlib.ExitStack() as stack:
        at = {uri: stack.enter_context(libvirt.connect(uri)) for uri in {lease.uri for lease in wanted}}
        on = [
            clones.start(
                lease.name,
                state=session.state,
                connection=at[lease.uri],
                reporter=session.reporter,
                capacity=limit,
                is_cold=is_cold,
            )
            for lease in wanted
        ]
        for lease in on:
            if not no_wait:
                with session.reporter.step(f"boot {lease.name}") as step:
                    clones.wait(lease, state=session.state, connection=at[lease.uri], timeout_s=boot_s, note=step.note)
    if as_json:
        print_json([facts_of(lease) | {"state": "running"} for lease in on])
        return
    for lease in on:
        click.echo(f"{lease.name}: running")


@clone.command(epilog=examples("golden clone stop web1", "golden clone stop --force web1 web2"))
@some_names
@click.option("--force", is_flag=True, help="Pull the plug instead of pressing the power button.")
@json_option
@pass_session
def stop(session: Session, names: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Switch clones off; their disks stay, and start brings them back."""
    limit_s = _STOP_TIMEOUT_S * session.accelerator().time_factor
    for lease in [clones.find(session.state, name) for name in names]:
        with libvirt.connect(lease.uri) as connection, session.reporter.step(f"stop {lease.name}"):
            clones.stop(lease.name, state=session.state, connection=connection, timeout_s=limit_s, is_forced=force)
    if as_json:
        print_json({"stopped": list(names)})


@clone.command(
    epilog=examples(
        "golden clone destroy web1 web2", "golden clone destroy $(golden clone list --json | jq -r '.[].name')"
    )
)
@some_names
@json_option
@pass_session
def destroy(session: Session, names: tuple[str, ...], as_json: bool) -> None:
    """Switch clones off and remove all of them. An unknown name is an error, and then no clone is touched."""
    uris = {name: clones.uri(session.state, name) for name in names}
    for name, uri in uris.items():
        with libvirt.connect(uri) as connection:
            clones.destroy(name, state=session.state, connection=connection)
        if not as_json:
            click.echo(f"{name}: destroyed")
    if as_json:
        print_json({"destroyed": list(uris)})


@clone.command(
    epilog=examples("golden clone gc --dry-run", "golden clone gc", "golden clone gc --memory    # saved memory, too")
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--memory", "with_memory", is_flag=True, help="Saved memory of warm starts that no clone stands on, too.")
@json_option
@pass_session
def gc(session: Session, dry_run: bool, with_memory: bool, as_json: bool) -> None:
    """Remove clones whose owner is dead, what a golden that was killed left behind, and old results of tests."""
    with libvirt.connect() as connection:
        found = _old_results(session.state, is_dry=dry_run)
        found += collection.collect(
            session.state,
            connection=connection,
            is_dry=dry_run,
            note=session.reporter.note,
            with_memory=with_memory,
        )
    if as_json:
        print_json([garbage.model_dump() for garbage in found])
        return
    print_table(
        ["NAME", "WHAT", "WHY", "SIZE"],
        [[it.name, it.kind, it.reason, format_bytes(it.size_bytes)] for it in found],
        empty="nothing to remove",
    )


for command in (create, warm_, pool_, ssh_, console, cp, exec_, logs, snapshot, revert, check, repair):
    clone.add_command(command)


def _old_results(state: Path, *, is_dry: bool) -> list[Garbage]:
    """Of runs of golden test that are over; what their bundles held is let go of afterwards."""
    found = []
    for folder in (old for project in sorted((state / "tests").glob("*")) for old in suite.expired(project)):
        size = sum(file.lstat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())
        name = f"{folder.parent.name}/{folder.name}"
        found.append(Garbage(kind="results", name=name, reason="their time is over", size_bytes=size))
        if not is_dry:
            shutil.rmtree(folder)
    return found


def _states(leases: Sequence[clones.Lease]) -> dict[str, str]:
    """One connection for all clones of a libvirt."""
    states = {}
    for uri in {lease.uri for lease in leases}:
        with libvirt.connect(uri) as connection:
            for lease in leases:
                if lease.uri == uri:
                    states[lease.name] = clones.state_of(lease, connection)
    return states

"""`golden status`: how this machine stands as a user of images."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path

import click

from builder.cli.session import Session, examples, images_option, json_option, pass_session, print_json, print_table
from builder.errors import GoldenError
from builder.harness.status import Installed, Status, look
from builder.tools import dnf, libvirt
from builder.units import format_bytes

_DAY_S = 86400


@click.command(
    epilog=examples(
        "golden status",
        "golden status --no-channel            # without asking the network",
        "golden status --json | jq -r '.images[] | select(.is_behind).image'",
    )
)
@images_option
@click.option(
    "--repo-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The channel, as golden repo client-config writes it.  [default: this machine's dnf repositories]",
)
@click.option("--prefix", default="golden", show_default=True, help="What the names of the packages begin with.")
@click.option("--no-channel", is_flag=True, help="Do not ask which versions the channel has.")
@json_option
@pass_session
def status(
    session: Session, installed: Path, repo_file: Path | None, prefix: str, no_channel: bool, as_json: bool
) -> None:
    """Show installed images, how old they are, what the channel has, who uses them, and what could be freed.

    Leases are those of one state directory, the caller's or --state: root does not see other users'. Machines of others
    that run count as users of their images all the same.
    """
    channel = {} if no_channel else _channel(session, prefix=prefix, repo_file=repo_file)
    with libvirt.connect() as connection:
        found = look(
            images=installed.absolute(),
            state=session.state,
            connection=connection,
            channel=channel,
            now=datetime.now(UTC),
            note=session.reporter.note,
        )
    if as_json:
        print_json(_facts(found))
        return
    _print(found)
    if found.images:
        click.echo(f"leases are those of {session.state}; of others, what runs is counted")


def _channel(session: Session, *, prefix: str, repo_file: Path | None) -> dict[str, str]:
    """Image -> version. A channel that does not answer is no reason not to tell the rest."""
    try:
        with session.reporter.step("ask the channel"), tempfile.TemporaryDirectory(prefix="golden-dnf-") as cache:
            found = dnf.newest(f"{prefix}-*", repo_file=repo_file, cache=Path(cache))
    except GoldenError as error:
        session.reporter.note(f"which versions the channel has is not known: {error.what}")
        return {}
    # Those with the version in their name are as many as there are versions.
    return {
        name.removeprefix(f"{prefix}-"): version for name, version in found.items() if not name.endswith(f"-{version}")
    }


def _facts(found: Status) -> dict[str, object]:
    facts = found.model_dump(mode="json")
    for entry, one in zip(facts["images"], found.images, strict=True):
        entry |= {"is_behind": one.is_behind, "is_free": one.is_free}
    return dict(facts) | {"free_bytes": found.free_bytes}


def _print(found: Status) -> None:
    print_table(
        ["IMAGE", "VERSION", "AGE", "SIZE", "CHANNEL", "USED BY", "STATE"],
        [
            [
                one.image,
                one.version,
                f"{one.age_s / _DAY_S:.1f} d",
                format_bytes(one.size_bytes),
                one.channel or "-",
                ", ".join(_users(one)) or "-",
                _state(one),
            ]
            for one in found.images
        ],
        empty="no image is installed; dnf install 'golden-*'",
    )
    for lease in found.leases:
        owner = "kept until destroyed" if lease.owner is None else f"for process {lease.owner}"
        gone = ", which is gone" if lease.is_orphaned else ""
        click.echo(f"lease: {lease.clone} on {lease.image} {lease.version}, {lease.memory_mib} MiB, {owner}{gone}")
    for what in found.damaged:
        click.echo(f"damaged: {what}; dnf reinstall its package")
    for one in found.garbage:
        click.echo(f"garbage: {one.kind} {one.name}: {one.reason}; golden clone gc")
    if found.free_bytes:
        click.echo(f"could be freed: {format_bytes(found.free_bytes)}, by dnf autoremove and golden clone gc")


def _users(one: Installed) -> list[str]:
    held = len(one.held_by)
    return [*one.used_by, *([f"{held} bundle{'s' if held > 1 else ''}"] if held else [])]


def _state(one: Installed) -> str:
    if one.is_free:
        return "could be freed"
    if one.is_behind:
        return "behind: dnf upgrade"
    return "current" if one.is_current else "old, in use"

"""`golden collect`: builds, packages and composes that nobody needs any more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from builder import channels, clones
from builder.cli.publish import push, url_option
from builder.cli.session import Session, examples, json_option, pass_session, print_json, print_table
from builder.clones import holds
from builder.units import format_bytes

# A table's cell is one line; --json has all of them.
_MOST_REASONS = 3


@click.command(
    epilog=examples(
        "golden collect --dry-run          # what would go, and why the rest stays",
        "golden collect --dry-run --json",
        "golden collect",
    )
)
@url_option
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and why the rest stays; remove nothing.")
@json_option
@pass_session
def collect(session: Session, url: str | None, dry_run: bool, as_json: bool) -> None:
    """Remove builds, packages and composes that nobody needs any more, as [retention] of golden.toml says.

    What stays: of each image the newest, in every channel; whatever is young; what clones and bundles of this machine
    use; the last good set of each distribution; and all that those stand on. No package is left whose requirement is
    gone.
    """
    project = session.project
    with session.signing() as signer, session.reporter.step("collect") as step:
        found = channels.collect(
            session.store,
            prefix=project.prefix,
            retention=project.publication.retention,
            images=project.images.keys(),
            leased=leased(session.state),
            url=url or project.url,
            signer=signer,
            is_dry_run=dry_run,
            note=step.note,
        )
    if not dry_run:
        for channel in sorted({verdict.where.rpartition(" ")[2] for verdict in found.removed if " " in verdict.where}):
            if (session.store.channels / channel).exists():
                push(session, channel)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    shown = found.verdicts if dry_run else found.removed
    goes = "would go" if dry_run else "gone"
    rows = [[it.name, "stays" if it.stays else goes, it.where, _in_words(it.reasons)] for it in shown]
    print_table(["WHAT", "", "WHERE", "WHY"], rows, empty="nothing to remove")
    click.echo(f"{len(found.removed)} {goes}, {format_bytes(found.freed_bytes)}")


def leased(state: Path) -> dict[str, str]:
    """Of each build that is in use on this machine, by whom."""
    bundles = {file.stem: f"the bundle {it.bundle} stands on it" for it in holds.holds(state) for file in it.files}
    return bundles | {
        file.stem: f"the clone {lease.name} uses it" for lease in clones.leases(state) for file in lease.files
    }


def _in_words(reasons: Sequence[str]) -> str:
    more = len(reasons) - _MOST_REASONS
    return ", ".join([*reasons[:_MOST_REASONS], *([f"and {more} more"] if more > 0 else [])])

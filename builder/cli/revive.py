"""`golden clone revive`: what a failed test left, as running clones."""

from __future__ import annotations

from pathlib import Path

import click

from builder.cli.session import Session, examples, images_option, json_option, key_of, pass_session, print_json
from builder.harness import evidence
from builder.harness.revival import Revival
from builder.tools import libvirt


@click.command(
    epilog=examples(
        "golden clone revive /var/lib/golden/tests/p/20261121-103000/rocky9-base/net/run-1",
        "golden clone revive BUNDLE --no-wait    # for a guest that no longer boots: golden clone console NAME",
        "golden clone revive BUNDLE --dry-run",
    )
)
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True))
@key_of("the one that the test used")
@click.option("--no-wait", is_flag=True, help="Do not wait until the clones answer on SSH.")
@click.option("--dry-run", is_flag=True, help="Say what would be made, and why the test failed.")
@images_option
@json_option
@pass_session
def revive(
    session: Session, bundle: Path, key: Path | None, no_wait: bool, dry_run: bool, installed: Path, as_json: bool
) -> None:
    """Start clones with the disks that a failed test left. The bundle itself stays as it is."""
    found = evidence.read(bundle)
    with libvirt.connect() as connection:
        revival = Revival(
            state=session.state,
            images=installed.absolute(),
            builds=session.store if session.has_project else None,
            connection=connection,
            accelerator=session.accelerator(),
            reporter=session.reporter,
        )
        if dry_run:
            for kept, order in revival.orders(bundle, key=key):
                click.echo(f"{order.name}: {kept.image.stem} with {bundle / kept.disk}")
            click.echo(f"{found.test} failed: {found.why}")
            return
        revived = revival.open(bundle, key=key, is_waited=not no_wait)
    if as_json:
        print_json([one.model_dump(mode="json") for one in revived])
        return
    click.echo(f"{found.test} failed: {found.why}")
    for one in revived:
        click.echo(f"{one.name}: {one.role} of the test" + (f"; does not answer: {one.why_not}" if one.why_not else ""))
        click.echo(f"try: golden clone {'console' if one.why_not or no_wait else 'ssh'} {one.name}")

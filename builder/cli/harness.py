"""`golden harness …`: what harnesses that know nothing of golden expect to find."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from builder.cli.overview import Overview
from builder.cli.session import (
    Session,
    examples,
    images_option,
    json_option,
    key_option,
    pass_session,
    print_json,
    print_table,
)
from builder.harness import ost

_profile = click.option(
    "--profile", type=click.Choice(["ost"]), required=True, help="ost: what ost-images packages brought."
)
_distribution = click.option("--distribution", metavar="NAME", help="[default: the only one that is there]")
_folder = click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=ost.FOLDER,
    show_default=True,
    help="The flat folder.",
)


@click.group(cls=Overview)
def harness() -> None:
    """Folders and environments for harnesses that were written for other images."""


@harness.command(
    epilog=examples(
        "golden harness install --profile ost",
        "golden harness install --profile ost --distribution rocky9 --to /srv/ost-images --key ~/.ssh/ci",
        "golden harness install --profile ost --move    # to the versions that are installed now",
        "golden harness install --profile ost --group ost    # its members may log in to the images",
    )
)
@_profile
@_distribution
@_folder
@images_option
@key_option
@click.option(
    "--group", metavar="NAME", help="Its members may read the key, of which the folder gets a copy.  [default: a link]"
)
@click.option("--move", is_flag=True, help="Let images lead to other versions than so far.")
@click.option("--dry-run", is_flag=True, help="Say what would be laid out.")
@json_option
@pass_session
def install(
    session: Session,
    profile: str,
    distribution: str | None,
    folder: Path,
    installed: Path,
    key: Path | None,
    group: str | None,
    move: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Lay out a flat folder of the installed images, by links: nothing is copied, and an upgrade moves nothing."""
    key = key or session.key
    layout = ost.plan(installed.absolute(), distribution=distribution, folder=folder.absolute(), key=key, group=group)
    found = ost.changes(layout) if dry_run else ost.install(layout, is_moved=move)
    if as_json:
        print_json(layout.model_dump(mode="json") | {"changes": [change.model_dump() for change in found]})
        return
    moved = {change.image: change for change in found}
    print_table(
        ["IMAGE", "VERSION", "BEFORE"],
        [
            [image, version, (moved[image].old or "new") if image in moved else "the same"]
            for image, version in layout.images.items()
        ],
        empty="nothing",
    )
    if not dry_run:
        click.echo(f'try: eval "$(golden harness env --profile {profile} --to {shlex.quote(str(layout.folder))})"')


@harness.command(
    epilog=examples(
        'eval "$(golden harness env --profile ost)"',
        "golden harness env --profile ost --distribution rocky9 --json",
        "OST_IMAGES_DIR=/srv/ost-images golden harness env --profile ost",
    )
)
@_profile
@click.option(
    "--distribution",
    metavar="NAME",
    envvar="OST_IMAGES_DISTRO",
    show_envvar=True,
    help="[default: the only one that is there]",
)
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=ost.FOLDER,
    show_default=True,
    envvar="OST_IMAGES_DIR",
    show_envvar=True,
    help="The flat folder.",
)
@click.option("--prefix", default="golden", show_default=True, help="What the names of the packages begin with.")
@json_option
def env(profile: str, distribution: str | None, folder: Path, prefix: str, as_json: bool) -> None:
    """Print the variables that the harness reads, for a shell. What is set already stays, and the rest follows it."""
    found = ost.environment(folder.absolute(), distribution=distribution, set_already=os.environ, prefix=prefix)
    if not os.access(key := found["OST_IMAGES_SSH_KEY"], os.R_OK):
        click.echo(
            f"golden: {key} is not yours to read; whoever laid it out can: golden harness install --group NAME",
            err=True,
        )
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        click.echo(f"export {name}={shlex.quote(value)}")

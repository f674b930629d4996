"""`golden cache`: what was downloaded for bases."""

from __future__ import annotations

import click

from builder import bases
from builder.cache import Cache, retention
from builder.cache.retention import Entry
from builder.cli.build import chosen, images_argument
from builder.cli.overview import Overview
from builder.cli.session import Session, examples, json_option, pass_session, print_json, print_table
from builder.plan import order
from builder.units import format_bytes, format_moment


@click.group(cls=Overview)
def cache() -> None:
    """Fetch, list and prune downloaded DVDs and images, which all projects of this machine share."""


@cache.command(
    epilog=examples(
        "golden cache fetch                # what the bases of golden.toml are made of",
        "golden cache fetch rocky9-base    # of this image alone",
    )
)
@images_argument
@json_option
@pass_session
def fetch(session: Session, images: tuple[str, ...], as_json: bool) -> None:
    """Download what images are made of, and verify it; a build then needs no network for that.

    What is here and has not changed is not fetched again. An interrupted download goes on where it broke off. A
    network tree is not downloaded: the installer reads it where it is.
    """
    names = order(session.project, chosen(session.project, images))
    bases.refresh(session.project, names, state=session.state, reporter=session.reporter)
    roots = [name for name in names if session.project.images[name].parent is None]
    found = {name: bases.fetch(session.project, name, state=session.state, reporter=session.reporter) for name in roots}
    files = {name: file for name, file in found.items() if file is not None}
    if as_json:
        print_json({name: str(file) for name, file in files.items()})
    else:
        print_table(["IMAGE", "FILE"], [[name, str(file)] for name, file in files.items()], empty="nothing to fetch")


@cache.command("list", epilog=examples("golden cache list", "golden cache list --json"))
@json_option
@pass_session
def list_files(session: Session, as_json: bool) -> None:
    """List what was downloaded, for which distribution, and how it was verified."""
    _print(retention.entries(Cache(session.state).root), as_json=as_json, empty="the cache is empty")


@cache.command(
    epilog=examples(
        "golden cache prune                     # all but the three of each distribution that were used last",
        "golden cache prune --keep 1 --dry-run  # only say what would go",
        "golden cache prune --keep 0            # everything that is not in use",
    )
)
@click.option(
    "--keep",
    type=click.IntRange(min=0),
    default=retention.KEEP,
    envvar="GOLDEN_CACHE_KEEP",
    show_envvar=True,
    show_default=True,
    metavar="N",
    help="Files to keep of each distribution.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@json_option
@pass_session
def prune(session: Session, keep: int, dry_run: bool, as_json: bool) -> None:
    """Remove all but the N files of each distribution that were used last.

    A broken download counts as a file. What a golden is using or downloading at the moment stays.
    """
    removed = retention.prune(Cache(session.state).root, keep=keep, is_dry=dry_run)
    _print(removed, as_json=as_json, empty="nothing to remove")
    if removed and not as_json:
        freed = format_bytes(sum(entry.size_bytes for entry in removed))
        click.echo(f"{freed} would be freed" if dry_run else f"{freed} freed")


def _print(entries: list[Entry], *, as_json: bool, empty: str) -> None:
    if as_json:
        print_json([entry.model_dump(mode="json") for entry in entries])
        return
    rows = [
        [
            entry.distribution,
            entry.name,
            format_bytes(entry.size_bytes),
            format_moment(entry.used),
            entry.verified if entry.state == "whole" else "came in part",
        ]
        for entry in entries
    ]
    print_table(["DISTRIBUTION", "FILE", "SIZE", "USED", "VERIFIED BY"], rows, empty=empty)

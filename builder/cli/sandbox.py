"""`golden sandbox create`: a tiny distribution to try everything with."""

from __future__ import annotations

from pathlib import Path

import click

from builder import run
from builder import sandbox as sandboxes
from builder.cli.overview import Overview
from builder.cli.session import Session, examples, json_option, pass_session, print_json
from builder.units import format_bytes, format_seconds


@click.group(cls=Overview)
def sandbox() -> None:
    """A tiny EL-shaped distribution, made from this host's Debian packages, to try golden with."""


@sandbox.command(
    epilog=examples(
        "golden sandbox create /var/tmp/sandbox",
        "golden --file /var/tmp/sandbox/golden.toml build sandbox-bootstrapped",
    )
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--force", is_flag=True, help="Make it again, even if everything is there and nothing has changed.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    default=sandboxes.DEFAULT_CACHE,
    show_default=True,
    help="Where downloaded Debian packages are kept.",
)
@json_option
@pass_session
def create(session: Session, folder: Path, force: bool, cache: Path, as_json: bool) -> None:
    """Make the sandbox distribution in DIR: a DVD, a repository of updates, a golden.toml with a chain, a key.

    The DVD installs with virt-install as a Rocky Linux DVD does; its installer is a stand-in for Anaconda. Needs a
    Debian 12 host, root and apt's package sources. Ends at once if DIR is there already and nothing has changed; a
    golden.toml or a key in DIR is never replaced.
    """
    made = sandboxes.create(folder, cache=cache.absolute(), force=force, reporter=session.reporter)
    if as_json:
        print_json(
            {
                "folder": str(made.folder),
                "iso": str(made.iso),
                "iso_bytes": made.iso_bytes,
                "updates": str(made.updates),
                "base_packages": made.base_packages,
                "update_packages": made.update_packages,
                "is_new": made.is_new,
                "seconds": made.seconds,
            }
        )
        return
    how = f"made in {format_seconds(made.seconds)}" if made.is_new else "was there, and nothing has changed"
    click.echo(f"{made.folder}: {how}")
    click.echo(f"  sandbox.iso  {format_bytes(made.iso_bytes)}, {made.base_packages} packages")
    click.echo(f"  updates/     {made.update_packages} packages")
    click.echo(
        f"try: {run.printable(['golden', '--file', made.folder / 'golden.toml', 'plan', 'sandbox-bootstrapped'])}"
    )

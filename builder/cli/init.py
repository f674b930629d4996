"""`golden init`: a folder to start from."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem

from builder import starter
from builder.cli.session import Session, examples, json_option, pass_session, print_json


def _complete(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in starter.distributions() if name.startswith(begun)]


@click.command(epilog=examples("golden init", "golden init images --distribution almalinux9"))
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path, file_okay=False), default=Path())
@click.option(
    "--distribution",
    metavar="NAME",
    default="rocky9",
    show_default=True,
    shell_complete=_complete,
    help="To begin with.",
)
@json_option
@pass_session
def init(_session: Session, folder: Path, distribution: str, as_json: bool) -> None:
    """Write a commented golden.toml into DIR, and make an SSH key and an OpenPGP key for it alone.

    The private keys are readable by you only, and a .gitignore keeps them, and private work, out of git. Nothing
    that is there is overwritten.
    """
    started = starter.start(folder, distribution=distribution)
    if as_json:
        print_json(started.model_dump(mode="json"))
        return
    click.echo(f"{started.file}: edit it; it says where to get a DVD of {distribution} from")
    click.echo(f"{started.key}: the way into every image; keep it to yourself")
    click.echo(
        f"{started.signing_key}: signs the packages and channels; keep it to yourself, too, and a copy of it safe"
    )
    click.echo(f"try: golden --file {started.file} plan")

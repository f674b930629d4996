"""What every command shares: the flags in front of it, read once, and the project and store they lead to."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import click

from builder import clones, config
from builder.cli.table import print_table as print_table
from builder.model import Project
from builder.preflight import kvm
from builder.preflight.kvm import Accelerator
from builder.progress import Reporter
from builder.store import Store
from builder.tools import openpgp
from builder.tools.openpgp import Signer
from builder.units import parse_duration


@dataclass
class Session:
    """file: the golden.toml in use; commands without a project do not need it. state: root of all state."""

    file: Path
    state: Path
    reporter: Reporter

    @cached_property
    def project(self) -> Project:
        return config.load(self.file)

    @cached_property
    def store(self) -> Store:
        return Store(self.state, self.project.name)

    @property
    def has_project(self) -> bool:
        return self.file.exists()

    @property
    def key(self) -> Path | None:
        """The project's private SSH key, if there are both."""
        return self.project.ssh_key if self.has_project else None

    def signing(self) -> AbstractContextManager[Signer | None]:
        """The project's key for the time of the block; None if golden.toml says `unsigned = true`."""
        return openpgp.opened(self.project.publication.signing)

    def accelerator(self) -> Accelerator:
        """How guests run on this machine; says so once if that is slow."""
        found = kvm.accelerator(self.state, reporter=self.reporter)
        if found.note:
            self.reporter.note(found.note)
        return found


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

pass_session = click.make_pass_decorator(Session)

json_option: Decorator = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON on standard output."
)

images_option: Decorator = click.option(
    "--images",
    "installed",
    type=click.Path(path_type=Path, file_okay=False),
    default=clones.INSTALLED_IMAGES,
    show_default=True,
    envvar="GOLDEN_IMAGES_DIR",
    show_envvar=True,
    help="Folder of installed images.",
)


retries_option: Decorator = click.option(
    "--retries", type=click.IntRange(min=0), default=2, show_default=True, help="Of what may pass by itself."
)


def key_of(default: str) -> Decorator:
    """The option --key. default: whose key it is otherwise, for people."""
    return click.option(
        "--key",
        type=click.Path(path_type=Path, exists=True, dir_okay=False, resolve_path=True),
        help=f"Private SSH key that the image lets in.  [default: {default}]",
    )


key_option: Decorator = key_of("the project's")


def examples(*lines: str) -> str:
    """An epilog with examples, kept as typed."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def duration(_context: click.Context, _parameter: click.Parameter, text: str) -> int:
    """Of an option: seconds."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


pause_option: Decorator = click.option(
    "--pause", default="60s", show_default=True, callback=duration, help="Before each of them."
)


def print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, sort_keys=False))

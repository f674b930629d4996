"""Flags of `golden clone` that are read in several commands, and what users write in them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click

from builder import clones
from builder.cli.completion import complete_name
from builder.cli.session import Decorator
from builder.errors import ConfigError
from builder.tools.domain import Forward, Nic
from builder.units import MIB, parse_duration, parse_size


def parse_mib(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    try:
        return None if text is None else parse_size(text) // MIB or 1
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def parse_sizes(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> tuple[int, ...]:
    """Bytes."""
    try:
        return tuple(parse_size(text) for text in texts)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def parse_seconds(_context: click.Context, _parameter: click.Parameter, text: str | None) -> float:
    try:
        return 0.0 if text is None else float(parse_duration(text))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def parse_nics(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> tuple[Nic, ...]:
    """`user`, `network=NAME`, `bridge=NAME`, `lan=NAME`, each one card."""
    cards = []
    for text in texts:
        kind, _, source = text.partition("=")
        if text == "user":
            cards.append(Nic())
        elif kind == "network" and source:
            cards.append(Nic(kind="network", source=source))
        elif kind == "bridge" and source:
            cards.append(Nic(kind="bridge", source=source))
        elif kind == "lan" and source:
            cards.append(Nic(kind="lan", source=source))
        else:
            raise click.BadParameter(f"{text!r} is no network; write user, network=NAME, bridge=NAME or lan=NAME")
    return tuple(cards) or (Nic(),)


def parse_forwards(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> tuple[Forward, ...]:
    """`[HOST_PORT:]GUEST_PORT[/udp]`."""
    forwards = []
    for text in texts:
        ports, _, protocol = text.partition("/")
        host, _, guest = ports.rpartition(":")
        numbers = [int(part) if part.isdecimal() else 0 for part in (host or "1", guest)]
        if protocol not in ("", "tcp", "udp") or not all(0 < number < 65536 for number in numbers):
            raise click.BadParameter(f"{text!r} is no port; write [HOST_PORT:]GUEST_PORT, and /udp for UDP")
        forwards.append(
            Forward(
                host_port=int(host) if host else 0,
                guest_port=int(guest),
                protocol="udp" if protocol == "udp" else "tcp",
            )
        )
    return tuple(forwards)


one_name: Decorator = click.argument("name", shell_complete=complete_name)
some_names: Decorator = click.argument(
    "names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_name
)
memory_option: Decorator = click.option(
    "--memory", "memory_mib", callback=parse_mib, metavar="SIZE", help="As '2 GiB'.  [default: the image's]"
)
cpus_option: Decorator = click.option("--cpus", type=click.IntRange(min=1), help="[default: the image's]")


host_memory_option: Decorator = click.option(
    "--host-memory",
    "host_mib",
    callback=parse_mib,
    metavar="SIZE",
    envvar="GOLDEN_HOST_MEMORY",
    show_envvar=True,
    help="What all of golden's machines may declare together.  [default: the host's, less 512 MiB]",
)


def capacity_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What golden's machines of this host may have in memory together, and how long to wait for it."""
    command = host_memory_option(command)
    return click.option(
        "--wait-memory",
        "wait_s",
        callback=parse_seconds,
        metavar="DURATION",
        help="Wait so long for other machines to go, as '10 min'.  [default: refuse at once]",
    )(command)


def capacity(host_mib: int | None, wait_s: float) -> clones.Capacity:
    return clones.Capacity(total_mib=host_mib, wait_s=wait_s) if host_mib else clones.host_capacity(wait_s=wait_s)


def owner(pid: int | None, *, is_kept: bool) -> clones.Owner | None:
    """The process for which a clone is made: by default the session that golden was started in, a shell or a CI job.

    Source: setsid(2): its leader's id is the session's.
    """
    if is_kept:
        return None
    wanted = pid or os.getsid(0)
    if wanted in (0, os.getpid()):
        wanted = os.getppid()
    found = clones.owner(wanted)
    if pid and found is None:
        raise ConfigError(f"there is no process {pid} to own the clone", try_next="--owner $$, or --keep")
    # A daemon's child belongs to nobody that ends.
    return found if wanted > 1 else None

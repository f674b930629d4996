"""`golden clone …`: throw-away machines made from images."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Literal

import click
from click.shell_completion import CompletionItem

from builder import clones, preflight, run
from builder.cli.session import Session, examples, images_option, json_option, pass_session, print_json, print_table
from builder.errors import ConfigError, HostError
from builder.store import Store, default_state
from builder.tools import libvirt, ssh
from builder.units import MIB, format_seconds, parse_size


def _complete_name(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    state = context.find_root().params.get("state") or default_state()
    return [CompletionItem(name) for name in clones.names(state) if name.startswith(begun)]


def _complete_image(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    images = context.params.get("installed") or clones.INSTALLED_IMAGES
    return [CompletionItem(n) for n in clones.image_names(images=images, builds=None) if n.startswith(begun)]


def _parse_memory(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    """Mebibytes."""
    try:
        return None if text is None else parse_size(text) // MIB or 1
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


_name = click.argument("name", shell_complete=_complete_name)
_key = click.option(
    "--key",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, resolve_path=True),
    help="Private SSH key that the image lets in.  [default: the project's]",
)


@click.group()
def clone() -> None:
    """Throw-away machines, each on an overlay of an image that is only ever read."""


@clone.command(
    epilog=examples(
        "golden clone create web1 --image rocky9-bootstrapped",
        "golden clone create web2 --image rocky9-bootstrapped@20261121.1 --memory '4 GiB' --cpus 4",
        "golden clone create web4 --image rocky9-bootstrapped --prefer flat",
        "golden clone create web3 --image rocky9-bootstrapped --key ~/.ssh/ci --json | jq -r .ssh",
    )
)
@click.argument("name")
@click.option(
    "--image", required=True, metavar="IMAGE[@VERSION]", shell_complete=_complete_image, help="What to clone."
)
@click.option(
    "--prefer",
    type=click.Choice(["chain", "flat"]),
    help="Which form, where the image is there in both.  [default: prefer in [project] of golden.toml, or chain]",
)
@images_option
@click.option(
    "--memory", "memory_mib", callback=_parse_memory, metavar="SIZE", help="As '2 GiB'.  [default: the image's]"
)
@click.option("--cpus", type=click.IntRange(min=1), help="[default: the image's]")
@_key
@click.option("--no-wait", is_flag=True, help="Do not wait until the clone answers on SSH.")
@click.option("--verify", is_flag=True, help="Read all image files again, also those that do not seem to have changed.")
@json_option
@pass_session
def create(
    session: Session,
    name: str,
    image: str,
    prefer: Literal["chain", "flat"] | None,
    installed: Path,
    memory_mib: int | None,
    cpus: int | None,
    key: Path | None,
    no_wait: bool,
    verify: bool,
    as_json: bool,
) -> None:
    """Make a clone of an image, start it, and wait until it answers on SSH.

    The image is the installed one; where none is installed, it is the newest build of the project. If anything
    fails, nothing of the clone is left.
    """
    image_name, _, version = image.partition("@")
    key = key or _project_key(session)
    if key is None and not no_wait:
        raise ConfigError("waiting for SSH needs a key, and there is no project that has one", try_next="--key FILE")
    prefer = prefer or (session.project.prefer if session.has_project else "chain")
    source = _locate(session, image_name, version or None, images=installed.absolute(), is_flat=prefer == "flat")
    accelerator = session.accelerator()
    order = clones.Order(
        name=name,
        source=source,
        memory_mib=memory_mib or source.build.memory_mib,
        cpus=cpus or source.build.cpus,
        accelerator=accelerator.kind_for(source.build.arch),
        key=key,
    )
    with libvirt.connect() as connection:
        preflight.need_reach(session.state, connection)
        preflight.need_reach(source.file.parent, connection)
        lease, boot_s = clones.create(
            order,
            state=session.state,
            connection=connection,
            reporter=session.reporter,
            is_full=verify,
            boot_timeout_s=None if no_wait else clones.BOOT_TIMEOUT_S * accelerator.time_factor,
        )
    if as_json:
        print_json(_facts(lease) | {"origin": source.origin, "boot_s": boot_s and round(boot_s, 2), "state": "running"})
        return
    click.echo(f"{name}: {source.build.stem}, the {source.origin} image {source.file}")
    click.echo(f"booted in {format_seconds(boot_s)}" if boot_s else "started; not waited for")
    click.echo(f"try: golden clone ssh {name}")


@clone.command(name="list", epilog=examples("golden clone list", "golden clone list --json | jq -r '.[].name'"))
@json_option
@pass_session
def list_(session: Session, as_json: bool) -> None:
    """List the clones of this machine."""
    found = [(lease, _state(lease)) for lease in clones.leases(session.state)]
    if as_json:
        print_json([_facts(lease) | {"state": state} for lease, state in found])
        return
    print_table(
        ["NAME", "STATE", "IMAGE", "VERSION", "SSH PORT", "MADE"],
        [[c.name, state, c.image.image, c.image.version, str(c.ssh_port), c.made] for c, state in found],
        empty="no clones",
    )


@clone.command(
    name="ssh",
    epilog=examples(
        "golden clone ssh web1",
        "golden clone ssh web1 -- uname -a",
        "golden clone ssh web1 -- 'journalctl -b | tail'    # one word: a line for the guest's shell",
    ),
)
@_name
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@_key
@pass_session
def ssh_(session: Session, name: str, command: tuple[str, ...], key: Path | None) -> None:
    """Log in to a clone, or run a command there and end with its exit status."""
    lease = clones.find(session.state, name)
    key = key or lease.key or _project_key(session)
    if key is None:
        raise ConfigError(f"no key for '{name}' is known", try_next="--key FILE")
    _need_running(lease)
    words = ("sh", "-c", *command) if len(command) == 1 else command
    run.become(ssh.command(ssh.Target(port=lease.ssh_port, key=key), *words), why=f"log in to {name}")


@clone.command(
    epilog=examples(
        "golden clone console web1          # leave with Ctrl-]", "golden clone console web1 --log | less -R"
    )
)
@_name
@click.option("--log", is_flag=True, help="Print what the console has said so far.")
@pass_session
def console(session: Session, name: str, log: bool) -> None:
    """Open a clone's serial console, or print its log."""
    lease = clones.find(session.state, name)
    if log:
        path = clones.console_log(session.state, name)
        sys.stdout.buffer.write(path.read_bytes() if path.exists() else b"")
        return
    _need_running(lease)
    run.become(["virsh", "-c", lease.uri, "console", lease.domain_name], why=f"open the console of {name}")


@clone.command(
    epilog=examples(
        "golden clone destroy web1 web2", "golden clone destroy $(golden clone list --json | jq -r '.[].name')"
    )
)
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=_complete_name)
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


def _locate(session: Session, image: str, version: str | None, *, images: Path, is_flat: bool) -> clones.Source:
    """The image, or its flat form if that is wanted and is of the very same build."""
    builds = _store(session)
    source = clones.locate(image, version, images=images, builds=builds)
    if not is_flat or source.build.flattened:
        return source
    flat_image = f"{image}-flat"
    with contextlib.suppress(ConfigError):  # it need not be installed
        flat = clones.locate(flat_image, None, images=images, builds=None)
        if flat.build.flattened == source.build.id:
            return flat
    for build in builds.builds(flat_image) if builds else []:
        if build.flattened == source.build.id:
            return clones.locate(flat_image, build.version, images=images, builds=builds)
    session.reporter.note(f"there is no flat form of {source.build.stem}; the chain is taken")
    return source


def _store(session: Session) -> Store | None:
    return session.store if session.has_project else None


def _project_key(session: Session) -> Path | None:
    return session.project.ssh_key if session.has_project else None


def _state(lease: clones.Lease) -> str:
    with libvirt.connect(lease.uri) as connection:
        return "running" if clones.is_running(lease, connection) else "off"


def _need_running(lease: clones.Lease) -> None:
    if _state(lease) != "running":
        raise HostError(
            f"the clone '{lease.name}' is off",
            try_next=f"golden clone console {lease.name} --log, to see why; then golden clone destroy {lease.name}",
        )


def _facts(lease: clones.Lease) -> dict[str, object]:
    """A clone for programs. ssh: a command that can be pasted."""
    facts: dict[str, object] = lease.model_dump(mode="json", exclude={"format", "image"})
    target = ssh.Target(port=lease.ssh_port, key=lease.key) if lease.key else None
    return facts | {
        "image": lease.image.image,
        "version": lease.image.version,
        "ssh": run.printable(ssh.command(target)) if target else None,
    }

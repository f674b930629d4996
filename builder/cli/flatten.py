"""`golden flatten`: a chain of images as one file."""

from __future__ import annotations

import click

from builder import flatten as flat
from builder import preflight
from builder.cli.build import build_summary, find
from builder.cli.completion import complete_built
from builder.cli.session import Session, examples, json_option, pass_session, print_json
from builder.decision import Decision
from builder.derived import derive, image_of
from builder.errors import ConfigError
from builder.units import format_bytes


@click.command(epilog=examples("golden flatten rocky9-bootstrapped", "golden flatten rocky9-bootstrapped@20261121.1"))
@click.argument("image", metavar="IMAGE[@VERSION]", shell_complete=complete_built)
@click.option("--rebuild", is_flag=True, help="Make it anew even if it is there.")
@click.option("--dry-run", is_flag=True, help="Print the commands that would run, ready to paste; write nothing.")
@json_option
@pass_session
def flatten(session: Session, image: str, rebuild: bool, dry_run: bool, as_json: bool) -> None:
    """Make IMAGE-flat: the newest build of an image and all it stands on, squashed into one qcow2 without a parent.

    It is compared with the chain, byte for byte as a guest sees the disk, and is a build of its own: to be cloned,
    packaged and published like any other. To have one made with every build, set flat = true for the image.
    """
    store = session.store
    source = find(session, image)
    if source.flattened is not None:
        raise ConfigError(f"'{source.stem}' is flat already")
    preflight.require(["qemu-img"], "flatten an image")
    defined = session.project.images.get(source.image) or image_of(source)
    derived = derive(session.project, store, defined.flat(), source=source)
    name = derived.image.name
    if dry_run:
        target = store.images / f"{name}-{store.next_version(name)}.qcow2"
        commands = flat.commands(store.qcow2(source), target)
        if as_json:
            print_json({name: [command.model_dump() for command in commands]})
        else:
            click.echo("\n".join(f"{command.line}    # {command.title}" for command in commands))
        return
    with store.lock():
        for path in (*store.remove_finished(), *store.remove_orphans()):
            session.reporter.note(f"removed {path.name} that an earlier run left")
        forced = [name] if rebuild else []
        *_, planned = Decision(derived.project, store, [name], rebuild=forced, standing=derived.standing).plan()
        made = planned.build or flat.flatten(store, planned, derived.image, source, reporter=session.reporter)
    if as_json:
        print_json(build_summary(session, made))
        return
    click.echo(f"{made.stem}: {format_bytes(made.size_bytes)}, the same disk as {source.stem}")
    click.echo(str(store.qcow2(made)))

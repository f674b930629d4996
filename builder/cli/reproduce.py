"""`golden reproduce`: how a build was made, and the same once more."""

from __future__ import annotations

import click

from builder import reproduce as reproducing
from builder.cli.build import find
from builder.cli.completion import complete_built
from builder.cli.session import Session, examples, json_option, pass_session, print_json
from builder.tools import libvirt
from builder.units import format_seconds
from builder.workshop import Host


@click.command(
    epilog=examples(
        "golden reproduce sandbox-upgrade                    # how the newest build was made",
        "golden reproduce sandbox-upgrade@20261121.1 --run   # the same again",
    )
)
@click.argument("image", metavar="IMAGE[@VERSION]", shell_complete=complete_built)
@click.option("--run", is_flag=True, help="Make it again beside the store, and compare the packages inside.")
@json_option
@pass_session
def reproduce(session: Session, image: str, run: bool, as_json: bool) -> None:
    """Print how a build was made: its inputs with their digests, which of them changed since, the commands that ran.

    With --run the same is built again, on the same parent, if no input changed. Exit code 5 if other packages came out.
    """
    build = find(session, image)
    if run:
        host = Host(uri=libvirt.default_uri(), accelerator=session.accelerator())
        with libvirt.connect(host.uri) as connection:
            made = reproducing.run(
                session.project,
                session.store,
                build,
                host=host,
                connection=connection,
                reporter=session.reporter,
                note=session.reporter.note,
            )
        if as_json:
            print_json(made.model_dump(mode="json"))
        else:
            click.echo(f"{made.build}: made again in {format_seconds(made.seconds)}, the same {made.packages} packages")
        return
    found = reproducing.recipe(session.project, session.store, build)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    click.echo(f"# {found.build}{f', on {found.stands_on}' if found.stands_on else ''}")
    changed = {it.input: it for it in found.changed}
    for name in dict.fromkeys((*found.inputs, *changed)):
        now = f"    now: {changed[name].now or 'gone'}" if name in changed else ""
        click.echo(f"#   {name}: {found.inputs.get(name, 'none')}{now}")
    for name, version in found.tools.items():
        click.echo(f"#   {name}: {version}")
    for command in found.commands:
        click.echo(command)
    click.echo(
        "# an input changed: --run would make something else, and refuses"
        if changed
        else f"# the same again, and compared: golden reproduce {build.image}@{build.version} --run"
    )

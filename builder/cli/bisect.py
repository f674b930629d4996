"""`golden bisect`: the package that broke an image."""

from __future__ import annotations

import click

from builder import culprits, preflight, verification
from builder.cli.build import chosen, find
from builder.cli.completion import complete_built
from builder.cli.session import Session, examples, json_option, pass_session, print_json, print_table
from builder.packages import Change
from builder.tools import libvirt


@click.command(
    epilog=examples(
        "golden bisect rocky9-web                # its newest build, which `golden verify` found broken",
        "golden bisect rocky9-web@20261121.2 --no-reboot",
        "golden bisect rocky9-web --dry-run      # what would be tried",
    )
)
@click.argument("image", metavar="IMAGE[@VERSION]", shell_complete=complete_built)
@click.option("--no-reboot", is_flag=True, help="Test right after dnf: faster, and blind to what a boot shows.")
@click.option("--dry-run", is_flag=True, help="Show the packages among which it would look; start nothing.")
@json_option
@pass_session
def bisect(session: Session, image: str, no_reboot: bool, dry_run: bool, as_json: bool) -> None:
    """Find the packages that broke a build, among those in which it differs from the last good one.

    Parts of the difference are installed in clones of the good build, with whatever they require, and the tests that
    failed are run there. Halving, as git bisect does it, mostly takes a few clones; several packages that only together
    break things are found too.
    """
    build = find(session, image)
    chosen(session.project, [build.image])
    question = culprits.ask(session.store, build)
    if dry_run:
        if as_json:
            print_json([change.model_dump(mode="json") for change in question.changes])
        else:
            _print(question.changes)
            click.echo(f"between {question.good.stem}, which is good, and {build.stem}")
        return
    preflight.require(["ssh"], "look for the package")
    with libvirt.connect() as connection:
        bench = verification.Bench(
            project=session.project,
            store=session.store,
            connection=connection,
            accelerator=session.accelerator(),
            reporter=session.reporter,
        )
        found = culprits.find(
            bench, question, repositories=session.project.repositories(build.image), reboots=not no_reboot
        )
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    _print(found.guilty)
    if found.along:
        click.echo(f"with what they require: {', '.join(change.name for change in found.along)}")
    click.echo(f"break {found.image}: {'; '.join(found.tests)} ({found.trials} clones)")


def _print(changes: tuple[Change, ...]) -> None:
    rows = [[change.name, change.kind, change.before or "", change.after or ""] for change in changes]
    print_table(["PACKAGE", "CHANGE", "BEFORE", "AFTER"], rows, empty="no package")

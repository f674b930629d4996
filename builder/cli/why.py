"""`golden why`: the reason for a build, with the change itself."""

from __future__ import annotations

from datetime import datetime

import click

from builder.cli.build import chosen, find, now_option
from builder.cli.completion import complete_built
from builder.cli.session import Session, examples, json_option, pass_session, print_json
from builder.decision import Decision
from builder.input_changes import Change, changes, in_detail
from builder.model import Build
from builder.plan import Planned


@click.command(
    epilog=examples(
        "golden why rocky9-upgrade                  # what the next golden build would do, and why",
        "golden why rocky9-upgrade@20261121.1       # why that build was made, against the one before it",
        "golden why rocky9-base --diff              # every line of the kickstart that changed",
    )
)
@click.argument("image", metavar="IMAGE[@VERSION]", shell_complete=complete_built)
@click.option("--diff", is_flag=True, help="Show all lines that changed, below the line that says why.")
@now_option
@json_option
@pass_session
def why(session: Session, image: str, diff: bool, now: datetime | None, as_json: bool) -> None:
    """Say in one line why an image would be built anew, or why not; with @VERSION, why that build was made.

    The line holds the change itself: which package repository's repomd.xml, of when, and of when before; which line
    of the kickstart; which step.
    """
    name, _, version = image.partition("@")
    if version:
        _explain_build(session, find(session, image), diff=diff, as_json=as_json)
        return
    chosen(session.project, [name])
    planned = Decision(
        session.project, session.store, [name], now=now, offline=session.reporter.note, note=session.reporter.note
    ).plan()
    cause = _cause(planned)
    if as_json:
        mine = planned[-1]
        print_json(
            {
                "image": name,
                "action": mine.action,
                "reason": mine.why,
                "changed_in": cause.image,
                "changes": _as_json(cause.changes),
                "key": mine.key,
                "build": mine.build.version if mine.build else None,
                "due": mine.due,
            }
        )
        return
    click.echo(f"{name}: {planned[-1].action}: {planned[-1].why}")
    _print_diff(cause.changes if diff else ())


def _cause(planned: list[Planned]) -> Planned:
    """The image lowest in the chain that will be new; the last one if that is none."""
    by_name = {step.image: step for step in planned}
    at = planned[-1]
    while at.parent is not None and by_name[at.parent].build is None:
        at = by_name[at.parent]
    return at


def _explain_build(session: Session, build: Build, *, diff: bool, as_json: bool) -> None:
    older = [it for it in session.store.builds(build.image) if it.id.age < build.id.age]
    before = older[-1] if older else None
    found = (
        changes(before.inputs, build.inputs, old_texts=before.texts, new_texts=build.texts)
        if before is not None
        else []
    )
    reason = build.reason or in_detail(found) or ("the first build" if before is None else "not recorded")
    if as_json:
        print_json(
            {
                "image": build.image,
                "version": build.version,
                "reason": reason,
                "before": before.version if before else None,
                "changes": _as_json(found),
                "key": build.key,
            }
        )
        return
    click.echo(f"{build.stem}: {reason}")
    _print_diff(found if diff else ())


def _as_json(found: tuple[Change, ...] | list[Change]) -> list[dict[str, object]]:
    return [change.model_dump(mode="json", exclude={"short"}) for change in found]


def _print_diff(found: tuple[Change, ...] | list[Change]) -> None:
    for change in found:
        click.echo(f"\n{change.detail if not change.diff else change.input}")
        for line in change.diff:
            click.echo(f"  {line}")

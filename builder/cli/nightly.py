"""`golden nightly`: everything at its time, and a report."""

from __future__ import annotations

from pathlib import Path

import click

from builder import night, nights, report, verdicts
from builder.cli.build import chosen, images_argument
from builder.cli.publish import channel_name
from builder.cli.session import (
    Session,
    examples,
    json_option,
    pass_session,
    pause_option,
    print_json,
    print_table,
    retries_option,
)
from builder.nights import Night
from builder.units import format_seconds

# Nights that the plots go back.
_TREND = 30


@click.command(
    epilog=examples(
        "golden nightly                         # everything, published to the channel 'nightly'",
        "golden nightly --report /srv/www/report",
        "golden nightly rocky9-web --no-publish --jobs 2",
        "golden nightly --dry-run               # what it would do",
    )
)
@images_argument
@click.option(
    "--channel",
    default="nightly",
    show_default=True,
    callback=channel_name,
    help="Where it promotes to, by way of candidate.",
)
@click.option("--no-publish", is_flag=True, help="Build and verify only.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Images at work at once, as memory and disk allow.  [default: half the processors]",
)
@retries_option
@pause_option
@click.option(
    "--report",
    "copies",
    type=click.Path(path_type=Path, file_okay=False),
    help="Copy index.html, junit.xml, night.json here.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be built and verified; start nothing.")
@json_option
@pass_session
def nightly(
    session: Session,
    images: tuple[str, ...],
    channel: str,
    no_publish: bool,
    jobs: int | None,
    retries: int,
    pause: int,
    copies: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Plan, build, verify, package, publish and promote everything that is due, collect, and report.

    An image that fails holds back what stands on it and nothing else; what is not good is not published, and clients
    keep what they have. What failed by a mirror, the network or a lock is tried again. If nothing changed, no machine
    is started. Safe to start twice: the second ends at once with exit code 3.

    Exit code: 0 everything is good; 5 an image is not what it promises; 4 a command failed; 3 this machine lacks
    something; 2 the project is wrong. Of several, the first in this order.
    """
    settings = night.Settings(
        images=tuple(chosen(session.project, images)),
        jobs=jobs,
        retries=retries,
        pause_s=pause,
        channel=None if no_publish else channel,
    )
    if dry_run:
        found = night.due(session.project, session.store, settings)
        if as_json:
            print_json([{"image": image, "action": action, "reason": reason} for image, action, reason in found])
        else:
            print_table(
                ["IMAGE", "ACTION", "REASON"], [list(row) for row in found], empty="golden.toml defines no image"
            )
        return
    held = night.hold(session.project, session.store, settings, reporter=session.reporter)
    place = nights.folder(session.store) / held.version
    history = nights.history(session.store, most=_TREND)
    newest = {
        turn.image: verdict
        for turn in held.turns
        if (build := session.store.newest(turn.image)) and (verdict := verdicts.read(session.store, build))
    }
    page = report.write(place, held, history=history, verdicts=newest)
    if copies is not None:
        nights.copy(place, copies)
    if as_json:
        print_json(held.model_dump(mode="json"))
    else:
        _print(held, page)
    if held.exit_code:
        raise click.exceptions.Exit(held.exit_code)


def _print(held: Night, page: Path) -> None:
    columns = ["IMAGE", "OUTCOME", "VERSION", "SIZE", "BOOT", "TIME", "WHY"]
    print_table(columns, report.rows(held), empty="golden.toml defines no image")
    click.echo(f"{report.summary(held)}; took {format_seconds(held.seconds)}")
    click.echo(str(page))

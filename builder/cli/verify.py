"""`golden verify` and `golden bisect`: is a build what it promises, and which package is it if not."""

from __future__ import annotations

from collections.abc import Sequence

import click

from builder import verification
from builder.cli.build import chosen, find, images_argument
from builder.cli.session import Session, examples, json_option, pass_session, print_json, print_table
from builder.cli.verdicts import need_passed, verify_builds
from builder.model import Build
from builder.promises import promises
from builder.units import format_moment, format_seconds
from builder.verdicts import Verdict


@click.command(
    "verify",
    epilog=examples(
        "golden verify sandbox-bootstrapped",
        "golden verify                           # the newest build of every image, unless it is verified already",
        "golden verify rocky9-web@20261121.1 --again",
        "golden verify rocky9-web --dry-run      # what would be tested",
    ),
)
@images_argument
@click.option("--again", is_flag=True, help="Also what was verified before and has not changed since.")
@click.option("--dry-run", is_flag=True, help="Say what would be asked of each image; start nothing.")
@json_option
@pass_session
def verify_images(session: Session, images: tuple[str, ...], again: bool, dry_run: bool, as_json: bool) -> None:
    """Boot a throw-away clone of each build and test it for what its image promises.

    That is what the steps and the `verify` tables of its chain in golden.toml say, and what every image owes: that it
    boots, takes the project's key, has no failed unit, its address from DHCP, and an identity of its own. Exit code 5
    names what broke; console, journal and junit.xml are kept with the logs of the build.
    """
    builds = _builds(session, images)
    if dry_run:
        _print_promises(session, builds, as_json=as_json)
        return
    found = verify_builds(session, builds, again=again)
    if as_json:
        print_json([verdict.model_dump(mode="json") for _, verdict in found])
    else:
        rows = [
            [it.image, it.version, _word(it), _boot(it), str(len(it.tests)), format_moment(it.at)] for _, it in found
        ]
        print_table(["IMAGE", "VERSION", "VERIFIED", "BOOT", "TESTS", "AT"], rows, empty="nothing to verify")
    need_passed(session, found)


def _builds(session: Session, images: Sequence[str]) -> list[Build]:
    if images:
        builds = [find(session, name) for name in images]
        for build in builds:
            chosen(session.project, [build.image])
        return builds
    newest = [session.store.newest(name) for name in chosen(session.project, [])]
    return [build for build in newest if build is not None]


def _print_promises(session: Session, builds: Sequence[Build], *, as_json: bool) -> None:
    asked = {build.stem: promises(session.project, build.image) for build in builds}
    if as_json:
        print_json({stem: it.model_dump(mode="json") for stem, it in asked.items()})
        return
    for build in builds:
        stands = verification.standing(session.project, session.store, build)
        click.echo(f"# {build.stem}{': verified already' if stands else ''}")
        for key, value in asked[build.stem].model_dump(mode="json").items():
            if value:
                click.echo(f"{key}: {', '.join(map(str, value)) if isinstance(value, (list, dict)) else value}")


def _word(verdict: Verdict) -> str:
    return "passed" if verdict.passed else f"{len(verdict.failed)} failed"


def _boot(verdict: Verdict) -> str:
    return format_seconds(verdict.boot_s) if verdict.boot_s is not None else ""

"""`golden build` and `golden plan`: what will be made, and making it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from builder import preflight
from builder.cli import private
from builder.cli.completion import complete_built
from builder.cli.session import Session, examples, images_option, json_option, pass_session, print_json, print_table
from builder.cli.verdicts import need_passed, verify_builds
from builder.decision import Decision
from builder.errors import ConfigError
from builder.model import Build, Project
from builder.pipeline import Pipeline
from builder.plan import Planned, order
from builder.supply import survey
from builder.tools import libvirt
from builder.units import format_bytes, format_seconds
from builder.workshop import Host


def chosen(project: Project, names: Sequence[str]) -> list[str]:
    """The images named on the command line, all of the project's if none. Raises ConfigError for an unknown one."""
    for name in names:
        if name not in project.images:
            raise ConfigError(
                f"there is no image '{name}' in {project.file.name}; there are {', '.join(project.images) or 'none'}"
            )
    return list(names) or list(project.images)


def find(session: Session, text: str) -> Build:
    """`IMAGE[@VERSION]` -> the build. Raises ConfigError for an unknown image or version.

    An image that golden.toml does not define, private or flat, is known by its builds.
    """
    image, _, version = text.partition("@")
    if not session.store.builds(image):
        chosen(session.project, [image])
    return session.store.find(image, version or None)


images_argument = click.argument("images", nargs=-1, metavar="[IMAGE]...", shell_complete=complete_built)
rebuild_option = click.option("--rebuild", is_flag=True, help="Build the named images anew even if nothing changed.")
refresh_option = click.option(
    "--refresh",
    is_flag=True,
    help="Build the named images anew on their newest parents; where nothing new comes of it, the old build stands.",
)


def _parse_time(_context: click.Context, _parameter: click.Parameter, text: str | None) -> datetime | None:
    """With its zone, UTC if it names none."""
    try:
        found = datetime.fromisoformat(text) if text else None
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a time; one looks like 2026-11-21T02:00") from error
    return found.replace(tzinfo=UTC) if found and found.tzinfo is None else found


now_option = click.option(
    "--now", callback=_parse_time, metavar="TIME", help="Decide as if it were this time (UTC), 2026-11-21T02:00."
)


@click.command(
    epilog=examples(
        "golden build sandbox-bootstrapped",
        "golden build                          # every image of golden.toml",
        "golden build --refresh sandbox-upgrade  # look for new packages now, whatever `refresh` says",
        "golden build --verify                 # and test a clone of each; exit code 5 names what broke",
        "golden build --dry-run sandbox-base   # print the commands, ready to paste; start nothing",
        "golden build rocky9-bootstrapped --with ~/rpmbuild/RPMS/x86_64 --with http://ci.example/42/ --name pr-42",
    )
)
@images_argument
@rebuild_option
@refresh_option
@click.option(
    "--with",
    "places",
    multiple=True,
    metavar="PATH|URL",
    help="Build a private leaf on the newest build of IMAGE: an RPM file, a folder of them, or a repository.",
)
@click.option("--name", metavar="NAME", help="Of the leaf, IMAGE-private-NAME.  [default: artifacts]")
@images_option
@click.option("--verify", is_flag=True, help="Afterwards verify them, as `golden verify` does.")
@click.option("--beside-others", is_flag=True, hidden=True, help="As a step of golden nightly, which holds the lock.")
@click.option("--dry-run", is_flag=True, help="Print the commands that would run, ready to paste; start nothing.")
@json_option
@pass_session
def build(
    session: Session,
    images: tuple[str, ...],
    rebuild: bool,
    refresh: bool,
    places: tuple[str, ...],
    name: str | None,
    installed: Path,
    verify: bool,
    beside_others: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Build images and whatever they stand on, as far as it is not there already.

    Nothing that failed or was interrupted is ever taken for a build. What is finished stays; the next run goes on
    from there. Without IMAGE, every image of golden.toml.

    --with builds one private image on IMAGE[@VERSION] as it is built, or else installed; that is never rebuilt. Of RPM
    files and folders of them every package is installed, of a repository those that IMAGE has; afterwards they are
    compared with what was given.
    """
    if places:
        if verify:
            raise ConfigError("--verify is for the images of golden.toml; what --with builds is yours to test")
        _build_leaf(
            session,
            images,
            places,
            name=name or "artifacts",
            installed=installed.absolute(),
            rebuild=rebuild,
            dry_run=dry_run,
            as_json=as_json,
        )
        return
    if name is not None:
        raise ConfigError("--name is the name of what --with builds")
    project = session.project
    wanted = chosen(project, images)
    forced, refreshed = wanted if rebuild else [], wanted if refresh else []
    Decision(project, session.store, wanted).plan()  # bad input is refused before this machine is looked at
    host = Host(uri=libvirt.default_uri(), accelerator=session.accelerator())
    pipeline = Pipeline(project, session.store, host=host, reporter=session.reporter)
    if dry_run:
        _print_commands(pipeline, wanted, forced, refreshed, as_json=as_json)
        return
    with libvirt.connect(host.uri) as connection:
        builds = pipeline.build(wanted, rebuild=forced, refresh=refreshed, connection=connection, is_step=beside_others)
    if verify:
        need_passed(session, verify_builds(session, builds, again=False))
    if as_json:
        print_json([build_summary(session, build) for build in builds])
    else:
        rows = [[b.image, b.version, format_bytes(b.size_bytes), str(b.packages), _took(b)] for b in builds]
        print_table(["IMAGE", "VERSION", "SIZE", "PACKAGES", "BUILT IN"], rows, empty="nothing to build")


@click.command(
    epilog=examples(
        "golden plan",
        "golden plan sandbox-bootstrapped --json",
        "golden plan --now 2026-12-01T02:00    # what will have its time by then",
        "golden plan --json --from http://mirror.example/golden/candidate    # for builders on other machines",
    )
)
@images_argument
@rebuild_option
@refresh_option
@now_option
@click.option(
    "--from",
    "address",
    metavar="URL",
    help="Decide by the builds that this channel has, wherever they were made, instead of those of this machine.",
)
@json_option
@pass_session
def plan(
    session: Session,
    images: tuple[str, ...],
    rebuild: bool,
    refresh: bool,
    now: datetime | None,
    address: str | None,
    as_json: bool,
) -> None:
    """Show what `golden build` would do, and why. Starts no machine.

    reuse: the newest build stands. build: there is none. rebuild: something changed. refresh: its time came.
    A package repository of the network that does not answer is taken as it was when it last did, and its date is
    said; one that never did is named in the reason.
    """
    wanted = chosen(session.project, images)
    planned = Decision(
        session.project,
        session.store,
        wanted,
        rebuild=wanted if rebuild else [],
        refresh=wanted if refresh else [],
        now=now,
        offline=session.reporter.note,
        note=session.reporter.note,
        builds=_builds_of(session, address, wanted) if address else None,
    ).plan()
    if as_json:
        print_json([_planned_summary(session.project, step) for step in planned])
    else:
        rows = [[step.image, step.parent or "", step.action, step.reason] for step in planned]
        print_table(["IMAGE", "PARENT", "ACTION", "REASON"], rows, empty="golden.toml defines no image")


def _build_leaf(
    session: Session,
    images: Sequence[str],
    places: Sequence[str],
    *,
    name: str,
    installed: Path,
    rebuild: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """`--with`: one private image on a build as it stands, for a harness to take."""
    if len(images) != 1:
        raise ConfigError("--with needs exactly one image to stand on", try_next="golden build IMAGE --with PATH")
    source = private.parent(session, images[0], installed=installed)
    with private.leaf(session, source, places, name=name, is_kept=dry_run) as derived:
        host = Host(uri=libvirt.default_uri(), accelerator=session.accelerator())
        pipeline = Pipeline(
            derived.project, session.store, host=host, reporter=session.reporter, standing=derived.standing
        )
        wanted = [derived.image.name]
        forced = wanted if rebuild else []
        if dry_run:
            _print_commands(pipeline, wanted, forced, [], as_json=as_json)
            return
        with libvirt.connect(host.uri) as connection:
            made = pipeline.build(wanted, rebuild=forced, connection=connection)[-1]
    use = private.how_to_use(session, made, name)
    if as_json:
        print_json(build_summary(session, made) | use)
        return
    for label, text in {"file": str(session.store.qcow2(made)), **use}.items():
        click.echo(f"{label + ':':<6} {text}")


def build_summary(session: Session, build: Build) -> dict[str, Any]:
    """A build as JSON: its facts, and where its file is."""
    return {**build.model_dump(mode="json"), "file": str(session.store.qcow2(build))}


def _builds_of(session: Session, address: str, wanted: Sequence[str]) -> Collection[Build]:
    with session.signing() as signer:
        found = survey(address, order(session.project, wanted), signer=signer, note=session.reporter.note)
    return found.builds.values()


def _planned_summary(project: Project, step: Planned) -> dict[str, Any]:
    """An image of the graph. memory_mib: what its machine takes, for who has to find room for it."""
    fields = step.model_dump(mode="json", exclude={"build", "standing", "texts", "recipe"})
    memory_mib = project.distribution_of(step.image).memory_mib
    return {**fields, "build": step.build.version if step.build else None, "memory_mib": memory_mib}


def _print_commands(
    pipeline: Pipeline, wanted: list[str], forced: list[str], refreshed: list[str], *, as_json: bool
) -> None:
    preflight.require(["virt-install"], "print the commands")
    found = pipeline.dry_run(wanted, rebuild=forced, refresh=refreshed)
    if as_json:
        print_json({name: [command.model_dump() for command in commands] for name, commands in found.items()})
        return
    for name, commands in found.items():
        click.echo(f"# {name}")
        for command in commands:
            click.echo(f"{command.line}    # {command.title}")
    if not found:
        click.echo("# nothing to do: every image is built and nothing changed")


def _took(build: Build) -> str:
    return format_seconds(sum(timing.seconds for timing in build.times))

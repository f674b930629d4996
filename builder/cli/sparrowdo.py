"""`golden sparrowdo` and `golden validate`: sparrowfiles on throw-away clones of an image that is bootstrapped."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from builder import clones, preflight, run
from builder.cli.completion import complete_built
from builder.cli.session import (
    Session,
    duration,
    examples,
    images_option,
    json_option,
    key_option,
    pass_session,
    print_json,
    print_table,
)
from builder.config_steps import parse_step
from builder.errors import ConfigError, GoldenError, ToolError
from builder.sparrowfiles import Bed, Follower, Outcome, run_many, run_one
from builder.steps import Sparrowdo
from builder.tools import libvirt, ssh
from builder.tools.free_port import free_port
from builder.tools.sparrowdo import bootstrap, command
from builder.tools.sparrowdo.command import Job
from builder.units import format_seconds

_user = click.option("--user", default="root", show_default=True, help="Whom Sparrowdo logs in as.")
_timeout = click.option(
    "--timeout",
    "timeout_s",
    default="20 min",
    show_default=True,
    callback=duration,
    metavar="TIME",
    help="For each sparrowfile, on a machine with KVM.",
)
_dry_run = click.option("--dry-run", is_flag=True, help="Print the commands that would run; start nothing.")


@click.command(
    epilog=examples(
        "golden sparrowdo rocky9-bootstrapped --sparrowfile test.raku",
        "golden sparrowdo rocky9-bootstrapped --sparrowfile a.raku --sparrowfile b.raku --jobs 2 --logs out",
        "golden sparrowdo rocky9-bootstrapped --sparrowfile test.raku --tag os=el9 --secrets secrets.env --keep",
    )
)
@click.argument("image", metavar="IMAGE[@VERSION]", shell_complete=complete_built)
@click.option(
    "--sparrowfile",
    "sparrowfiles",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False, resolve_path=True),
    help="What to run; each on a clone of its own. tasks/, files/, … beside it go along.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="How many clones at once.")
@click.option("--keep", is_flag=True, help="Keep the clones.")
@click.option(
    "--logs",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep each sparrowfile's output there, in NUMBER-NAME.log.",
)
@_user
@click.option("--sudo", is_flag=True, help="Run the sparrowfiles by sudo.")
@click.option(
    "--repository", metavar="URL|FOLDER|public", help="For plugins that are not in the image.  [default: none]"
)
@click.option("--tag", "tags", multiple=True, metavar="NAME[=VALUE]", help="For the sparrowfiles.")
@click.option(
    "--secrets",
    "secrets_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, resolve_path=True),
    help="File of variables, NAME=value in each line.",
)
@_timeout
@key_option
@images_option
@_dry_run
@json_option
@pass_session
def sparrowdo(
    session: Session,
    image: str,
    sparrowfiles: tuple[Path, ...],
    jobs: int,
    keep: bool,
    logs: Path | None,
    user: str,
    sudo: bool,
    repository: str | None,
    tags: tuple[str, ...],
    secrets_file: Path | None,
    timeout_s: int,
    key: Path | None,
    installed: Path,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run sparrowfiles on clones of an image, with no bootstrap, and end with their result.

    Each has a clone and a folder of its own. Its output is shown; the clone is destroyed. The exit status is the
    sparrowfile's own, of several that of the first that failed. A sparrowfile that could not be run is golden's own
    error, and not among the results of --json.
    """
    wanted = _jobs(sparrowfiles, user=user, sudo=sudo, repository=repository, tags=tags, secrets_file=secrets_file)
    if dry_run:
        _print_commands(image, wanted, user=user, key=key or session.key, is_kept=keep, as_json=as_json)
        return
    bed = _bed(session, image, installed=installed, key=key, user=user, timeout_s=timeout_s, is_kept=keep)
    if logs is not None:
        logs.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = logs or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="golden-logs-")))
        files = [folder.absolute() / f"{number}-{Path(job.title).name}.log" for number, job in enumerate(wanted, 1)]
        if len(wanted) == 1:
            follow = None if as_json else Follower(files[0])
            errors: list[GoldenError] = []
            outcomes = [run_one(bed, wanted[0], log=files[0], reporter=session.reporter, follow=follow)]
        else:
            show = _ignore if as_json else _show
            outcomes, errors = run_many(bed, wanted, files, at_once=jobs, reporter=session.reporter, show=show)
    if as_json:
        print_json([outcome.model_dump() for outcome in outcomes])
    else:
        _print_outcomes(outcomes)
    if errors:
        raise errors[0]
    failed = next((outcome.exit for outcome in outcomes if outcome.exit), 0)
    if failed:
        raise click.exceptions.Exit(failed)


@click.command(
    epilog=examples(
        "golden validate",
        "golden validate rocky9-bootstrapped --sparrowfile tests/quick.raku    # for a pre-commit hook",
    )
)
@click.argument("image", required=False, metavar="[IMAGE[@VERSION]]", shell_complete=complete_built)
@click.option(
    "--sparrowfile",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, resolve_path=True),
    help="A quick one of yours.  [default: one that says the versions of Raku and Sparrow6]",
)
@_user
@_timeout
@key_option
@images_option
@_dry_run
@json_option
@pass_session
def validate(
    session: Session,
    image: str | None,
    sparrowfile: Path | None,
    user: str,
    timeout_s: int,
    key: Path | None,
    installed: Path,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run one quick test on one clone: whether the image is still one that tests can run on.

    Without IMAGE, the project's one image that Sparrowdo bootstraps. Ends with 0 if the test ran and passed.
    """
    image = image or _only_bootstrapped(session)
    nonce = secrets.token_hex(8)
    if sparrowfile is None:
        job = bootstrap.smoke_job(nonce)
    else:
        (job,) = _jobs([sparrowfile], user=user, sudo=False, repository=None, tags=(), secrets_file=None)
    if dry_run:
        _print_commands(image, [job], user=user, key=key or session.key, is_kept=False, as_json=as_json)
        return
    bed = _bed(session, image, installed=installed, key=key, user=user, timeout_s=timeout_s, is_kept=False)
    with tempfile.TemporaryDirectory(prefix="golden-logs-") as folder:
        log = Path(folder) / "validate.log"
        outcome = run_one(bed, job, log=log, reporter=session.reporter, follow=None)
    if outcome.exit:
        lines = "\n".join(outcome.output.splitlines()[-run.TAIL_LINES :])
        raise ToolError(
            f"'{bed.source.build.stem}' does not pass {job.title}: {outcome.cause}",
            details=[("end", f"exit {outcome.exit}"), ("output", lines)],
            try_next=f"golden sparrowdo {image} --keep --sparrowfile …, and then golden clone ssh NAME",
        )
    versions = {} if sparrowfile else bootstrap.read_smoke(outcome.output, nonce, log=None)
    found = {"image": bed.source.build.image, "version": bed.source.build.version, "seconds": outcome.seconds}
    if as_json:
        print_json({**found, **versions})
        return
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    click.echo(f"{bed.source.build.stem}: {job.title} passed{f' ({said})' if said else ''}")


# --- what is wanted


def _jobs(
    sparrowfiles: Sequence[Path],
    *,
    user: str,
    sudo: bool,
    repository: str | None,
    tags: Sequence[str],
    secrets_file: Path | None,
) -> list[Job]:
    """By the rules of the step, since the same unquoted words are made of them."""
    folder = Path(repository) if repository not in (None, "public") and "://" not in str(repository) else None
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"there is no repository of Sparrow6's in {folder}: it is no folder")
    table: dict[str, Any] = {"bootstrap": True, "user": user}
    if tags:
        table["tags"] = {name: text or True for name, _, text in (tag.partition("=") for tag in tags)}
    if repository is not None and folder is None:
        table["repository"] = repository
    try:
        step = parse_step({"sparrowdo": table}).step
    except ValueError as error:
        raise ConfigError(str(error)) from error
    assert isinstance(step, Sparrowdo)
    return [
        Job(
            title=os.path.relpath(path),
            text=path.read_text(encoding="utf-8"),
            project=path.parent,
            folder=".",
            repository=str(folder.resolve()) if folder else step.repository,
            tags=step.tags,
            secrets=secrets_file,
            is_sudo=sudo,
        )
        for path in sparrowfiles
    ]


def _bed(
    session: Session, image: str, *, installed: Path, key: Path | None, user: str, timeout_s: float, is_kept: bool
) -> Bed:
    name, _, version = image.partition("@")
    key = key or session.key
    if key is None:
        raise ConfigError("Sparrowdo needs a key, and there is no project that has one", try_next="--key FILE")
    command.program()
    builds = session.store if session.has_project else None
    source = clones.locate(name, version or None, images=installed.absolute(), builds=builds)
    accelerator = session.accelerator()
    with libvirt.connect() as connection:
        preflight.need_reach(session.state, connection)
        preflight.need_reach(source.file.parent, connection)
    return Bed(
        state=session.state,
        source=source,
        key=key,
        accelerator=accelerator,
        user=user,
        timeout_s=timeout_s,
        is_kept=is_kept,
    )


def _only_bootstrapped(session: Session) -> str:
    names = [
        image.name
        for image in session.project.images.values()
        if any(isinstance(step, Sparrowdo) for step in image.steps)
    ]
    if len(names) != 1:
        raise ConfigError(
            f"the project has {'no image' if not names else 'several images'} that Sparrowdo bootstraps",
            try_next=f"golden validate {' or '.join(names) or 'IMAGE'}",
        )
    return names[0]


def _print_commands(
    image: str, wanted: Sequence[Job], *, user: str, key: Path | None, is_kept: bool, as_json: bool
) -> None:
    lines = []
    for number, job in enumerate(wanted, 1):
        target = ssh.Target(port=free_port(), key=key or Path("KEY"), user=user)
        name = f"sparrowdo-{number}"
        lines.append(f"golden clone create {name} --image {image}")
        lines.append(run.printable(command.argv(job, target, place=Path("/tmp/golden-sparrowdo") / str(number))))
        lines += [] if is_kept else [f"golden clone destroy {name}"]
    if as_json:
        print_json(lines)
    else:
        click.echo("\n".join(lines))


def _show(outcome: Outcome) -> None:
    click.echo(f"--- {outcome.sparrowfile}\n{outcome.output.rstrip()}")


def _ignore(_outcome: Outcome) -> None:
    """JSON says it at the end."""


def _print_outcomes(outcomes: Sequence[Outcome]) -> None:
    rows = [
        [it.sparrowfile, "passed" if not it.exit else f"exit {it.exit}", format_seconds(it.seconds), it.cause]
        for it in outcomes
    ]
    print_table(["SPARROWFILE", "RESULT", "TOOK", ""], rows, empty="")
    for outcome in outcomes:
        if outcome.clone:
            click.echo(f"try: golden clone ssh {outcome.clone}")

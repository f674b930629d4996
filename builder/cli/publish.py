"""`golden publish` and `golden repo`: RPMs into a channel, and what a channel needs around it."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from builder import publish as channels
from builder.cli.build import images_argument
from builder.cli.package import newest_builds, private_option, terms_of
from builder.cli.session import Session, examples, json_option, pass_session, print_json
from builder.errors import ConfigError, HostError
from builder.model import NAME
from builder.package import plan as plan_packages
from builder.store import write_atomically
from builder.tools.webserver import serving
from builder.units import format_bytes


def channel_name(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not NAME.fullmatch(value):
        raise click.BadParameter(f"'{value}' is not a name; use small letters, digits, '-' and '.'")
    return value


channel_option = click.option(
    "--channel", default="candidate", show_default=True, callback=channel_name, help="Which channel."
)
url_option = click.option("--url", help="Where clients reach the channels.  [default: url in [project] of golden.toml]")


@click.command(
    epilog=examples(
        "golden publish                             # the newest build of every image",
        "golden publish sandbox-bootstrapped        # the image and all it stands on",
        "golden publish --url http://mirror.example/golden",
    )
)
@images_argument
@channel_option
@url_option
@click.option("--dry-run", is_flag=True, help="Say what would be published; write nothing.")
@private_option
@json_option
@pass_session
def publish(
    session: Session,
    images: tuple[str, ...],
    channel: str,
    url: str | None,
    dry_run: bool,
    allow_private: bool,
    as_json: bool,
) -> None:
    """Put packaged images and whatever they stand on into a channel, for dnf to install.

    Clients see all of it at once or nothing: a new compose is written aside, and the channel's mirrorlist then names
    it. What the channel had before stays in it.
    """
    rpms: list[Path] = []
    builds = newest_builds(session, images)
    for job in plan_packages(session.store, builds, **terms_of(session, allow_private=allow_private)):
        if not job.is_done:
            raise ConfigError(
                f"there are no packages of '{job.build.stem}' yet",
                try_next=f"golden package {' '.join(images)}".strip(),
            )
        rpms += job.rpms
    url = url or session.project.url
    if dry_run:
        published = channels.result(channels.plan(session.store, channel, rpms, url=url))
    else:
        with session.reporter.step(f"publish to {channel}"):
            published = channels.publish(session.store, channel, rpms, url=url)
    if as_json:
        print_json(published.model_dump(mode="json"))
        return
    for name in published.new:
        click.echo(f"  {name}")
    verb = "would publish" if dry_run else "published"
    what = f"{verb} {len(published.new)} new RPMs" if published.new else "nothing new to publish"
    click.echo(f"{what}: channel '{channel}', compose {published.compose}, {published.packages} RPMs")
    click.echo(published.url)


@click.group()
def repo() -> None:
    """Serve, describe and check channels."""


@repo.command(
    epilog=examples("golden repo serve", "golden repo serve --host 0.0.0.0 --port 80    # to other machines, too")
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8710, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@pass_session
def serve(session: Session, host: str, port: int) -> None:
    """Serve all channels over http until Ctrl-C, which is the way to end it: the exit code is 0 then.

    The mirrorlist is answered with the address by which the client reached this server, whatever url was published,
    so a channel can be tried from anywhere before a web server of its own has it (repo/nginx.conf is an example).
    """
    session.store.channels.mkdir(parents=True, exist_ok=True)
    try:
        with serving(session.store.channels, host=host, port=port) as server:
            click.echo(f"serving {session.store.channels} at {server.url}; Ctrl-C ends it")
            signal.pause()
    except KeyboardInterrupt:  # SIGTERM, too: builder.errors.Interrupted
        click.echo("ended")


@repo.command("client-config", epilog=examples("golden repo client-config -o /etc/yum.repos.d/golden-candidate.repo"))
@channel_option
@url_option
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file, not to the terminal."
)
@pass_session
def client_config(session: Session, channel: str, url: str | None, output: Path | None) -> None:
    """Write the .repo file that makes dnf install from a channel."""
    project = session.project
    text = channels.client_config(channel, prefix=project.prefix, project=project.name, url=url or project.url)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        write_atomically(output.absolute(), text)
    except OSError as error:
        raise HostError(f"could not write {output}: {error.strerror}") from error


@repo.command(epilog=examples("golden repo check --channel candidate"))
@channel_option
@json_option
@pass_session
def check(session: Session, channel: str, as_json: bool) -> None:
    """Read a channel as clients will: its metadata, every byte of every RPM, every requirement.

    Exit code 5 and a list of what is wrong if anything is.
    """
    with session.reporter.step(f"check {channel}"):
        checked = channels.check(session.store, channel)
    if as_json:
        print_json(checked.model_dump(mode="json"))
        return
    size = format_bytes(checked.size_bytes)
    click.echo(f"channel '{channel}' is sound: compose {checked.compose}, {checked.packages} RPMs, {size}")

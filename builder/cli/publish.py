"""`golden publish`, `promote`, `rollback` and `repo`: RPMs into channels, and what a channel needs around it."""

from __future__ import annotations

import signal
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import click

from builder import channels
from builder.channels import publication
from builder.channels.publication import Published
from builder.cli.build import images_argument
from builder.cli.overview import Overview
from builder.cli.package import newest_builds, private_option, terms_of
from builder.cli.session import Session, examples, json_option, pass_session, print_json, print_table
from builder.errors import ConfigError, HostError, VerifyError
from builder.model import NAME
from builder.package import Packaging
from builder.package import plan as plan_packages
from builder.store import write_atomically
from builder.tools import openpgp
from builder.tools.openpgp import Signer
from builder.tools.webserver import serving
from builder.units import format_bytes


def channel_name(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not NAME.fullmatch(value):
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
@click.option("--channel", callback=channel_name, help="Which channel.  [default: candidate]")
@url_option
@click.option("--dry-run", is_flag=True, help="Say what would be published; write nothing.")
@private_option
@json_option
@pass_session
def publish(
    session: Session,
    images: tuple[str, ...],
    channel: str | None,
    url: str | None,
    dry_run: bool,
    allow_private: bool,
    as_json: bool,
) -> None:
    """Put packaged images and whatever they stand on into a channel, for dnf to install.

    Clients see all of it at once or nothing: a new compose is written aside, and the channel's mirrorlist then names
    it. What the channel had before stays in it. A private image goes into a channel of its own, with its parents. If
    golden.toml has a target, the channel is copied there.
    """
    url = url or session.project.url
    with session.signing() as signer:
        jobs = plan_packages(
            session.store,
            newest_builds(session, images),
            **terms_of(session, signer=signer, allow_private=allow_private),
        )
        for job in jobs:
            if not job.is_done:
                what = (
                    "there are no packages" if job.todo == "build" else "the project's key has not signed the packages"
                )
                raise ConfigError(
                    f"{what} of '{job.build.stem}'{' yet' if job.todo == 'build' else ''}",
                    try_next=f"golden package {' '.join(images)}".strip(),
                )
        found = []
        for name, rpms in _by_channel(session, jobs, channel).items():
            if dry_run:
                decided = publication.plan(session.store, name, rpms, url=url, signer=signer)
                found.append(publication.result(decided))
            else:
                with session.reporter.step(f"publish to {name}"):
                    found.append(channels.publish(session.store, name, rpms, url=url, signer=signer))
                push(session, name)
    if as_json:
        print_json(
            found[0].model_dump(mode="json") if len(found) == 1 else [it.model_dump(mode="json") for it in found]
        )
    for published in [] if as_json else found:
        _print_published(published, verb="would publish" if dry_run else "published")


def _by_channel(session: Session, jobs: Sequence[Packaging], channel: str | None) -> dict[str, list[Path]]:
    """Channel -> RPMs. A private build goes into its own with all that it stands on."""
    found: dict[str, list[Path]] = defaultdict(list)
    rpms = {job.build.stem: job.rpms for job in jobs}
    for job in jobs:
        chain = session.store.chain(job.build)
        if not any(link.private for link in chain):
            found[channel or "candidate"] += job.rpms
            continue
        if channel is not None:
            raise ConfigError(
                f"'{job.build.image}' is private, and private builds go into a channel of their own",
                try_next="leave --channel out",
            )
        found[channels.private_channel(job.build)] += [path for link in reversed(chain) for path in rpms[link.stem]]
    if channel is None and any(job.build.private for job in jobs):
        # Their public parents are in the private channel already; publishing those for everybody is not what was asked.
        asked = {path for name, paths in found.items() if name != "candidate" for path in paths}
        if set(found.get("candidate", [])) <= asked:
            found.pop("candidate", None)
    return dict(found)


def push(session: Session, channel: str) -> None:
    """Copy a channel to the target that golden.toml has, if it has one."""
    target = session.project.publication.target
    if target is not None:
        with session.reporter.step(f"copy {channel} to {target}"):
            channels.push(session.store, channel, target=target)


def _print_published(published: Published, *, verb: str) -> None:
    for name in published.new:
        click.echo(f"  {name}")
    what = f"{verb} {len(published.new)} new RPMs" if published.new else "nothing new to publish"
    click.echo(f"{what}: channel '{published.channel}', compose {published.compose}, {published.packages} RPMs")
    click.echo(published.url)


@click.command(
    epilog=examples(
        "golden promote                                   # all that was verified: candidate to nightly",
        "golden promote rocky9-tools --from nightly --to stable",
        "golden promote rocky9-tools --unverified         # without a verification; say why to those who use it",
        "golden promote --dry-run",
    )
)
@images_argument
@click.option("--from", "source", default="candidate", show_default=True, callback=channel_name, help="From where.")
@click.option("--to", "target", default="nightly", show_default=True, callback=channel_name, help="Where to.")
@click.option("--unverified", is_flag=True, help="Also builds that nobody verified, or that did not pass.")
@click.option("--again", is_flag=True, help="Also builds that golden rollback took back.")
@url_option
@click.option("--dry-run", is_flag=True, help="Say what would be promoted; write nothing.")
@json_option
@pass_session
def promote(
    session: Session,
    images: tuple[str, ...],
    source: str,
    target: str,
    unverified: bool,
    again: bool,
    url: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Take verified images from one channel to the next, each with all it stands on, or not at all.

    Without names: the newest set of every image of the channel. A set that was not verified, or did not pass, is held
    back; the others go. Exit code 5 if an image that was named is held back.
    """
    with session.signing() as signer, session.reporter.step(f"promote from {source} to {target}"):
        promoted = channels.promote(
            session.store,
            images,
            source=source,
            target=target,
            prefix=session.project.prefix,
            url=url or session.project.url,
            signer=signer,
            is_unverified=unverified,
            is_again=again,
            is_dry_run=dry_run,
        )
    if promoted.new and not dry_run:
        push(session, target)
    if as_json:
        print_json(promoted.model_dump(mode="json"))
    else:
        rows = [[stem, "would be promoted" if dry_run else "promoted"] for stem in promoted.promoted]
        rows += [[stem, "was there"] for stem in promoted.there]
        rows += [[stem, f"held back: {reason}"] for stem, reason in promoted.held.items()]
        print_table(["BUILD", ""], rows, empty=f"the channel '{source}' is empty")
        if promoted.compose:
            click.echo(f"channel '{target}', compose {promoted.compose}: {promoted.url}")
    if promoted.held and images:
        raise VerifyError(
            f"not everything that was named may go to '{target}'",
            details=list(promoted.held.items()),
            try_next="golden verify IMAGE, or --unverified to go without",
        )


@click.command(
    epilog=examples(
        "golden rollback nightly                   # to the compose before", "golden rollback stable --to 20261120.1"
    )
)
@click.argument("channel", metavar="CHANNEL", callback=channel_name)
@click.option("--to", metavar="COMPOSE", help="Which compose.  [default: the one before]")
@url_option
@click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@json_option
@pass_session
def rollback(session: Session, channel: str, to: str | None, url: str | None, dry_run: bool, as_json: bool) -> None:
    """Let clients of a channel see an earlier compose again; nothing is removed.

    Machines that have the newer images go back with: dnf distro-sync. What was taken back is not promoted again unless
    told --again.
    """
    found = channels.rollback(
        session.store,
        channel,
        to=to,
        prefix=session.project.prefix,
        url=url or session.project.url,
        is_dry_run=dry_run,
    )
    if not dry_run:
        push(session, channel)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    for stem in found.withdrawn:
        click.echo(f"  {stem}")
    verb = "would go" if dry_run else "went"
    click.echo(f"channel '{channel}' {verb} from compose {found.before} back to {found.compose}: {found.url}")


@click.group(cls=Overview)
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


@repo.command(
    "client-config",
    epilog=examples(
        "golden repo client-config -o /etc/yum.repos.d/golden-candidate.repo",
        "golden repo client-config --channel stable --key /etc/pki/rpm-gpg/RPM-GPG-KEY-golden -o stable.repo",
    ),
)
@channel_option
@url_option
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file, not to the terminal."
)
@click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the public key to this file, and have dnf take it from there instead of from the channel.",
)
@pass_session
def client_config(session: Session, channel: str, url: str | None, output: Path | None, key: Path | None) -> None:
    """Write the .repo file that makes dnf install from a channel, and take nothing that the project did not sign."""
    project = session.project
    with session.signing() as signer:
        public_key = signer.public_key if signer else None
        text = channels.client_config(
            channel,
            prefix=project.prefix,
            project=project.name,
            url=url or project.url,
            fingerprint=signer.fingerprint if signer else None,
            key_file=key,
        )
    if key is not None:
        if public_key is None:
            raise ConfigError("the project signs nothing, so there is no key to write", try_next="leave --key out")
        _write(key, public_key)
    if output is None:
        click.echo(text, nl=False)
    else:
        _write(output, text)


def _write(path: Path, text: str) -> None:
    try:
        write_atomically(path.absolute(), text)
    except OSError as error:
        raise HostError(f"could not write {path}: {error.strerror}") from error


@repo.command(epilog=examples("golden repo key --make", "golden repo key > RPM-GPG-KEY-golden"))
@click.option("--make", is_flag=True, help="Make the key first, where the project has none yet.")
@json_option
@pass_session
def key(session: Session, make: bool, as_json: bool) -> None:
    """Print the public key that machines need to trust the project's channels."""
    project = session.project
    signing = project.publication.signing
    if signing is None:
        raise ConfigError(
            "golden.toml says that nothing is signed", try_next="remove unsigned = true from [signing] of golden.toml"
        )
    if make:
        if signing.file is None:
            raise ConfigError(f"golden.toml names a key of gpg's, {signing.key}; golden makes none beside it")
        openpgp.make_key(signing.file, name=openpgp.owner(project.name))
    with session.signing() as signer:
        assert signer is not None
        found: Signer = signer
    if as_json:
        print_json({"fingerprint": found.fingerprint, "public_key": found.public_key})
    else:
        click.echo(found.public_key, nl=False)


@repo.command(epilog=examples("golden repo check", "golden repo check --channel nightly --json"))
@channel_option
@json_option
@pass_session
def check(session: Session, channel: str, as_json: bool) -> None:
    """Read a channel as clients will: metadata, every byte and signature of every RPM, every requirement.

    Exit code 5 and a list of what is wrong if anything is; 2 if nothing was published to it.
    """
    with session.signing() as signer, session.reporter.step(f"check {channel}"):
        checked = channels.check(session.store, channel, signer=signer)
    if as_json:
        print_json(checked.model_dump(mode="json"))
        return
    size = format_bytes(checked.size_bytes)
    signed = f"signed with {checked.key}" if checked.key else "not signed"
    click.echo(f"channel '{channel}' is sound: compose {checked.compose}, {checked.packages} RPMs, {size}, {signed}")

"""`golden step` and `golden accept`: one image of a night on any machine, and what comes of it into the channel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from builder import channels, checks
from builder.channels.deliveries import Accepted
from builder.cli.build import chosen
from builder.cli.completion import complete_built
from builder.cli.package import terms_of
from builder.cli.publish import channel_name, push, url_option
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
from builder.cli.verdicts import need_passed, verify_builds
from builder.decision import Decision
from builder.errors import ConfigError, GoldenError
from builder.model import Build, Frozen
from builder.night_steps import Retries, attempt
from builder.nights import Attempt
from builder.package import package
from builder.pipeline import Pipeline
from builder.plan import Planned, order
from builder.supply import Supply, survey
from builder.tools import libvirt
from builder.tools.openpgp import Signer
from builder.workshop import Host


class Result(Frozen):
    """What came of a step. outcome: "there" is what the channel had already. key: of the build that stands now.

    delivery: the name of what was left at the target. attempts: what failed before it went well.
    """

    image: str
    outcome: Literal["there", "nothing new", "delivered"]
    version: str
    key: str
    delivery: str | None = None
    attempts: tuple[Attempt, ...] = ()


@click.command(
    epilog=examples(
        "golden step rocky9-web --from http://mirror.example/golden/candidate --to mirror.example:/srv/delivered",
        "golden step rocky9-web --from … --to … --parent-key 3f2a…    # on that build of its parent, not the newest",
        "golden step rocky9-web --from … --to … --dry-run             # whether there is anything to do",
    )
)
@click.argument("image", metavar="IMAGE", shell_complete=complete_built)
@click.option("--from", "address", metavar="URL", required=True, help="The channel that has what IMAGE stands on.")
@click.option(
    "--to", "target", metavar="TARGET", required=True, help="Where it is left: FOLDER, HOST:/PATH or rsync://HOST/…"
)
@click.option("--parent-key", metavar="KEY", help="Content key of the build to stand on.  [default: the newest one's]")
@click.option("--rebuild", is_flag=True, help="Build it anew even if nothing changed.")
@retries_option
@pause_option
@click.option("--dry-run", is_flag=True, help="Say what would be done; start nothing.")
@json_option
@pass_session
def step(
    session: Session,
    image: str,
    address: str,
    target: str,
    parent_key: str | None,
    rebuild: bool,
    retries: int,
    pause: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Do one image's part of a night on this machine, whatever else it has or lacks.

    Takes what IMAGE stands on out of a channel, as far as it is not here; builds, verifies and packages IMAGE alone;
    leaves the result where golden accept finds it. If the channel has it already nothing is started, so a step that
    was cut off may be run again on any machine. What it stands on is never built along. What a mirror, the network or
    a lock made fail is tried again, as in golden nightly; nothing else is.
    """
    project = session.project
    chosen(project, [image])
    if any(link.is_private for link in project.chain(image)):
        raise ConfigError(f"'{image}' is private, and private builds are not handed from machine to machine")
    turn = _Turn(session, image, address=address, target=target, parent_key=parent_key, is_forced=rebuild)
    if dry_run:
        with session.signing() as signer:
            *_, planned, below = turn.look(signer)
        stands = ", ".join(build.stem for build in below.values()) or "nothing"
        if planned.build is not None:
            _print(turn.there(planned), as_json)
        else:
            click.echo(f"{image} would be built on {stands}: {planned.reason}")
        return
    attempts: list[Attempt] = []

    def failed(_number: int, error: GoldenError) -> Attempt:
        attempts.append(attempt("step", error))
        return attempts[-1]

    done = Retries(retries, pause).tried(
        turn.take, failed=failed, note=lambda text: session.reporter.note(f"{image}: {text}")
    )
    _print(done.model_copy(update={"attempts": tuple(attempts)}), as_json)


@dataclass
class _Turn:
    """One image's part of a night. is_forced: even if nothing changed. is_built: what failed since is not the build."""

    session: Session
    image: str
    address: str
    target: str
    parent_key: str | None
    is_forced: bool
    is_built: bool = False

    def take(self, number: int) -> Result:
        """All of it. After the first time it goes on from what that left: a checkpoint, a build, a verdict, RPMs."""
        with self.session.signing() as signer:
            supply, planned, standing = self.look(signer)
            if planned.build is not None:
                return self.there(planned)
            return self._done(supply, standing, signer=signer, is_again=number > 1)

    def there(self, planned: Planned) -> Result:
        assert planned.build is not None
        return Result(image=self.image, outcome="there", version=planned.build.version, key=planned.key)

    def look(self, signer: Signer | None) -> tuple[Supply, Planned, dict[str, Build]]:
        """What the channel has, what that says of the image, and what it would stand on."""
        project, session = self.session.project, self.session
        source = project.images[self.image].source
        supply = survey(
            self.address,
            order(project, [self.image]),
            every=[source] if source and self.parent_key else [],
            signer=signer,
            note=session.reporter.note,
        )
        standing = supply.standing(project, self.image, key=self.parent_key)
        forced = [self.image] if self.is_forced else []
        (*_, planned) = Decision(
            project, session.store, [self.image], rebuild=forced, standing=standing, builds=supply.builds.values()
        ).plan()
        session.reporter.note(f"{self.image}: {planned.why}")
        return supply, planned, standing

    def _done(self, supply: Supply, standing: dict[str, Build], *, signer: Signer | None, is_again: bool) -> Result:
        """Take, build, verify, package, deliver."""
        session, image = self.session, self.image
        project, store = session.project, session.store
        # Its plain package may follow its flat form; then they are one delivery.
        names = [image, *([f"{image}-flat"] if image in project.flat_links else [])]
        # What the channel has of it, too: the next version follows that, and sizes and packages are compared with it.
        newest = [it for it in map(supply.newest, names) if it]
        supply.take([*standing.values(), *newest], store, reporter=session.reporter)
        made = self._made(names, standing, is_again=is_again)
        builds = [build for build in made if build.image in names]
        build = next(build for build in builds if build.image == image)
        if build.stem in supply.builds:
            check, rpms = checks.checks(store).get(image), []
        else:
            need_passed(session, verify_builds(session, builds, again=False))
            terms = terms_of(session, signer=signer, allow_private=False)
            packaged = package(store, builds, reporter=session.reporter, is_alone=True, **terms)
            check, rpms = None, [path for found in packaged for path in (found.image_rpm, found.link_rpm)]
        with session.reporter.step(f"deliver {build.stem} to {self.target}"):
            name = channels.deliver(
                store, build.id, key=build.key, rpms=rpms, check=check, signer=signer, target=self.target
            )
        outcome: Literal["nothing new", "delivered"] = "delivered" if rpms else "nothing new"
        return Result(image=image, outcome=outcome, version=build.version, key=build.key, delivery=name)

    def _made(self, names: list[str], standing: dict[str, Build], *, is_again: bool) -> list[Build]:
        session = self.session
        host = Host(uri=libvirt.default_uri(), accelerator=session.accelerator())
        pipeline = Pipeline(session.project, session.store, host=host, reporter=session.reporter, standing=standing)
        forced, resumed = [self.image] if self.is_forced and not self.is_built else [], names if is_again else []
        with libvirt.connect(host.uri) as connection:
            made = pipeline.build(names, rebuild=forced, resume=resumed, connection=connection)
        self.is_built = True
        return made


def _print(result: Result, as_json: bool) -> None:
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        click.echo(f"{result.image}: {result.version} {result.outcome}")


@click.command(
    epilog=examples(
        "golden accept /srv/delivered                 # into candidate, and to the target if golden.toml has one",
        "golden accept /srv/delivered rocky9-web-20261121.1.3f2a96c1b07d    # this one alone",
        "golden accept /srv/delivered --dry-run       # what lies there",
    )
)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--channel", default="candidate", show_default=True, callback=channel_name, help="Which channel.")
@url_option
@click.option("--dry-run", is_flag=True, help="Say what has been delivered in full; write nothing.")
@json_option
@pass_session
def accept(
    session: Session,
    folder: Path,
    names: tuple[str, ...],
    channel: str,
    url: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Publish what golden step left in FOLDER, all of it or what is named, and keep the records of its tests.

    Each delivery has to be whole and signed with the project's key, and what it stands on has to be in the channel. Of
    two machines that made the same, the first counts. While another golden writes to the channel, it is waited for.
    Exit code 5 if something was refused: that is put aside, in FOLDER/refused.
    """
    channels.need_folder(folder)
    if dry_run:
        there = channels.delivered(folder)
        print_json(there) if as_json else click.echo("\n".join(there) or "nothing was delivered")
        return
    with session.signing() as signer, session.reporter.step(f"accept into {channel}"):
        found = channels.accept(
            session.store,
            folder,
            names,
            channel=channel,
            prefix=session.project.prefix,
            url=url or session.project.url,
            signer=signer,
            note=session.reporter.note,
        )
    if (session.store.channels / channel / "mirrorlist").exists():
        push(session, channel)  # also where nothing came: the last time it may not have come through
    _print_accepted(found, as_json)


def _print_accepted(found: list[Accepted], as_json: bool) -> None:
    if as_json:
        print_json([it.model_dump(mode="json") for it in found])
    else:
        print_table(["BUILD", ""], [[it.id.stem, it.outcome] for it in found], empty="nothing was delivered")

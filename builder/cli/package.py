"""`golden package`: builds to RPMs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypedDict

import click

from builder import private_keys
from builder.cli.build import chosen, find, images_argument
from builder.cli.session import Session, examples, json_option, pass_session, print_json, print_table
from builder.errors import ConfigError
from builder.model import Build
from builder.package import package as package_builds
from builder.package import plan
from builder.tools.openpgp import Signer
from builder.units import format_bytes


class Terms(TypedDict):
    prefix: str
    signer: Signer | None
    allow_private: bool
    keys: private_keys.Wanted
    flat_links: Collection[str]


private_option = click.option(
    "--allow-private", is_flag=True, help="Private builds too: everyone who reaches the packages gets them."
)


def newest_builds(session: Session, images: Sequence[str]) -> list[Build]:
    """The newest build of each image named, or of every image that has one. Raises ConfigError if there is none."""
    if images:
        return [find(session, name) for name in images]
    names = chosen(session.project, [])
    builds = [build for name in names if (build := session.store.newest(name))]
    if not builds:
        raise ConfigError("no image of this project is built yet", try_next="golden build")
    return builds


def terms_of(session: Session, *, signer: Signer | None, allow_private: bool) -> Terms:
    """How the project wants its images packaged: the same for `package` and for `publish`."""
    project = session.project
    return {
        "prefix": project.prefix,
        "signer": signer,
        "allow_private": allow_private,
        "keys": private_keys.wanted(project),
        "flat_links": project.flat_links,
    }


@click.command(
    epilog=examples(
        "golden package sandbox-bootstrapped    # the image and all it stands on",
        "golden package                         # the newest build of every image",
        "golden package --dry-run sandbox-base  # print the commands, ready to paste; write nothing",
    )
)
@images_argument
@click.option("--dry-run", is_flag=True, help="Print the commands that would run, ready to paste; write nothing.")
@private_option
@json_option
@pass_session
def package(session: Session, images: tuple[str, ...], dry_run: bool, allow_private: bool, as_json: bool) -> None:
    """Make the RPMs of images and whatever they stand on, as far as they are not there already.

    Two per image: one owns the files of this build and requires its parent's, exactly; the other, under the image's
    plain name, is what people install. Before that, every image file is compared with the digest its build had. An
    image whose guest holds a private key is refused, unless golden.toml names that key in keeps_private_keys. The RPMs
    are signed with the project's key; in them and beside them is what the image holds (CycloneDX), who made it of what
    (in-toto, signed), and how it was tested.
    """
    builds = newest_builds(session, images)
    with session.signing() as signer:
        terms = terms_of(session, signer=signer, allow_private=allow_private)
        if not dry_run:
            packaged = package_builds(session.store, builds, reporter=session.reporter, **terms)
        else:
            decided = plan(session.store, builds, **terms)
    if dry_run:
        jobs = [job for job in decided if not job.is_done]
        if as_json:
            print_json([{"build": job.build.stem, "commands": job.commands()} for job in jobs])
        for job in [] if as_json else jobs:
            click.echo(f"# {job.build.stem}\n{job.commands()}")
        return
    if as_json:
        print_json([found.model_dump(mode="json") for found in packaged])
        return
    rows = [
        [path.name, format_bytes(path.stat().st_size), "made" if found.is_new else "there already"]
        for found in packaged
        for path in (found.image_rpm, found.link_rpm)
    ]
    print_table(["RPM", "SIZE", ""], rows, empty="nothing to package")
    click.echo(f"in {session.store.rpms}")

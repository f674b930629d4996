"""`golden list`, `show` and `diff`: what there is."""

from __future__ import annotations

import click

from builder import package_changes
from builder.cli.build import build_summary, find
from builder.cli.completion import complete_built
from builder.cli.session import Session, examples, json_option, pass_session, print_json, print_table
from builder.cli.table import print_facts
from builder.errors import ConfigError
from builder.model import Build
from builder.packages import compare
from builder.units import format_bytes, format_moment


@click.command("list", epilog=examples("golden list", "golden list --json"))
@json_option
@pass_session
def list_images(session: Session, as_json: bool) -> None:
    """List the project's images and the newest build of each."""
    newest = {build.image: build for build in session.store.builds()}
    # With what `golden build --with` and `golden flatten` made, which golden.toml does not define.
    made_from = {image.name: image.source for image in session.project.images.values()}
    made_from |= {
        name: build.source.image if build.source else None for name, build in newest.items() if name not in made_from
    }
    if as_json:
        print_json(
            [
                {
                    "image": name,
                    "parent": source,
                    "version": newest[name].version if name in newest else None,
                    "size_bytes": newest[name].size_bytes if name in newest else None,
                    "private": _is_private(session, name, newest.get(name)),
                    "builds": [build.version for build in session.store.builds(name)],
                }
                for name, source in made_from.items()
            ]
        )
        return
    rows = [[name, source or "", *_columns(newest.get(name))] for name, source in made_from.items()]
    print_table(["IMAGE", "PARENT", "VERSION", "SIZE", "FINISHED"], rows, empty="golden.toml defines no image")


@click.command(epilog=examples("golden show sandbox-base", "golden show sandbox-base@20261121.1 --json"))
@click.argument("image", metavar="IMAGE[@VERSION]", shell_complete=complete_built)
@json_option
@pass_session
def show(session: Session, image: str, as_json: bool) -> None:
    """Show one build: its file, what it stands on, what decided it, and how long each step took."""
    build = find(session, image)
    if as_json:
        print_json(build_summary(session, build))
        return
    rows = [
        ["image", build.image],
        ["version", build.version],
        ["file", str(session.store.qcow2(build))],
        ["sha256", build.id.sha256],
        ["size", f"{format_bytes(build.size_bytes)}, a disk of {format_bytes(build.virtual_bytes)} to the guest"],
        *([["flat form of", build.flattened.stem]] if build.flattened else []),
        *([["private", "not packaged or published without --allow-private"]] if build.private else []),
        *(["private key", f"{path} in the guest"] for path in build.private_keys),
        ["chain", " <- ".join(link.stem for link in session.store.chain(build))],
        ["packages", f"{build.packages}, listed in {session.store.package_list(build)}"],
        *(["software", f"{name} {version}"] for name, version in build.software.items()),
        ["key", build.key],
        *([f"  {name}", value] for name, value in build.inputs.items()),
        [
            "built",
            f"{format_moment(build.started)} to {format_moment(build.finished)} with {build.accelerator.upper()}",
        ],
        *([f"  {timing.step}", f"{timing.seconds:.1f} s"] for timing in build.times),
        *(["tool", f"{name}: {version}"] for name, version in build.tools.items()),
        ["logs", str(session.store.logs / build.stem)],
    ]
    print_facts(rows, label_width=12)


@click.command(
    epilog=examples(
        "golden diff sandbox-upgrade               # against the build that it stands on",
        "golden diff sandbox-upgrade --previous    # against the build before it",
        "golden diff sandbox-base sandbox-upgrade --changelogs",
        "golden diff web-base@20261120.1 web-base@20261121.1",
    )
)
@click.argument("a", metavar="A[@VERSION]", shell_complete=complete_built)
@click.argument("b", metavar="[B[@VERSION]]", required=False, shell_complete=complete_built)
@click.option("--previous", is_flag=True, help="Without B: compare with the build of A before this one.")
@click.option("--changelogs", is_flag=True, help="Show the newest changelog entry of each package that is new in B.")
@json_option
@pass_session
def diff(session: Session, a: str, b: str | None, previous: bool, changelogs: bool, as_json: bool) -> None:
    """Show which packages differ from build A to build B: added, removed, upgraded, downgraded.

    Without B: from the build that A stands on to A.
    """
    before, after = _pair(session, a, b, previous=previous)
    lists = [session.store.package_list(build).read_text(encoding="utf-8").split() for build in (before, after)]
    changes = compare(*lists)
    kept = package_changes.changelogs(session.store, after)
    entries = {package: kept[package] for package in lists[1] if package in kept and package not in lists[0]}
    if as_json:
        print_json(
            {
                "a": before.stem,
                "b": after.stem,
                "changes": [change.model_dump(mode="json") for change in changes],
                "changelogs": entries,
            }
        )
        return
    rows = [[change.name, change.kind, change.before or "", change.after or ""] for change in changes]
    print_table(["PACKAGE", "CHANGE", before.stem, after.stem], rows, empty="the same packages")
    for package, entry in entries.items() if changelogs else ():
        click.echo(f"\n{package}")
        for line in entry.splitlines():
            click.echo(f"  {line}")


def _pair(session: Session, a: str, b: str | None, *, previous: bool) -> tuple[Build, Build]:
    """What to compare, older first. Raises ConfigError where there is nothing to compare with."""
    if b is not None:
        if previous:
            raise ConfigError("--previous compares with the build before A; leave B out")
        return find(session, a), find(session, b)
    after = find(session, a)
    if previous:
        builds = session.store.builds(after.image)
        older = builds[: builds.index(after)]
        if not older:
            raise ConfigError(f"there is no build of '{after.image}' before {after.version}")
        return older[-1], after
    if after.parent is None:
        raise ConfigError(
            f"'{after.image}' is a base and has no parent to compare with",
            try_next=f"golden diff {after.image} --previous",
        )
    return session.store.find(after.parent.image, after.parent.version), after


def _columns(build: Build | None) -> list[str]:
    return (
        [build.version, format_bytes(build.size_bytes), format_moment(build.finished)]
        if build
        else ["not built", "", ""]
    )


def _is_private(session: Session, name: str, build: Build | None) -> bool:
    image = session.project.images.get(name)
    return bool((image and image.is_private) or (build and build.private))

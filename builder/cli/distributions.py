"""`golden distributions`: what can be installed, from where, and what of it was checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from builder import config, inputs, install, run
from builder.cli.session import Session, examples, json_option, pass_session, print_json, print_table
from builder.errors import ConfigError
from builder.model import Distribution, Image, Project
from builder.tools.download import shown
from builder.tools.virt_install import known_osinfo

# Stands in for the project's key, where there is none to render a kickstart with.
_SOME_KEY = "ecdsa-sha2-nistp384 AAAA golden"


@click.command(epilog=examples("golden distributions", "golden distributions --json | jq -r '.[].name'"))
@json_option
@pass_session
def distributions(session: Session, as_json: bool) -> None:
    """List the distributions that golden and golden.toml know, and what was checked of each.

    A kickstart that is valid was rendered for this table and read by pykickstart with the handler of its version. What
    is installed here is the newest build of a base. --json has more: addresses, firmware, keys, and whether this
    machine's osinfo-db knows the operating system; one that it does not is given to virt-install as a generic one.
    """
    project = session.project if session.has_project else config.without_file(session.file)
    installed = _installed(session, project) if session.has_project else {}
    rows = [_summary(project, it, installed.get(it.name)) for it in project.distributions.values()]
    if as_json:
        print_json(rows)
        return
    print_table(
        ["NAME", "TITLE", "ARCH", "SOURCE", "KICKSTART", "INSTALLED HERE"],
        [
            [
                *(row["name"], row["title"], row["arch"]),
                _place(row["source"]) if row["source"] else "yours to name",
                f"{row['kickstart_version']}, {'valid' if row['problem'] is None else row['problem']}",
                row["installed"] or "no",
            ]
            for row in rows
        ],
        empty="there are no distributions",
    )


def _place(source: str) -> str:
    """The server of an address, the name of a file: enough to tell sources apart."""
    return urlsplit(source).hostname or Path(source).name


def _summary(project: Project, it: Distribution, installed: str | None) -> dict[str, Any]:
    source = it.source
    return {
        "name": it.name,
        "title": it.title,
        "arch": it.arch,
        "firmware": it.firmware,
        "layout": it.layout,
        "source": None if source is None else shown(source.location),
        "source_kind": None if source is None else source.kind,
        "gpg_key": None if it.gpg_key is None else str(it.gpg_key),
        "gpg_key_here": it.gpg_key is not None and it.gpg_key.is_file(),
        "kickstart_version": it.kickstart_version,
        "osinfo": it.osinfo,
        "osinfo_known": it.osinfo in known_osinfo() if run.has_program("virt-install") else None,
        "problem": _problem(project, it),
        "installed": installed,
    }


def _problem(project: Project, it: Distribution) -> str | None:
    """What is wrong with the distribution's kickstart; None if it was rendered and is valid."""
    try:
        key = inputs.public_key(project)
    except ConfigError:
        key = _SOME_KEY
    try:
        install.kickstart(Image(name=f"{it.name}-base", distribution=it.name, layer="base"), it, ssh_public_key=key)
    except ConfigError as error:
        return "; ".join([error.what, *map(str, error.problems)])
    return None


def _installed(session: Session, project: Project) -> dict[str, str]:
    """Distribution -> the newest build of one of its bases."""
    bases = {name for name, image in project.images.items() if image.parent is None}
    return {build.distribution: build.stem for build in session.store.builds() if build.image in bases}

"""golden.toml -> Project: a frozen model, or all problems at once, each with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, SecretStr

from builder import config_distributions, config_images, private, toml_lines
from builder.catalogue import Raw
from builder.config_problems import Lines, Problems
from builder.config_publication import RawPublish, RawRetention, RawSigning
from builder.errors import ConfigError, Problem, did_you_mean
from builder.model import Project
from builder.password import parse_hash
from builder.publication import Publication

Hash = Annotated[SecretStr, BeforeValidator(parse_hash)]


class _Project(Raw):
    name: str | None = None
    prefix: str = "golden"
    ssh_key: str = "keys/id_ed25519"
    url: str = "http://127.0.0.1:8710"
    root_password_hash: Hash | None = None
    prefer: Literal["chain", "flat"] = "chain"


_SECTIONS = ("project", "signing", "publish", "retention", "distribution", "matrix", "image")


def load(file: Path) -> Project:
    """Read and check `file`, a golden.private.toml beside it merged over it.

    Raises ConfigError with every problem found, in the order of the file.
    """
    if not file.is_file():
        raise ConfigError(f"there is no {file}", try_next="golden init  writes one to start from")
    data, lines = _read(file)
    own = file.with_name(private.FILE)
    own_data, own_lines = _read(own) if own.is_file() else ({}, {})
    return _project(file, private.merged(data, own_data), lines, own=own_data, own_lines=own_lines)


def _read(file: Path) -> tuple[dict[str, Any], Lines]:
    try:
        return toml_lines.read(file)
    except ValueError as error:
        raise ConfigError(f"{file.name} is not TOML", problems=[Problem(file.name, str(error))]) from error


def without_file(file: Path) -> Project:
    """What golden knows where there is no `file`: its catalogue, and no image."""
    return _project(file, {}, {}, own={}, own_lines={})


def _project(file: Path, data: dict[str, Any], lines: Lines, *, own: dict[str, Any], own_lines: Lines) -> Project:
    """One pass over one file. own: what golden.private.toml says; it is in `data`, too."""
    folder = file.absolute().parent
    problems = Problems(file, lines, own_lines=own_lines)
    for key in data:
        if key not in _SECTIONS:
            problems.add((key,), f"unknown key{did_you_mean(key, _SECTIONS)}")
    project = problems.checked(_Project, data.get("project", {}), at=("project",)) or _Project()
    tables = problems.tables(data, "distribution")
    distributions = config_distributions.read(tables, file=file, problems=problems)
    publication = _publication(data, folder=folder, problems=problems)
    images = config_images.read(
        data,
        known=distributions,
        named=tables,
        folder=folder,
        root_password_hash=project.root_password_hash,
        problems=problems,
    )
    images = private.marked(
        images,
        names=private.touched(own, "image") | private.readers(images),
        distributions=private.heirs(
            private.touched(own, "distribution"),
            config_distributions.overriding(tables),
        ),
    )
    for key, name in (("name", project.name), ("prefix", project.prefix)):
        if name is not None:
            problems.check_name(name, ("project", key))
    problems.need_none()
    return Project(
        file=file.absolute(),
        name=project.name or _as_name(folder.name),
        prefix=project.prefix,
        ssh_key=folder / project.ssh_key,
        url=project.url.rstrip("/"),
        distributions=distributions,
        images=images,
        prefer=project.prefer,
        publication=publication,
    )


def _publication(data: dict[str, Any], *, folder: Path, problems: Problems) -> Publication:
    signing = problems.checked(RawSigning, data.get("signing", {}), at=("signing",)) or RawSigning()
    publish = problems.checked(RawPublish, data.get("publish", {}), at=("publish",)) or RawPublish()
    retention = problems.checked(RawRetention, data.get("retention", {}), at=("retention",)) or RawRetention()
    for name in retention.channel:
        problems.check_name(name, ("retention", "channel", name))
    return Publication(
        signing=signing.resolved(folder),
        target=publish.resolved(folder),
        retention=retention.resolved(),
    )


def _as_name(text: str) -> str:
    """A folder's name as a project's name."""
    name = "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in text.lower()).split())
    return name or "project"

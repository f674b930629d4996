"""`package-changes.json` beside a build's logs: what its packages are against its parent's and its predecessor's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from builder.errors import VerifyError
from builder.frozen import Frozen
from builder.model import Build
from builder.packages import Change, compare
from builder.store import Store

FILE = "package-changes.json"


class Difference(Frozen):
    """The symmetric difference of two package lists. since: the other build's stem."""

    since: str
    changes: tuple[Change, ...]


class PackageChanges(Frozen):
    """parent, previous: None where there is none. changelogs: NEVRA -> newest entry, of what was added or changed."""

    format: int = 1
    parent: Difference | None
    previous: Difference | None
    changelogs: dict[str, str]


def describe(
    packages: list[str],
    *,
    parent: Build | None,
    previous: Build | None,
    store: Store,
    changelogs: Mapping[str, str],
) -> PackageChanges:
    """packages: the new build's NEVRAs. changelogs: of all of them; only what differs is kept."""
    against = [_difference(packages, build, store) for build in (parent, previous)]
    others = [set(_list(store, build)) for build in (parent, previous) if build is not None]
    new = {package for other in others for package in packages if package not in other}
    return PackageChanges(
        parent=against[0],
        previous=against[1],
        changelogs={package: changelogs[package] for package in sorted(new) if package in changelogs},
    )


def write(changes: PackageChanges, logs: Path) -> None:
    (logs / FILE).write_text(json.dumps(changes.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")


def changelogs(store: Store, build: Build) -> dict[str, str]:
    """NEVRA -> newest changelog entry, as far as `build` has kept them; builds of an older golden have none.

    Raises VerifyError if the file is damaged.
    """
    path = store.logs / build.stem / FILE
    if not path.exists():
        return {}
    try:
        return PackageChanges.model_validate_json(path.read_bytes()).changelogs
    except ValidationError as error:
        raise VerifyError(
            f"the changelogs of {build.stem} cannot be read: {path} is damaged",
            details=[("reason", str(error).splitlines()[0])],
            try_next=f"rm {path}, and be without changelogs",
        ) from error


def _difference(packages: list[str], build: Build | None, store: Store) -> Difference | None:
    if build is None:
        return None
    return Difference(since=build.stem, changes=tuple(compare(_list(store, build), packages)))


def _list(store: Store, build: Build) -> list[str]:
    return store.package_list(build).read_text(encoding="utf-8").split()

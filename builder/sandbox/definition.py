"""`data/distribution.toml` as typed models: which RPMs the sandbox has and which Debian packages each carries."""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Package:
    """One RPM. `debian`: the Debian packages whose files it carries; the first gives it its version.

    debian holds fnmatch patterns. overlay: folder below `data/` whose files are added. bump: added to the release.
    version: the RPM's version where there is no Debian package to take it from.
    initrd_files: of the guest, patterns below `usr/`; they go into an initial RAM disk of their own, `initrd_name`,
    that is put behind the kernel's where a machine needs it to find its root.
    """

    name: str
    summary: str
    debian: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    modules: tuple[str, ...] = ()
    initrd_modules: tuple[str, ...] = ()
    initrd_files: tuple[str, ...] = ()
    initrd_name: str = ""
    overlay: str = ""
    version: str | None = None
    bump: str = ""


@dataclass(frozen=True)
class Definition:
    """packages: of the base, in the order of the file. updates: newer versions of some of them.

    additions: those RPMs that are new in the updates repository and carry several Debian packages.
    """

    release: str
    updates_release: str
    roots: dict[str, tuple[str, ...]]
    ignored: frozenset[str]
    unwanted: tuple[str, ...]
    packages: tuple[Package, ...]
    updates: tuple[Package, ...]
    core: tuple[str, ...]
    additions: tuple[Package, ...] = ()

    def owner(self, debian: str) -> str | None:
        """The package of the base that carries a Debian package, or None if none claims it."""
        return _owner(debian, self.packages)

    def adding(self, debian: str) -> str | None:
        """The same among the additions."""
        return _owner(debian, self.additions)


def _owner(debian: str, packages: Iterable[Package]) -> str | None:
    return next((p.name for p in packages if any(fnmatch.fnmatchcase(debian, it) for it in p.debian)), None)


def load(file: Path = DATA / "distribution.toml") -> Definition:
    table = tomllib.loads(file.read_text())
    packages = {name: _package(name, row, table) for name, row in table["package"].items()}
    return Definition(
        release=table["release"],
        updates_release=table["updates_release"],
        roots={role: tuple(names) for role, names in table["roots"].items()},
        ignored=frozenset(table["ignored"]),
        unwanted=tuple(table["unwanted"]),
        packages=tuple(packages.values()),
        updates=tuple(_update(packages[name], row, table) for name, row in table["update"].items()),
        core=tuple(table["comps"]["core"]),
        additions=tuple(_package(name, row, table) for name, row in table["addition"].items()),
    )


def _package(name: str, row: dict[str, Any], table: dict[str, Any]) -> Package:
    return Package(
        name=name,
        summary=row["summary"],
        debian=tuple(row.get("debian", ())),
        provides=tuple(row.get("provides", ())),
        unwanted=(*table["unwanted"], *row.get("unwanted", ())),
        attributes=tuple(row.get("attributes", {}).items()),
        links=tuple(row.get("links", {}).items()),
        modules=tuple(row.get("modules", ())),
        initrd_modules=tuple(row.get("initrd_modules", ())),
        initrd_files=tuple(row.get("initrd_files", ())),
        initrd_name=row.get("initrd_name", ""),
        overlay=f"root/{name}",
        version=table["release"] if row.get("version") == "release" else None,
    )


def _update(base: Package, row: dict[str, Any], table: dict[str, Any]) -> Package:
    unwanted = (*table["unwanted"], *row["unwanted"]) if "unwanted" in row else base.unwanted
    return Package(
        name=base.name,
        summary=row.get("summary", base.summary),
        debian=base.debian,
        provides=base.provides,
        unwanted=unwanted,
        attributes=base.attributes,
        links=base.links,
        overlay=f"updates/{base.name}",
        version=table["updates_release"] if base.version else None,
        bump=row.get("bump", ""),
    )

"""Repository metadata by the library createrepo_c: read, take over what is known, write."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder import interrupts
from builder.errors import ToolError, VerifyError
from builder.store import sha256, sync_directory
from builder.tools.createrepo_library import createrepo_c

# name, comparison, epoch, version, release; all but the name None for a bare capability.
Capability = tuple[str, str | None, str | None, str | None, str | None]


@dataclass(frozen=True)
class Package:
    """One RPM as repository metadata knows it. href: relative to the repository. metadata: the library's own record."""

    href: str
    sha256: str
    size_bytes: int
    mtime_s: int
    requires: frozenset[Capability]
    provides: frozenset[Capability]
    metadata: Any

    @property
    def files(self) -> list[str]:
        """The paths that it owns, as far as the metadata was read from filelists too."""
        return [f"{folder}{name}" for _, folder, name, *_ in self.metadata.files]

    @property
    def file_name(self) -> str:
        return self.href.rpartition("/")[2]

    @property
    def built_s(self) -> float:
        """Seconds since the epoch."""
        return float(self.metadata.time_build)


def read(repository: Path) -> list[Package]:
    """The packages of a repository, from its metadata alone.

    Raises VerifyError if the metadata is missing, damaged, or not what repomd.xml says.
    """
    try:
        with interrupts.held():
            reader = createrepo_c.RepositoryReader.from_path(str(repository))
        for record in reader.repomd:
            path = repository / record.location_href
            if (found := sha256(path)) != record.checksum:
                raise OSError(f"{path} is damaged: expected sha256 {record.checksum}, found {found}")
        with interrupts.held():
            packages, _ = reader.parse_packages()
    except (OSError, createrepo_c.CreaterepoCError) as error:
        raise VerifyError(f"the metadata of {repository} cannot be read", details=[("reason", str(error))]) from error
    return [_package(metadata) for metadata in packages.values()]


def hrefs(repository: Path) -> list[str]:
    """The metadata files that repomd.xml names, relative to the repository. Raises VerifyError if it cannot be read."""
    path = repository / "repodata" / "repomd.xml"
    try:
        return [record.location_href for record in createrepo_c.Repomd(str(path))]
    except (OSError, createrepo_c.CreaterepoCError) as error:
        raise VerifyError(f"{path} cannot be read", details=[("reason", str(error))]) from error


def read_rpm(path: Path, *, href: str) -> Package:
    """Read one RPM file, all of it, for its checksum. Raises VerifyError if it is none."""
    try:
        return _package(createrepo_c.package_from_rpm(str(path), location_href=href))
    except OSError as error:
        raise VerifyError(f"{path} cannot be read as an RPM", details=[("reason", str(error))]) from error


def write(repository: Path, packages: Collection[Package]) -> None:
    """Write `repodata/` for `packages` and fsync it; their files are not read. gz: clients of EL7 and EL8 read it.

    Raises ToolError.
    """
    try:
        with createrepo_c.RepositoryWriter(
            str(repository), num_packages=len(packages), compression=createrepo_c.GZ_COMPRESSION
        ) as writer:
            for package in sorted(packages, key=lambda package: package.href):
                writer.add_pkg(package.metadata)
    except createrepo_c.CreaterepoCError as error:
        # The library does not tell a full disk from other errors.
        raise ToolError(
            f"could not write the metadata of {repository}",
            details=[("reason", str(error))],
            try_next=f"df -h {repository.parent}",
        ) from error
    for path in (repository / "repodata").iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    sync_directory(repository / "repodata")


def _package(metadata: Any) -> Package:
    return Package(
        href=metadata.location_href,
        sha256=metadata.pkgId,
        size_bytes=metadata.size_package,
        mtime_s=metadata.time_file,
        requires=frozenset(entry[:5] for entry in metadata.requires),
        provides=frozenset(entry[:5] for entry in metadata.provides),
        metadata=metadata,
    )

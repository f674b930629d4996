"""RPMs -> a channel: immutable compose folders, and one small file that names the newest.

    channels/candidate/composes/20261121.1/Packages/*.rpm, repodata/    never changed once it has this name
    channels/candidate/mirrorlist                                       one line, the newest compose's address

A client takes the mirrorlist first and then everything from one compose, so it never sees a repository change under
its hands. Measured: the only way without errors for clients while the repository is switched.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.errors import ConfigError, VerifyError
from builder.model import VERSION, Frozen
from builder.store import Store, lock, sha256, sync_directory, version_after, write_atomically
from builder.templates import render, shared
from builder.tools import createrepo
from builder.tools.createrepo import Package

_URL = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?")


@dataclass(frozen=True)
class Plan:
    """A publication, decided in full. compose: the folder that is to hold `packages`, or does already.

    sources: file name -> where its bytes are now. new: names of the files that no client has seen.
    """

    channel: Path
    compose: Path
    url: str
    packages: dict[str, Package]
    sources: dict[str, Path]
    new: tuple[str, ...]


class Published(Frozen):
    """What clients of a channel see. compose: its version. new: the file names that this publication added."""

    channel: str
    compose: str
    url: str
    packages: int
    new: tuple[str, ...]


class Checked(Frozen):
    """A channel in which nothing is wrong. size_bytes: of all its packages."""

    channel: str
    compose: str
    packages: int
    size_bytes: int


def publish(store: Store, channel: str, rpms: Sequence[Path], *, url: str) -> Published:
    """Add `rpms` to what the channel has and let its clients see the result, all of it or nothing.

    url: of the folder of all channels, as clients will reach it. If the channel has all of them, no compose is made.
    Raises what `plan` raises; HostError if another golden is publishing to this channel.
    """
    with lock(store.root / f"publish-{channel}.lock", what=f"the channel '{channel}'"):
        decided = plan(store, channel, rpms, url=url)
        if decided.new:
            _write_compose(decided)
        mirrorlist = decided.channel / "mirrorlist"
        if not mirrorlist.exists() or mirrorlist.read_text(encoding="utf-8") != f"{decided.url}\n":
            write_atomically(mirrorlist, f"{decided.url}\n")
    return result(decided)


def plan(store: Store, channel: str, rpms: Sequence[Path], *, url: str) -> Plan:
    """What publishing would do. Nothing is written; of RPMs that the channel has, only names and times are read.

    Raises ConfigError on a bad url, VerifyError if the channel would lack a package that another requires, if an RPM
    has other bytes than the one published under its name, or if the channel is damaged.
    """
    url = checked_url(url)
    folder = store.channels / channel
    current = current_compose(folder)
    packages: dict[str, Package] = {}
    sources: dict[str, Path] = {}
    if current:
        for package in createrepo.read(current):
            packages[package.file_name] = package
            sources[package.file_name] = current / package.href
    new = []
    for path in rpms:
        if path.name in packages:
            _verify_unchanged(path, packages[path.name], published=sources[path.name])
        else:
            packages[path.name] = createrepo.read_rpm(path, href=f"Packages/{path.name}")
            sources[path.name] = path
            new.append(path.name)
    missing = missing_requirements(packages.values())
    if missing:
        raise VerifyError(
            f"the channel '{channel}' would not be complete; nothing was published",
            details=[("missing", line) for line in missing],
            try_next="golden package the images that these packages stand on, and publish them together",
        )
    compose = current if current and not new else folder / "composes" / version_after(_composes(folder))
    return Plan(
        channel=folder,
        compose=compose,
        url=f"{url}/{channel}/composes/{compose.name}/",
        packages=packages,
        sources=sources,
        new=tuple(new),
    )


def result(decided: Plan) -> Published:
    """What clients see once `decided` is carried out."""
    return Published(
        channel=decided.channel.name,
        compose=decided.compose.name,
        url=decided.url,
        packages=len(decided.packages),
        new=decided.new,
    )


def current_compose(channel: Path) -> Path | None:
    """The compose that a channel's mirrorlist names; None if nothing was published yet.

    Raises VerifyError if it names none that is there.
    """
    mirrorlist = channel / "mirrorlist"
    if not mirrorlist.exists():
        return None
    line = mirrorlist.read_text(encoding="utf-8").strip()
    compose = channel / "composes" / line.rstrip("/").rpartition("/")[2]
    if not (compose / "repodata").is_dir():
        raise VerifyError(
            f"{mirrorlist} names a compose that is not there",
            details=[("address", line), ("folder", str(compose))],
            try_next=f"remove {mirrorlist} and publish again",
        )
    return compose


def missing_requirements(packages: Iterable[Package]) -> list[str]:
    """Every requirement that no package of the set meets, as one line each.

    golden's packages require other packages of golden's and nothing else, at one version or by a bare capability.
    """
    packages = list(packages)
    provided = {capability for package in packages for capability in package.provides}
    names = {capability[0] for capability in provided}
    return sorted(
        f"{package.file_name} requires {name}" + (f" = {version}-{release}" if comparison else "")
        for package in packages
        for name, comparison, epoch, version, release in package.requires
        if not ((name, comparison, epoch, version, release) in provided or (comparison is None and name in names))
    )


def check(store: Store, channel: str) -> Checked:
    """Read a channel as its clients will: metadata, every byte of every RPM, every requirement.

    Raises VerifyError with all that is wrong, ConfigError if nothing was published to it.
    """
    compose = current_compose(store.channels / channel)
    if compose is None:
        raise ConfigError(
            f"nothing was published to the channel '{channel}' yet", try_next=f"golden publish --channel {channel}"
        )
    packages = createrepo.read(compose)
    wrong = [("missing", line) for line in missing_requirements(packages)]
    for package in packages:
        path = compose / package.href
        if not path.exists():
            wrong.append(("gone", str(path)))
        elif sha256(path) != package.sha256:
            wrong.append(("damaged", f"{path}: its SHA-256 is not the one in the metadata"))
    if wrong:
        raise VerifyError(f"compose {compose.name} of the channel '{channel}' is not sound", details=wrong)
    return Checked(
        channel=channel,
        compose=compose.name,
        packages=len(packages),
        size_bytes=sum(package.size_bytes for package in packages),
    )


def client_config(channel: str, *, prefix: str, project: str, url: str) -> str:
    """The .repo file for clients of a channel. Raises ConfigError on a bad url."""
    return render(
        shared("repo"), "golden.repo.j2", channel=channel, prefix=prefix, project=project, url=checked_url(url)
    )


def checked_url(url: str) -> str:
    """The url without trailing slashes. Raises ConfigError if it cannot be an address of channels."""
    if not _URL.fullmatch(url):
        raise ConfigError(
            f"'{url}' is not an address at which channels can be served; one looks like http://mirror.example/golden",
            try_next="set url in [project] of golden.toml, or give --url",
        )
    return url.rstrip("/")


def _verify_unchanged(path: Path, package: Package, *, published: Path) -> None:
    # Composes hold hard links: the very file that was published, untouched since, need not be read again.
    status = path.stat()
    is_untouched = (status.st_size, int(status.st_mtime)) == (package.size_bytes, package.mtime_s)
    if is_untouched and published.exists() and path.samefile(published):
        return
    if (found := sha256(path)) != package.sha256:
        raise VerifyError(
            f"{path.name} was published before with other bytes; clients would mix the two up",
            details=[("published", f"sha256 {package.sha256}"), ("now", f"sha256 {found}"), ("file", str(path))],
            try_next="build the image anew, which gives it a new version, and package and publish that",
        )


def _composes(channel: Path) -> list[str]:
    return [path.name for path in (channel / "composes").glob("*") if VERSION.fullmatch(path.name)]


def _write_compose(decided: Plan) -> None:
    """Aside, complete, on disk; then by its name. What an interrupted publication left is removed first."""
    composes = decided.compose.parent
    for left in composes.glob(".*.part"):
        shutil.rmtree(left)
    part = composes / f".{decided.compose.name}.part"
    (part / "Packages").mkdir(parents=True)
    for name, source in decided.sources.items():
        _link(source, part / "Packages" / name)
    createrepo.write(part, decided.packages.values())
    sync_directory(part / "Packages")
    sync_directory(part)
    part.rename(decided.compose)
    sync_directory(composes)


def _link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system has none to give."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        shutil.copy2(source, target)

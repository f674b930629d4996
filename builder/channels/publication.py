"""RPMs -> a channel: what it has and what is new, as one more compose that clients see all of or nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from builder.channels import compose as composes
from builder.channels.client import checked_url
from builder.channels.compose import PACKAGES, Origin
from builder.channels.sets import missing_requirements
from builder.errors import VerifyError
from builder.locks import lock
from builder.model import Build, Frozen
from builder.private import MARK
from builder.store import Store, sha256, version_after
from builder.tools import createrepo, rpm
from builder.tools.createrepo import Package
from builder.tools.openpgp import Signer


@dataclass(frozen=True)
class Plan:
    """A publication, decided in full. compose: the folder that is to hold `packages`, or does already.

    previous: the compose that clients have now. folders: RPM file name -> the folder where it is now. new: names of the
    files that no client has seen. removed: of those that go. is_needed: whether there will be another compose.
    """

    channel: Path
    compose: Path
    previous: Path | None
    url: str
    packages: dict[str, Package]
    folders: dict[str, Path]
    new: tuple[str, ...]
    removed: tuple[str, ...]
    is_needed: bool


class Published(Frozen):
    """What clients of a channel see. compose: its version. new: the file names that this publication added."""

    channel: str
    compose: str
    url: str
    packages: int
    new: tuple[str, ...]


def private_channel(build: Build) -> str:
    """The channel of a private build: its own, with all that it stands on, so that access to it can be given alone."""
    return build.image if MARK in build.image else f"{build.image}-private"


def locked(store: Store, channel: str, *, waiting: Callable[[str], None] | None = None) -> AbstractContextManager[None]:
    """The right to write to a channel. Raises HostError naming the holder if another golden has it.

    waiting: told who that is, and it is waited for.
    """
    return lock(store.root / f"publish-{channel}.lock", what=f"the channel '{channel}'", waiting=waiting)


def publish(
    store: Store, channel: str, rpms: Sequence[Path], *, url: str, signer: Signer | None, why: str = "published"
) -> Published:
    """Add `rpms` to what the channel has and let its clients see the result, all of it or nothing.

    url: of the folder of all channels, as clients will reach it. signer: None if the project says that it signs
    nothing. If the channel has all of the RPMs, no compose is made.
    Raises what `plan` raises; HostError if another golden is publishing to this channel.
    """
    with locked(store, channel):
        decided = plan(store, channel, rpms, url=url, signer=signer)
        carry_out(decided, why=why, signer=signer)
    return result(decided)


def carry_out(decided: Plan, *, why: str, signer: Signer | None) -> None:
    """Write the compose, if one is needed, and switch to it. The caller holds the channel's lock."""
    if decided.is_needed:
        origin = Origin(
            previous=decided.previous.name if decided.previous else None,
            why=why,
            made=composes.now(),
            added=decided.new,
            removed=decided.removed,
        )
        packages = list(decided.packages.values())
        composes.write(decided.compose, packages, decided.folders, origin=origin, signer=signer)
    composes.switch(decided.channel, url=decided.url, signer=signer)


def plan(
    store: Store,
    channel: str,
    rpms: Sequence[Path],
    *,
    url: str,
    signer: Signer | None,
    known: Mapping[str, Package] | None = None,
    without: Collection[str] = (),
) -> Plan:
    """What publishing would do. Nothing is written; of RPMs that the channel has, only names and times are read.

    known: file name -> what another channel's metadata says of it, which spares reading the file. without: file names
    that are to go.
    Raises ConfigError on a bad url, VerifyError if the channel would lack a package that another requires, if an RPM
    has other bytes than the one published under its name, or another's signature, or if the channel is damaged.
    """
    url = checked_url(url)
    folder = store.channels / channel
    current = composes.current(folder)
    packages: dict[str, Package] = {}
    folders: dict[str, Path] = {}
    # One object for all: what is done for each RPM that is there already is what a publication's cost grows by.
    published = current / PACKAGES if current else Path()
    removed: list[str] = []
    for package in composes.read(current, signer=signer) if current else []:
        name = package.file_name
        if name in without:
            removed.append(name)
            continue
        packages[name], folders[name] = package, published
    new = []
    for path in rpms:
        if path.name in packages and _is_unchanged(path, packages[path.name], published=folders[path.name] / path.name):
            continue
        found = (known or {}).get(path.name)
        packages[path.name] = found or createrepo.read_rpm(path, href=f"{PACKAGES}/{path.name}")
        folders[path.name] = path.parent
        new.append(path.name)
    _need_whole([folders[name] / name for name in new], known or {}, channel=channel)
    is_other_key = signer is not None and current is not None and _is_other_key(folder, current, signer)
    if signer is not None:
        _need_signatures(
            [folders[name] / name for name in (packages if is_other_key else new)], signer, channel=channel
        )
    need_complete(packages.values(), channel=channel)
    is_needed = bool(current is None or new or removed or is_other_key)
    compose = current if current and not is_needed else folder / "composes" / version_after(composes.versions(folder))
    return Plan(
        channel=folder,
        compose=compose,
        previous=current,
        url=composes.address(url, compose),
        packages=packages,
        folders=folders,
        new=tuple(new),
        removed=tuple(removed),
        is_needed=is_needed,
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


def need_complete(packages: Collection[Package], *, channel: str) -> None:
    """Raises VerifyError if a package of the channel would require one that it lacks."""
    if missing := missing_requirements(packages):
        raise VerifyError(
            f"the channel '{channel}' would not be complete; nothing was published",
            details=[("missing", line) for line in missing],
            try_next="golden package the images that these packages stand on, and publish them together",
        )


def _is_unchanged(path: Path, package: Package, *, published: Path) -> bool:
    """Whether `path` is what was published under its name; False if it differs by its signature alone.

    Raises VerifyError if it is another package.
    """
    # Composes hold hard links: the very file that was published, untouched since, need not be read again.
    status = path.stat()
    is_untouched = (status.st_size, int(status.st_mtime)) == (package.size_bytes, package.mtime_s)
    if is_untouched and published.exists() and path.samefile(published):
        return True
    if (found := sha256(path)) == package.sha256:
        return True
    if (
        published.exists()
        and rpm.header_digest(path) == rpm.header_digest(published)
        and not rpm.refused([path], public_key=None)
    ):
        return False
    raise VerifyError(
        f"{path.name} was published before with other bytes; clients would mix the two up",
        details=[("published", f"sha256 {package.sha256}"), ("now", f"sha256 {found}"), ("file", str(path))],
        try_next="build the image anew, which gives it a new version, and package and publish that",
    )


def _need_whole(paths: Sequence[Path], known: Mapping[str, Package], *, channel: str) -> None:
    """Raises VerifyError if an RPM that no client of the channel has seen is not what it was made as: all are read."""
    wrong = [
        (path, "its SHA-256 is not the one in the metadata")
        for path in paths
        if path.name in known and sha256(path) != known[path.name].sha256
    ]
    wrong += rpm.refused([path for path in paths if path.name not in known], public_key=None).items()
    if wrong:
        raise VerifyError(
            f"not all RPMs for the channel '{channel}' are whole; nothing was published",
            details=[("damaged", f"{path}: {answer}") for path, answer in wrong],
            try_next=f"rm {' '.join(str(path) for path, _ in wrong)}  and golden package, which makes them anew",
        )


def _is_other_key(channel: Path, current: Path, signer: Signer) -> bool:
    """Whether clients have known another key so far, or none."""
    is_signed = (current / "repodata/repomd.xml.asc").exists()
    return not (is_signed and composes.is_key_of(signer, channel / composes.KEY))


def _need_signatures(paths: Sequence[Path], signer: Signer, *, channel: str) -> None:
    wrong = [(path, key) for path in paths if (key := rpm.signing_key(path)) not in signer.key_ids]
    if wrong:
        raise VerifyError(
            f"not all RPMs of the channel '{channel}' are signed with the project's key; nothing was published",
            details=[(f"key {key}" if key else "unsigned", path.name) for path, key in wrong],
            try_next="golden package, for all images of the channel, which signs them, and golden publish",
        )

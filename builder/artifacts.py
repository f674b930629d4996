"""Packages of the user's own: RPM files, folders of them, and repositories -> what a private leaf installs."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from univers.versions import RpmVersion

from builder import packages
from builder.errors import ConfigError, ToolError
from builder.media import Repository
from builder.model import NAME, Frozen, Image
from builder.private import MARK
from builder.steps import ARTIFACTS, Artifact, Artifacts
from builder.store import sha256
from builder.tools import createrepo, download, rpm
from builder.tools.createrepo_library import createrepo_c
from builder.tools.download import Patience

_PATIENCE = Patience(tries=3)
# So many packages are named in the description of a leaf.
_NAMED = 5
_DEBUG = ("-debuginfo", "-debugsource")


class Given(Frozen):
    """What `--with` led to. repositories: the packages' own one first, then those that were given as repositories."""

    step: Artifacts
    repositories: tuple[Repository, ...]


def private_name(parent: str, name: str) -> str:
    """The name of the leaf. Raises ConfigError if `name` is not fit to be a part of it."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"'{name}' is not a name; use a-z, 0-9, and single '-' or '.' between them")
    return f"{parent}{MARK}{name}"


def leaf(parent: Image, given: Given, *, name: str) -> Image:
    """The image that `--with` builds; name: as `private_name` gave it."""
    nevras = [package.nevra for package in given.step.packages]
    named = ", ".join(nevras[:_NAMED]) + (f" and {len(nevras) - _NAMED} more" if len(nevras) > _NAMED else "")
    return Image(
        name=name,
        distribution=parent.distribution,
        layer=name.removeprefix(f"{parent.distribution}-"),
        parent=parent.name,
        description=f"Private: {parent.name} with {named}",
        steps=(given.step,),
        is_private=True,
        repositories=given.repositories,
    )


def gather(
    places: Sequence[str], *, folder: Path, parent: str, installed: Iterable[str], note: Callable[[str], None]
) -> Given:
    """Put the packages at `places` into `folder`, made anew, as a package repository.

    places: RPM files, folders, URLs of either. Of files and folders of files all packages are wanted; of a repository,
    a folder or URL with `repodata/`, those that the parent has installed, which it is to upgrade.
    installed: NEVRAs of the image `parent`. note: hears what is being fetched.
    Raises ConfigError for what cannot be used, ToolError for what cannot be fetched.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    guest = _Guest(parent, [packages.parse(nevra) for nevra in installed])
    repositories: list[Repository] = []
    for place in places:
        if _is_repository(place):
            repositories.append(Repository(name=f"given-{len(repositories) + 1}", location=_location(place)))
            _take_from_repository(place, folder, guest, note=note)
        elif "://" in place:
            _fetch(place, folder / _file_name(place), note=note)
        else:
            _take_files(Path(place), folder, guest)
    found = [_read(path, guest) for path in sorted(folder.glob("*.rpm"))]
    _refuse_twins(found)
    records = [createrepo.read_rpm(path, href=path.name) for path in sorted(folder.glob("*.rpm"))]
    createrepo.write(folder, records)
    own = Repository(name=ARTIFACTS, location=str(folder.absolute()))
    return Given(step=Artifacts(packages=tuple(found)), repositories=(own, *repositories))


class _Guest:
    """What is installed in the parent, as far as it decides what can be installed on it."""

    def __init__(self, name: str, installed: Sequence[packages.Package]) -> None:
        self.name = name
        self.names = {package.name for package in installed}
        self.architectures = {package.arch for package in installed} | {"noarch"}

    def can_have(self, arch: str) -> bool:
        return arch in self.architectures


def _is_repository(place: str) -> bool:
    if "://" in place:
        return not urlsplit(place).path.endswith(".rpm")
    return (Path(place) / "repodata" / "repomd.xml").is_file()


def _location(place: str) -> str:
    return place.rstrip("/") if "://" in place else str(Path(place).absolute())


def _file_name(url: str) -> str:
    return unquote(urlsplit(url).path.rpartition("/")[2]).replace("/", "_")


def _take_files(place: Path, folder: Path, guest: _Guest) -> None:
    """One RPM file, or of a folder of them those that the guest can have, without what is for debuggers."""
    if place.is_file():
        _take(place, folder)
        return
    if not place.is_dir():
        raise ConfigError(f"there is neither an RPM file nor a folder of them at {place}")
    taken = 0
    for path in sorted(place.glob("*.rpm")):
        stem = path.name.removesuffix(".rpm")
        name, _, arch = stem.rpartition(".")
        if arch == "src" or not guest.can_have(arch) or name.rsplit("-", 2)[0].endswith(_DEBUG):
            continue
        _take(path, folder)
        taken += 1
    if not taken:
        raise ConfigError(
            f"there is no RPM file in {place} that '{guest.name}' could install",
            try_next=f"ls {place}; its architectures are {', '.join(sorted(guest.architectures))}",
        )


def _take(path: Path, folder: Path) -> None:
    try:
        os.link(path.resolve(), folder / path.name)
    except FileExistsError:
        raise ConfigError(f"{path.name} was given twice") from None
    except OSError:
        shutil.copyfile(path, folder / path.name)


def _take_from_repository(place: str, folder: Path, guest: _Guest, *, note: Callable[[str], None]) -> None:
    with contextlib.ExitStack() as stack:
        if "://" in place:
            root = folder / ".metadata"
            stack.callback(shutil.rmtree, root, ignore_errors=True)
            _fetch_metadata(place, root, note=note)
        else:
            root = Path(place)
        found = _newest(createrepo.read(root), guest)
    if not found:
        raise ConfigError(
            f"no package of the repository {place} is installed in '{guest.name}'",
            try_next="give the RPM files that are to be installed",
        )
    for package in found:
        target = folder / package.file_name
        if "://" in place:
            _fetch(f"{place.rstrip('/')}/{package.href}", target, note=note)
        else:
            _take(Path(place) / package.href, folder)
        if sha256(target) != package.sha256:
            raise ToolError(f"{package.href} of the repository {place} is not the file that its metadata describes")


def _newest(found: Iterable[createrepo.Package], guest: _Guest) -> list[createrepo.Package]:
    best: dict[tuple[str, str], createrepo.Package] = {}
    for package in found:
        record = package.metadata
        if record.name not in guest.names or not guest.can_have(record.arch):
            continue
        known = best.get((record.name, record.arch))
        if known is None or _version(known) < _version(package):
            best[record.name, record.arch] = package
    return list(best.values())


def _version(package: createrepo.Package) -> RpmVersion:
    record = package.metadata
    return RpmVersion(f"{record.epoch or 0}:{record.version}-{record.release}")


def _fetch_metadata(url: str, root: Path, *, note: Callable[[str], None]) -> None:
    """repomd.xml and what it names of packages; the digests are compared when it is read."""
    repomd = root / "repodata" / "repomd.xml"
    repomd.parent.mkdir(parents=True)
    _fetch(f"{url.rstrip('/')}/repodata/repomd.xml", repomd, note=note)
    try:
        records = list(createrepo_c.Repomd(str(repomd)))
    except createrepo_c.CreaterepoCError as error:
        raise ToolError(f"{url} is no package repository", details=[("reason", str(error))]) from error
    for record in records:
        path = (root / record.location_href).resolve()
        if not path.is_relative_to(root.resolve()):
            raise ToolError(f"{url} is no sound package repository: it names {record.location_href}")
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(f"{url.rstrip('/')}/{record.location_href}", path, note=note)


def _fetch(url: str, target: Path, *, note: Callable[[str], None]) -> None:
    if target.exists():
        raise ConfigError(f"{target.name} was given twice")
    note(f"fetching {url}")
    facts = target.with_name(f"{target.name}.json")
    try:
        download.fetch(url, target, patience=_PATIENCE, note=note)
    except ToolError as error:
        target.unlink(missing_ok=True)
        raise ToolError(
            "could not fetch a package", details=[("address", download.shown(url)), *error.details]
        ) from error
    finally:
        facts.unlink(missing_ok=True)


def _read(path: Path, guest: _Guest) -> Artifact:
    """Raises ConfigError for what is no package that the guest could install."""
    query = "%{NAME} %{EPOCHNUM} %{VERSION}-%{RELEASE} %{ARCH} %{SOURCEPACKAGE} %{SHA256HEADER}"
    try:
        name, epoch, version, arch, source, header = rpm.ask(path, query).split(" ")
    except ToolError as error:
        raise ConfigError(f"{path.name} is no RPM package", try_next=f"rpm -qpi {path}") from error
    if source == "1":
        raise ConfigError(f"{path.name} is a source package; give the binary ones that were built from it")
    if not guest.can_have(arch):
        raise ConfigError(f"{path.name} is for {arch}; '{guest.name}' has {', '.join(sorted(guest.architectures))}")
    if header == "(none)":
        raise ConfigError(
            f"{path.name} has no SHA-256 of its header, so nobody could say that it is what got installed"
        )
    return Artifact(
        nevra=f"{name}-{'' if epoch == '0' else f'{epoch}:'}{version}.{arch}",
        nvra=f"{name}-{version}.{arch}",
        sha256=sha256(path),
        header=header,
    )


def _refuse_twins(found: Sequence[Artifact]) -> None:
    seen: dict[tuple[str, str], Artifact] = {}
    for artifact in found:
        parsed = packages.parse(artifact.nevra)
        twin = seen.setdefault((parsed.name, parsed.arch), artifact)
        if twin is not artifact:
            raise ConfigError(f"{twin.nevra} and {artifact.nevra} cannot both be installed; give one of them")

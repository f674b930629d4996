"""The file that a base is made of: known, fetched, held while it is used; and what comes before its recipe's steps."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from builder import clones, customize, importing, install
from builder.cache import Cache, Check
from builder.digests import remembered_sha256
from builder.errors import ConfigError, VerifyError
from builder.media import Repository, Source
from builder.model import Build, Distribution, Image, Project
from builder.progress import Reporter
from builder.steps import Install
from builder.store import read_build
from builder.tools.download import shown
from builder.tools.guestfs import Operation


def source_of(distribution: Distribution) -> Source:
    """Raises ConfigError if there is none."""
    if distribution.source is None:
        raise ConfigError(
            f"the distribution '{distribution.name}' has no source to make a base from",
            try_next=f'add to golden.toml: [distribution.{distribution.name}] source = {{ dvd = "…" }}, '
            'or { url = "https://…" } of a tree',
        )
    return distribution.source


def is_import(distribution: Distribution) -> bool:
    return distribution.source is not None and distribution.source.is_import


def is_dvd(distribution: Distribution) -> bool:
    return distribution.source is not None and distribution.source.kind == "dvd"


def is_private(image: Image, distribution: Distribution) -> bool:
    """Whether the base is made of a private image of golden's own. distribution: `localized`. Raises VerifyError."""
    source = distribution.source
    if image.parent is not None or source is None or source.kind != "image":
        return False
    return _facts(Path(source.location)).private


def location_of(distribution: Distribution) -> Path | str:
    """What virt-install is to install from: a DVD's file, a tree's folder or its address. distribution: `localized`.

    Raises ConfigError if there is no source, or a tree is not whole.
    """
    source = source_of(distribution)
    if source.tree is not None:
        install.check_tree(source.tree, distribution.name)
    return source.url or Path(source.location)


def known_sha256(source: Source, image: Image, *, state: Path) -> str | None:
    """The hex SHA-256 of a base's file, asking no network; None if only a download can tell.

    Raises ConfigError or VerifyError if the file that is here is not fit, or not the one that golden.toml means.
    """
    file = local_file(source, state=state)
    if source.path is not None or file.exists():
        virtual_bytes = _look_at(source, file)
        if virtual_bytes is not None:
            importing.check_size(source, virtual_bytes, image)
    if source.path is None:
        return Cache(state).known_sha256(source)
    found = _facts(file).id.sha256 if source.kind == "image" else remembered_sha256(file, state=state)
    _compare(file, found, source.sha256, said_by="golden.toml")
    return found


def local_file(source: Source, *, state: Path) -> Path:
    """Where the file is, or will be after its download; never the moving link of an installed image."""
    if source.path is None:
        return Cache(state).file(source)
    return source.path.resolve() if source.kind == "image" else source.path


def localized(distribution: Distribution, *, state: Path) -> Distribution:
    """The distribution with its source as the local file; a tree stays where it is."""
    if distribution.source is None or distribution.source.is_tree:
        return distribution
    here = distribution.source.at(local_file(distribution.source, state=state))
    return distribution.model_copy(update={"source": here})


def refresh(project: Project, images: Iterable[str], *, state: Path, reporter: Reporter) -> None:
    """Learn which files the bases among `images` are made of now; downloads what is needed to know that, and no more.

    Raises ConfigError, HostError, ToolError, VerifyError.
    """
    cache = Cache(state)
    bases = [project.images[name] for name in images if project.images[name].parent is None]
    for distribution in {image.distribution: project.distributions[image.distribution] for image in bases}.values():
        source = source_of(distribution)
        if source.is_tree:
            continue
        if source.path is None and source.sha256 is None:
            with reporter.step(f"{distribution.name}: ask for the {source.title}") as step:
                cache.refresh(source, distribution=distribution.name, check=_check(source, state=state), note=step.note)
        elif source.path is not None and source.checksums is not None:
            with reporter.step(f"{distribution.name}: verify the {source.title}") as step:
                _look_at(source, source.path)
                published = cache.published(source, note=step.note)
                found = remembered_sha256(source.path, state=state)
                _compare(source.path, found, published, said_by=shown(source.checksums))


def fetch(project: Project, image: str, *, state: Path, reporter: Reporter) -> Path | None:
    """Have the file of a base here; `refresh` came before. None for a network tree, of which there is nothing to have.

    Raises ToolError, HostError, VerifyError, ConfigError.
    """
    base = project.images[image]
    source = source_of(project.distributions[base.distribution])
    if source.is_tree:
        return source.path
    digest = known_sha256(source, base, state=state)
    if source.path is not None:
        return source.path
    assert digest is not None, "refresh learns it"
    cache = Cache(state)
    if not cache.is_verified(digest, source):
        with reporter.step(f"{image}: download the {source.title}") as step:
            cache.obtain(
                source, digest, distribution=base.distribution, check=_check(source, state=state), note=step.note
            )
        known_sha256(source, base, state=state)  # its size against the image's disk: there was no file to look at
    return cache.file(source)


@contextlib.contextmanager
def held(source: Source, *, state: Path) -> Iterator[None]:
    """While the block runs, nobody prunes the file from the cache. source: as `localized` has it.

    Raises VerifyError if it was changed there, or if an image of golden's own, or one below it, was.
    """
    cache, file = Cache(state), Path(source.location)
    if source.kind == "image":
        clones.verify(clones.Source(build=_facts(file), file=file, origin="installed"), state=state, is_full=True)
    if file.is_relative_to(cache.root):
        with cache.in_use(file):
            yield
    else:
        yield


def download_command(project: Project, image: str, *, state: Path) -> str | None:
    """How a person brings the file of a base to its place; None if it is there, a tree, or `image` is no base."""
    source = project.distributions[project.images[image].distribution].source
    if source is None or project.images[image].source is not None:
        return None
    if source.is_tree:
        return None
    file = local_file(source, state=state)
    if source.path is not None or file.exists():
        return None
    if source.channel is not None:
        return shlex.join(["golden", "--file", str(project.file), "--state", str(state), "cache", "fetch", image])
    return shlex.join(["curl", "--fail", "--location", "--create-dirs", "--output", str(file), shown(source.location)])


def preparations(
    image: Image, distribution: Distribution, *, ssh_public_key: str, repositories: Sequence[Repository]
) -> list[Operation]:
    """What is done offline to an imported image before its recipe's steps; nothing to an installed one."""
    if image.parent is not None or not is_import(distribution):
        return []
    prepare = importing.preparation(image, source_of(distribution), ssh_public_key=ssh_public_key)
    if not distribution.packages:
        return [prepare]
    step = Install(packages=distribution.packages)
    packages = customize.operation(0, step, repositories)
    return [importing.packages_there(distribution, packages), prepare]


def _check(source: Source, *, state: Path) -> Check:
    if source.channel is not None:
        return lambda file: _check_chain(file, state=state)
    return install.check_dvd if source.kind == "dvd" else importing.check_whole


def _check_chain(file: Path, *, state: Path) -> None:
    """What came from a channel is a whole chain of golden's in one folder. Raises VerifyError."""
    found = clones.verify(clones.Source(build=_facts(file), file=file, origin="installed"), state=state, is_full=True)
    outside = [link for link in found if link.parent != file.parent.resolve()]
    if outside:
        raise VerifyError(f"{file.name} stands on a file of this host that did not come with it: {outside[0]}")


def _look_at(source: Source, file: Path) -> int | None:
    """The virtual size of an image; a DVD has none. Raises ConfigError or VerifyError if it is not fit."""
    if source.kind != "dvd":
        return importing.size_of(source, file)
    install.check_dvd(file)
    return None


def _facts(file: Path) -> Build:
    """Raises VerifyError if there are none."""
    path = file.with_suffix(".json")
    if not path.is_file():
        raise VerifyError(f"{file} is no image of golden's: its facts are not beside it, {path.name}")
    return read_build(path)


def _compare(file: Path, found: str, expected: str | None, *, said_by: str) -> None:
    if expected not in (None, found):
        raise VerifyError(
            f"{file} is not the file that it should be",
            details=[("expected", f"sha256 {expected} ({said_by})"), ("found", f"sha256 {found}")],
        )

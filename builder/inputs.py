"""What decides the result of an image's recipe, each under a name that a user understands."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path

from pydantic import Field

from builder import bases, importing, install, trees
from builder.errors import ConfigError, ToolError
from builder.input_changes import NEEDS_NETWORK, NOT_KNOWN
from builder.last_seen import last_seen, remember
from builder.media import Repository, Source
from builder.model import Frozen, Image, Project
from builder.steps import ARTIFACTS, Run, Sparrowdo, Step
from builder.tools import download, kickstart

_FETCH_LIMIT_S = 30
_FETCHES_AT_ONCE = 8

# In place of the address of a tree that golden serves itself, which is another one each time.
_ANY_TREE = "http://golden/"

# Counted up when golden itself starts to make something else of the same recipe; everything is then built anew.
_RECIPE_FORMAT = "2"

_STEP = re.compile(r"step (?P<number>[0-9]+): ")
# Of a repomd.xml, when it was made. Source: createrepo_c; <revision> is seconds of the epoch unless somebody set it.
_REVISION = re.compile(r"<revision>([^<]{1,40})</revision>")
_YEAR_10000_S = 253_402_300_800
_TIMESTAMP = re.compile(r"<timestamp>([0-9]{1,12})(?:\.[0-9]+)?</timestamp>")


class Inputs(Frozen):
    """What decides an image's result. values: name -> digest or text, in a fixed order; the parent is not among them.

    texts: what is behind some of the digests, for people, secrets left out. timely: names of those that change by
    themselves as time goes by. is_blind: something decides the result that golden cannot see, as what a command
    downloads.
    """

    values: dict[str, str]
    texts: dict[str, str] = Field(default={})
    timely: frozenset[str] = frozenset()
    is_blind: bool = False


class Repomd(Frozen):
    """What one package repository held when it was asked. digest: of its repomd.xml. text: of when, and where."""

    digest: str
    text: str


class Repositories:
    """What package repositories hold, each asked once however many images use it.

    offline: told of one that does not answer, which is then taken as it was when it last did; without it that is an
    error.
    """

    def __init__(self, *, state: Path, offline: Callable[[str], None] | None = None) -> None:
        self._state = state
        self._offline = offline
        self._known: dict[str, Repomd] = {}

    def fetch(self, repositories: Iterable[Repository]) -> None:
        """Ask those that are not known yet, several at once. Raises as `repomd` does, for the first that fails."""
        wanted = {it.location: it for it in repositories if it.location not in self._known}
        with ThreadPoolExecutor(_FETCHES_AT_ONCE) as pool:
            self._known |= dict(zip(wanted, pool.map(self._ask, wanted.values()), strict=True))

    def repomd(self, repository: Repository) -> Repomd:
        self.fetch([repository])
        return self._known[repository.location]

    def _ask(self, repository: Repository) -> Repomd:
        address = download.shown(repository.location)
        try:
            text = repomd(repository)
        except ToolError:
            if self._offline is None:
                raise
            seen = last_seen(repository.location, state=self._state)
            went_on = f"taken as it was on {seen.asked} UTC" if seen else "it was never asked before"
            self._offline(f"the package repository '{repository.name}' does not answer ({address}); {went_on}")
            if seen is None:
                return Repomd(digest=NEEDS_NETWORK, text=f"at {address}")
            text = seen.repomd
        else:
            if repository.folder is None:
                remember(repository.location, text, state=self._state)
        return Repomd(digest=_digest(text), text=f"{_made(text)} at {address}")


def all_inputs(
    project: Project, names: Iterable[str], *, state: Path, offline: Callable[[str], None] | None = None
) -> dict[str, Inputs]:
    """The inputs of several images; what they share is read once. Raises as `image_inputs` does.

    offline: as of `Repositories`.
    """
    wanted = [project.images[name] for name in names]
    repositories = Repositories(state=state, offline=offline)
    repositories.fetch([it for image in wanted for it in _package_repositories(project, image)])
    return {image.name: image_inputs(project, image, state=state, repositories=repositories) for image in wanted}


def image_inputs(project: Project, image: Image, *, state: Path, repositories: Repositories | None = None) -> Inputs:
    """What decides the result of one image.

    Reads files and package repositories' repomd.xml, starts nothing. Raises ConfigError for what is missing or wrong,
    ToolError for a repository that does not answer.
    """
    known = repositories or Repositories(state=state)
    values = {"golden's recipe format": _RECIPE_FORMAT}
    if image.is_private:
        values["privacy"] = "private"  # what was built in private is never taken for a public build
    if image.flat_of:
        return Inputs(values=values)
    texts: dict[str, str] = {}
    timely: set[str] = set()
    if image.parent is None:
        base, texts = _base(project, image, state=state)
        values |= base
        source = bases.source_of(project.distribution_of(image.name))
        if source.path is None and source.sha256 is None:
            timely.add(source.title)
    for number, step in enumerate(image.steps, 1):
        values[f"step {number}: {step.kind}"] = _text(step)
        if isinstance(step, Sparrowdo) and step.expires_days:
            age = f"step {number}: {step.kind}, age"
            values[age] = _period(step.expires_days)
            timely.add(age)
    values |= _files(project, image)
    if image.obsoletes:
        values["obsoletes"] = " ".join(image.obsoletes)
    found = _package_repositories(project, image)
    for repository in found:
        name = f"repository {repository.name}"
        values[name], texts[name] = known.repomd(repository).digest, known.repomd(repository).text
        timely.add(name)
    return Inputs(values=values, texts=texts, timely=frozenset(timely), is_blind=_is_blind(project, image, found))


def _package_repositories(project: Project, image: Image) -> list[Repository]:
    """Those that an image's packages come from. An artifacts' own is not among them: the packages are in their step."""
    is_import = image.parent is None and bases.is_import(project.distributions[image.distribution])
    if image.flat_of or not (image.needs_repositories or is_import):
        return []
    own = [repository for repository in image.repositories if repository.name != ARTIFACTS]
    return [*own, *project.repositories(image.name)]


def _is_blind(project: Project, image: Image, repositories: list[Repository]) -> bool:
    """Commands may take in anything; packages come from the guest's own repositories if golden.toml names none."""
    if any(step.is_online or isinstance(step, Run) for step in image.steps):
        return True
    if image.needs_repositories and all(repository.is_extra for repository in repositories):
        return True
    return image.parent is None and bases.source_of(project.distribution_of(image.name)).kind == "url"


def decided_by(project: Project, image: Image, number: int, planned: Mapping[str, str]) -> dict[str, str]:
    """Of the inputs `planned`, those that decide the state before step `number`, 1 for the first.

    Package repositories are not among them, if no step before it uses them.
    """
    before = [step for place, step in enumerate(image.steps, 1) if place < number]
    sources = [source for step in before for source in step.files]
    is_import = image.parent is None and bases.is_import(project.distributions[image.distribution])
    needs_packages = is_import or any(step.uses_repositories for step in before)
    found = {}
    for name, value in planned.items():
        if match := _STEP.match(name):
            counts = int(match["number"]) < number
        elif name.startswith("file "):
            path = name.removeprefix("file ")
            counts = any(source in (".", path) or path.startswith(f"{source}/") for source in sources)
        else:
            counts = needs_packages or not name.startswith("repository ")
        if counts:
            found[name] = value
    return found


def _base(project: Project, image: Image, *, state: Path) -> tuple[dict[str, str], dict[str, str]]:
    """(values, texts)"""
    distribution, key = project.distribution_of(image.name), public_key(project)
    source = bases.source_of(distribution)
    values, texts = _source(source, image, distribution=distribution.name, state=state), {}
    if source.is_import:
        texts["preparation"] = importing.preparation(image, source, ssh_public_key=key).script
        values["preparation"] = _digest(texts["preparation"])
        values["packages"] = " ".join(distribution.packages)
    else:
        text = install.kickstart(image, distribution, ssh_public_key=key, tree=_ANY_TREE)
        values["kickstart"], texts["kickstart"] = _digest(text), kickstart.without_secrets(text)
    values["machine"] = f"{distribution.arch}, {distribution.firmware}"
    values["disk size"] = f"{image.disk_bytes} bytes"
    return values, texts


def _source(source: Source, image: Image, *, distribution: str, state: Path) -> dict[str, str]:
    """What a base is made of. A network tree is known by its address alone: planning needs no network."""
    if source.url is not None:
        return {"network tree": source.url}
    if source.tree is not None:
        install.check_tree(source.tree, distribution)
        return {source.title: _tree(source.tree)}
    return {source.title: bases.known_sha256(source, image, state=state) or NOT_KNOWN}


def _tree(folder: Path) -> str:
    """The digests of a tree's images are in .treeinfo, those of its packages in each repository's repomd.xml."""
    files = [folder / ".treeinfo", *sorted(folder.glob("repodata/repomd.xml"))]
    files += sorted(folder.glob("*/repodata/repomd.xml"))
    return _digest("\n".join(file.read_text(encoding="utf-8") for file in files))


def _period(days: int) -> str:
    """Which stretch of so many days today is in. Nothing pins what a bootstrap downloads; only time tells its age."""
    begin = date.fromordinal(date.today().toordinal() // days * days)
    return f"the {days} days from {begin}"


def _text(step: Step) -> str:
    """A step as it counts; what it leaves at its default does not, so that new options change no old keys."""
    return step.model_dump_json(exclude={"kind", "timeout_s", "retries"}, exclude_defaults=True)


def need_unchanged(project: Project, image: Image, planned: Mapping[str, str]) -> None:
    """Raises ConfigError if a file that the recipe reads is not what it was when the build was planned.

    Asked at the end of a build: what went into the image is then what its key says.
    """
    now = _files(project, image)
    before = {name: text for name, text in planned.items() if name in now or name.startswith("file ")}
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if changed:
        raise ConfigError(
            f"the project changed while '{image.name}' was being built: {', '.join(changed)}",
            try_next=f"golden build {image.name}",
        )


def _files(project: Project, image: Image) -> dict[str, str]:
    return {
        f"file {path}": digest
        for step in image.steps
        for source in (*step.files, *(path for path in step.files_if_there if os.path.lexists(project.folder / path)))
        for path, digest in trees.digests(project.folder, source).items()
    }


def public_key(project: Project) -> str:
    """The public half of the project's key, one line. Raises ConfigError if there is none."""
    path = project.ssh_key.with_name(project.ssh_key.name + ".pub")
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(
            f"the project's SSH key cannot be read: {path}: {error.strerror}",
            try_next="be the user to whom it belongs, or let yours read it"
            if isinstance(error, PermissionError)
            else f"ssh-keygen -t ed25519 -N '' -C golden -f {project.ssh_key}",
        ) from error


def repomd(repository: Repository) -> str:
    """The text of a package repository's repomd.xml, which holds the digests of all the rest of it.

    Raises ConfigError if the folder holds no repository, ToolError if the server does not give it.
    """
    if repository.folder is not None:
        path = repository.folder / "repodata" / "repomd.xml"
        if not path.is_file():
            raise ConfigError(f"'{repository.name}' is no package repository: {path} is missing")
        return path.read_text(encoding="utf-8")
    url = f"{repository.location.rstrip('/')}/repodata/repomd.xml"
    try:
        return download.text(url, limit_s=_FETCH_LIMIT_S)
    except ToolError as error:
        raise ToolError(
            f"could not read the package repository '{repository.name}'",
            details=[("address", download.shown(url)), *error.details],
        ) from error


def _made(repomd: str) -> str:
    """ "of 2026-11-20 03:12 UTC": the newest of its times, or its revision if it has none."""
    times = [int(found) for found in _TIMESTAMP.findall(repomd)]
    # Whoever serves it may have written any number there; a date is told in four digits of a year.
    if times and max(times) < _YEAR_10000_S:
        return f"of {datetime.fromtimestamp(max(times), UTC):%Y-%m-%d %H:%M} UTC"
    revision = _REVISION.search(repomd)
    return f"of revision {revision[1]}" if revision else "of no date"


def _digest(text: str) -> str:
    return f"sha256 {hashlib.sha256(text.encode()).hexdigest()}"

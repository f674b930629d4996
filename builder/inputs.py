"""What decides the result of an image's recipe, each under a name that a user understands."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path

import requests

from builder import bases, importing, install, trees
from builder.errors import ConfigError, ToolError
from builder.last_seen import last_seen, remember
from builder.model import Image, Project, Repository, Source
from builder.plan import NEEDS_NETWORK, NOT_KNOWN
from builder.steps import ARTIFACTS, Sparrowdo, Step
from builder.tools.download import shown

_FETCH_TIMEOUT_S = 30

# In place of the address of a tree that golden serves itself, which is another one each time.
_ANY_TREE = "http://golden/"

# Counted up when golden itself starts to make something else of the same recipe; everything is then built anew.
_RECIPE_FORMAT = "2"


class Repositories:
    """What package repositories hold, each asked once. offline: told of one that does not answer, which is then taken
    as it was when it last did; without it that is an error.
    """

    def __init__(self, *, state: Path, offline: Callable[[str], None] | None = None) -> None:
        self._state = state
        self._offline = offline
        self._known: dict[str, str] = {}

    def fingerprint(self, repository: Repository) -> str:
        """SHA-256 of its repomd.xml, or NEEDS_NETWORK. Raises as `repomd` does."""
        if repository.location not in self._known:
            self._known[repository.location] = self._ask(repository)
        return self._known[repository.location]

    def _ask(self, repository: Repository) -> str:
        try:
            text = repomd(repository)
        except ToolError:
            if self._offline is None:
                raise
            seen = last_seen(repository.location, state=self._state)
            went_on = f"taken as it was on {seen.asked} UTC" if seen else "it was never asked before"
            address = shown(repository.location)
            self._offline(f"the package repository '{repository.name}' does not answer ({address}); {went_on}")
            return _digest(seen.repomd) if seen else NEEDS_NETWORK
        if repository.folder is None:
            remember(repository.location, text, state=self._state)
        return _digest(text)


def image_inputs(
    project: Project, image: Image, *, state: Path, repositories: Repositories | None = None
) -> dict[str, str]:
    """Name -> digest or text, in a fixed order; the parent is not among them.

    Reads files and package repositories' repomd.xml, starts nothing. Raises ConfigError for what is missing or wrong.
    """
    inputs = {"golden's recipe format": _RECIPE_FORMAT}
    if image.is_private:
        inputs["privacy"] = "private"  # what was built in private is never taken for a public build
    if image.flat_of:
        return inputs
    if image.parent is None:
        inputs |= _base(project, image, state=state)
    for number, step in enumerate(image.steps, 1):
        inputs[f"step {number}: {step.kind}"] = _text(step)
        if isinstance(step, Sparrowdo) and step.expires_days:
            inputs[f"step {number}: {step.kind}, age"] = _period(step.expires_days)
    inputs |= _files(project, image)
    is_import = image.parent is None and bases.is_import(project.distributions[image.distribution])
    if image.needs_repositories or is_import:
        # The packages of the artifacts' repository are in their step; its metadata differs with the time of day.
        known = repositories or Repositories(state=state)
        own = [repository for repository in image.repositories if repository.name != ARTIFACTS]
        for repository in (*own, *project.repositories(image.name)):
            inputs[f"repository {repository.name}"] = known.fingerprint(repository)
    return inputs


def _base(project: Project, image: Image, *, state: Path) -> dict[str, str]:
    distribution, key = project.distribution_of(image.name), public_key(project)
    source = bases.source_of(distribution)
    inputs = _source(source, image, distribution=distribution.name, state=state)
    if source.is_import:
        inputs["preparation"] = _digest(importing.preparation(image, source, ssh_public_key=key).script)
        inputs["packages"] = " ".join(distribution.packages)
    else:
        inputs["kickstart"] = _digest(install.kickstart(image, distribution, ssh_public_key=key, tree=_ANY_TREE))
    inputs["machine"] = f"{distribution.arch}, {distribution.firmware}"
    inputs["disk size"] = f"{image.disk_bytes} bytes"
    return inputs


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
            try_next=f"ssh-keygen -t ed25519 -N '' -C golden -f {project.ssh_key}",
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
        answer = requests.get(url, timeout=_FETCH_TIMEOUT_S)
        answer.raise_for_status()
    except requests.RequestException as error:
        raise ToolError(
            f"could not read the package repository '{repository.name}'",
            details=[("address", shown(url)), ("reason", str(error).replace(url, shown(url)))],
        ) from error
    return answer.text


def _digest(text: str) -> str:
    return f"sha256 {hashlib.sha256(text.encode()).hexdigest()}"

"""Private keys in guests: which ones may be packaged, and which builds hold others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import Field

from builder.errors import ConfigError
from builder.model import Build, Frozen, Project
from builder.store import Store, sha256

# How PEM and OpenSSH's own format begin and end a private key. Sources: RFC 7468; OpenSSH, PROTOCOL.key.
MARK = b"PRIVATE KEY-----"


class Wanted(Frozen):
    """What a project says of private keys. Nothing said: none is packaged.

    kept: image -> paths in its guest, those of the images that it stands on with it. own: SHA-256 of the project's
    own private key, the way into every image, which is never packaged.
    """

    kept: dict[str, tuple[str, ...]] = Field(default={})
    own: str | None = None

    def paths(self, images: Iterable[str]) -> set[str]:
        return {path for image in images for path in self.kept.get(image, ())}


def wanted(project: Project) -> Wanted:
    kept = {
        name: tuple(path for image in project.chain(name) for path in image.keeps_private_keys)
        for name in project.images
    }
    return Wanted(kept=kept, own=sha256(project.ssh_key) if project.ssh_key.is_file() else None)


def check(store: Store, builds: Sequence[Build], wanted: Wanted) -> None:
    """Raises ConfigError for builds whose guests hold private keys that the project does not name."""
    problems: list[str] = []
    unnamed: dict[str, list[str]] = {}
    for build in builds:
        lineage = {link.image for link in store.chain(build)} | ({build.source.image} if build.source else set())
        allowed = wanted.paths(lineage)
        for path, digest in build.private_keys.items():
            if digest == wanted.own:
                raise ConfigError(
                    f"'{build.stem}' holds the project's own private key, the way into every image: {path}",
                    try_next=f'in [image.{build.image}] of golden.toml: steps = [ …, {{ run = "rm {path}" }} ]; and a '
                    "new key for the project, if the image was given to anybody",
                )
            if path not in allowed:
                problems.append(f"{build.stem}: {path}")
                unnamed.setdefault(build.image, []).append(path)
    if problems:
        image, paths = next(iter(unnamed.items()))
        named = ", ".join(f'"{path}"' for path in paths)
        raise ConfigError(
            f"private keys are not packaged unless golden.toml names them: {'; '.join(problems)}",
            try_next=f"remove them in a step; or, if all who get the image may have them, in [image.{image}] of "
            f"golden.toml: keeps_private_keys = [{named}]",
        )

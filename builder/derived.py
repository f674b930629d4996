"""Images that golden.toml does not define: leaves and flat forms of a build as it stands, whatever has changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from builder.errors import ConfigError
from builder.model import Build, Image, Project, Setup
from builder.store import Store


@dataclass(frozen=True)
class Derived:
    """project: with the image in it. standing: the builds that it is made from, which are taken as they are."""

    project: Project
    image: Image
    standing: dict[str, Build]


def image_of(build: Build) -> Image:
    """An image whose definition does not matter any more, as it is built; what stands on it boots as it does."""
    return Image(
        name=build.image,
        distribution=build.distribution,
        layer=build.image.removeprefix(f"{build.distribution}-"),
        parent=build.parent.image if build.parent else None,
        description=build.description,
        setup=Setup(firmware=build.firmware),
        is_private=build.private,
    )


def derive(project: Project, store: Store, image: Image, *, source: Build) -> Derived:
    """`image` on top of `source` and all that it stands on.

    Raises ConfigError if the project does not know the distribution any more, VerifyError if a parent is gone.
    """
    if source.distribution not in project.distributions:
        raise ConfigError(f"'{source.stem}' is of the distribution '{source.distribution}', which {project.file} lacks")
    chain: Sequence[Build] = store.chain(source)
    images = {**project.images, **{build.image: image_of(build) for build in chain}, image.name: image}
    return Derived(
        project=project.model_copy(update={"images": images}),
        image=image,
        standing={build.image: build for build in chain},
    )

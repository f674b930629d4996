"""What the packages of an image are called, and the spec that makes both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from builder.model import Build, ImageId
from builder.templates import render, shared
from builder.tools import rpm

# Where the packages put the images; the spec template and the clients know it too.
FOLDER = Path("/usr/share/golden/images")
# A build is packaged once: what changes gets a new version, never a new release.
RELEASE = "1"


def name_prefix(build: Build, *, prefix: str) -> str:
    """What the package names of a build begin with: no upgrade leads from a public image to a private one."""
    return f"{prefix}-private" if build.private else prefix


def render_spec(
    build: Build,
    *,
    prefix: str,
    is_parent_private: bool = False,
    link: Build | None = None,
    extras: Sequence[str] = (),
) -> str:
    """The spec of both packages of a build. Pure.

    link: what the plain one follows, if it is the flat form. extras: suffixes of more files in `topdir`/provenance.
    """
    parent, link = build.parent, link or build
    below = f"{prefix}-private" if is_parent_private else prefix
    link_name = image_package(link.id, prefix=name_prefix(link, prefix=prefix))
    prefix = name_prefix(build, prefix=prefix)
    return render(
        shared("spec-templates"),
        "image.spec.j2",
        name=f"{prefix}-{build.image}",
        image_name=image_package(build.id, prefix=prefix),
        image_id=image_id(build.id, prefix=prefix),
        parent_name=image_package(parent, prefix=below) if parent else None,
        parent_id=image_id(parent, prefix=below) if parent else None,
        parent_version=parent.version if parent else None,
        image=build.image,
        version=build.version,
        release=RELEASE,
        stem=build.stem,
        link_name=link_name,
        link_version=link.version,
        link_stem=link.stem,
        description=rpm.escape(build.description),
        # Of embargoed work nothing shows on a host that other packages manage.
        obsoletes=[] if build.private else [f"{prefix}-{old}" for old in build.obsoletes],
        obsoletes_below=_day_after(build.version),
        packages=build.packages,
        extras=extras,
        software=build.software,
    )


def _day_after(version: str) -> str:
    """Above all versions of that day, whatever image's, and below those of an image that comes back later."""
    return str(int(version.partition(".")[0]) + 1)


def image_package(id: ImageId, *, prefix: str) -> str:
    """The name of the package that owns the image's files: the version is a part of the name."""
    return f"{prefix}-{id.image}-image-{id.version}"


def image_id(id: ImageId, *, prefix: str) -> str:
    """The capability that names the very bytes of an image."""
    return f"golden-image-id({image_package(id, prefix=prefix)}-{id.version}-{RELEASE}:{id.sha256})"

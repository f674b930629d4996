"""Sets: the builds of one chain, as the packages of a channel hold them. Pure.

The requirements in the metadata are the truth: which RPM is which build's, and which build stands on which.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from builder.model import ImageId, version_key
from builder.tools.createrepo import Package

# golden-image-id(golden-sandbox-base-image-20261121.1-20261121.1-1:SHA256); see builder/package.py, image_id.
_IMAGE_ID = re.compile(
    r"golden-image-id\((?P<package>(?P<name>.+)-image-(?P<version>[0-9]{8}\.[1-9][0-9]*))-(?P=version)-[^-:]+"
    r":(?P<sha256>[0-9a-f]{64})\)"
)


@dataclass(frozen=True)
class Member:
    """One build in a channel. packages: the RPM that owns its image, and the one that links to it, if it is there.

    parent: the stem of the build it stands on.
    """

    id: ImageId
    packages: tuple[Package, ...]
    parent: str | None

    @property
    def stem(self) -> str:
        return self.id.stem

    @property
    def image_rpm(self) -> Package:
        return self.packages[0]


def members(packages: Iterable[Package], *, prefix: str) -> dict[str, Member]:
    """Stem -> build, of all builds whose packages are named `prefix`-…; other packages are left out."""
    packages = list(packages)
    images: dict[str, tuple[ImageId, Package]] = {}
    stems: dict[str, str] = {}  # name of the package, and image id -> stem
    for package in packages:
        for capability in package.provides:
            if (match := _IMAGE_ID.fullmatch(capability[0])) and match["name"].startswith(f"{prefix}-"):
                image = match["name"].removeprefix(f"{prefix}-").removeprefix("private-")
                id = ImageId(image=image, version=match["version"], sha256=match["sha256"])
                images[id.stem] = (id, package)
                stems[match["package"]] = stems[capability[0]] = id.stem
    links: dict[str, list[Package]] = defaultdict(list)
    for package in packages:
        if not any(_IMAGE_ID.fullmatch(capability[0]) for capability in package.provides):
            for requirement in package.requires:
                if (stem := stems.get(requirement[0])) is not None:
                    links[stem].append(package)
    return {
        stem: Member(id=id, packages=(package, *links[stem]), parent=_parent(package, stems))
        for stem, (id, package) in images.items()
    }


def chain(member: Member, members: Mapping[str, Member]) -> list[Member]:
    """The build, its parent's, … down to the base; it ends early where a parent is not there."""
    found = [member]
    while (parent := members.get(found[-1].parent or "")) is not None:
        found.append(parent)
    return found


def newest(members: Iterable[Member]) -> dict[str, Member]:
    """Image -> its newest build."""
    return {member.id.image: member for member in sorted(members, key=lambda it: version_key(it.id.version))}


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


def _parent(package: Package, stems: Mapping[str, str]) -> str | None:
    for requirement in package.requires:
        if _IMAGE_ID.fullmatch(requirement[0]):
            match = _IMAGE_ID.fullmatch(requirement[0])
            return stems.get(requirement[0]) or (match["package"] if match else None)
    return None

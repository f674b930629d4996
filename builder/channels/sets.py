"""Sets: the builds of one chain, as the packages of a channel hold them. Pure.

The requirements in the metadata are the truth: which RPM is which build's, and which build stands on which.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from builder.model import ImageId, version_key
from builder.tools.createrepo import Package

# golden-image-id(golden-sandbox-base-image-20261121.1-20261121.1-1:SHA256); see builder/package/spec.py, image_id.
_IMAGE_ID = re.compile(
    r"golden-image-id\((?P<package>(?P<name>.+)-image-(?P<version>[0-9]{8}\.[1-9][0-9]*))-(?P=version)-[^-:]+"
    r":(?P<sha256>[0-9a-f]{64})\)"
)


@dataclass(frozen=True)
class Member:
    """One build in a channel. packages: the RPM that owns its image, and the one that links to it, if it is there.

    needs: stems of the builds that these require: the one it stands on, and its flat form where the link leads to that.
    """

    id: ImageId
    packages: tuple[Package, ...]
    needs: tuple[str, ...]

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
        for capability, *_ in package.provides:
            if (match := _IMAGE_ID.fullmatch(capability)) and match["name"].startswith(f"{prefix}-"):
                id = ImageId(image=_image(match["name"], prefix), version=match["version"], sha256=match["sha256"])
                images[id.stem] = (id, package)
                stems[match["package"]] = stems[capability] = id.stem
    found = {stem: Member(id=id, packages=(package,), needs=()) for stem, (id, package) in images.items()}
    for package in packages:
        stem = next((stems[name] for name, *_ in package.provides if name in stems), None) or _linked(package, prefix)
        if stem not in found:
            continue
        member = found[stem]
        if package is not member.image_rpm:
            member = replace(member, packages=(*member.packages, package))
        # One that the channel lacks is named, too: it is what is wrong with the channel.
        ids = {it: match["package"] for it, *_ in package.requires if (match := _IMAGE_ID.fullmatch(it))}
        names = [stems.get(name, ids.get(name)) for name, *_ in package.requires if name in stems or name in ids]
        needs = [name for name in dict.fromkeys(names) if name is not None and name != stem]
        found[stem] = replace(member, needs=tuple(dict.fromkeys((*member.needs, *sorted(needs)))))
    return found


def chain(member: Member, members: Mapping[str, Member]) -> list[Member]:
    """The build and all that it needs, itself first; what is not there is left out."""
    found = {member.stem: member}
    todo = [member]
    while todo:
        for stem in todo.pop(0).needs:
            if stem not in found and stem in members:
                found[stem] = members[stem]
                todo.append(members[stem])
    return list(found.values())


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


def _image(name: str, prefix: str) -> str:
    """`golden-private-sandbox-base` -> `sandbox-base`."""
    return name.removeprefix(f"{prefix}-").removeprefix("private-")


def _linked(package: Package, prefix: str) -> str | None:
    """The build whose plain package this is, by its own name and version."""
    for name, comparison, _, version, _ in package.provides:
        if comparison == "EQ" and name.startswith(f"{prefix}-"):
            return f"{_image(name, prefix)}-{version}"
    return None

"""Which Debian packages become which RPMs, and what these require of each other. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from builder.sandbox import debian
from builder.sandbox.debian import Deb
from builder.sandbox.definition import Definition, Package
from builder.sandbox.repack import Version, rpm_version

LEFT_OVER = "system-libs"


@dataclass(frozen=True)
class Content:
    """An RPM to be made. requires: names of other RPMs."""

    package: Package
    debs: tuple[Deb, ...]
    version: Version
    requires: tuple[str, ...]


@dataclass(frozen=True)
class Contents:
    """base: on the DVD. updates: newer versions of some. additions: new in the updates repository.

    installer, boot: Debian packages, for the installer's root and for its kernel and initrd.
    """

    base: tuple[Content, ...]
    updates: tuple[Content, ...]
    additions: tuple[Content, ...]
    installer: tuple[Deb, ...]
    boot: tuple[Deb, ...]

    def debs(self) -> list[Deb]:
        """Every Debian package that is needed, once."""
        contents = (*self.base, *self.updates, *self.additions)
        found = {deb.name: deb for content in contents for deb in content.debs}
        return [*(found | {deb.name: deb for deb in (*self.installer, *self.boot)}).values()]


def assign(definition: Definition, debs: dict[str, Deb]) -> Contents:
    """Distribute what apt resolved."""

    def closure(role: str) -> list[str]:
        return debian.closure(definition.roots[role], debs, ignored=definition.ignored)

    guest, additions = closure("guest"), closure("updates")
    owners = {name: definition.owner(name) or LEFT_OVER for name in guest}
    owners |= {name: definition.adding(name) or name for name in additions if name not in owners}
    requirements = _requirements(owners, debs)

    def content(package: Package, names: list[str]) -> Content:
        chosen = _in_order(package, [debs[name] for name in names])
        version = (
            Version(package.version, "1") if package.version else rpm_version(chosen[0].version, bump=package.bump)
        )
        # Accounts and directories come first: everything requires `setup`, which therefore requires nothing.
        requires = requirements.get(package.name, set()) | {"setup"} if package.name != "setup" else set()
        return Content(package, tuple(chosen), version, tuple(sorted(requires)))

    left_over = Package(
        name=LEFT_OVER,
        summary="Shared libraries of the sandbox distribution",
        unwanted=definition.unwanted,
        version=definition.release,
    )
    packages = [*definition.packages, left_over]
    known = {package.name: package for package in definition.additions}
    kernels = closure("boot")
    return Contents(
        base=tuple(content(p, [name for name in guest if owners[name] == p.name]) for p in packages),
        updates=tuple(content(p, [name for name in guest if owners[name] == p.name]) for p in definition.updates),
        additions=tuple(
            content(known.get(owner) or _single(debs[owner], definition), names)
            for owner, names in _by_owner([name for name in additions if name not in guest], owners).items()
        ),
        installer=tuple(debs[name] for name in closure("installer") if name not in guest),
        boot=tuple(debs[name] for name in kernels if name.startswith(("linux-image-", "busybox"))),
    )


def _by_owner(names: Iterable[str], owners: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(owners[name], []).append(name)
    return found


def _single(deb: Deb, definition: Definition) -> Package:
    return Package(name=deb.name, summary=f"Debian's {deb.name}", debian=(deb.name,), unwanted=definition.unwanted)


def _in_order(package: Package, debs: list[Deb]) -> list[Deb]:
    """The package that gives the version first."""
    first = package.debian[0] if package.debian else None
    return sorted(debs, key=lambda deb: (deb.name != first, deb.name))


def _requirements(owners: dict[str, str], debs: dict[str, Deb]) -> dict[str, set[str]]:
    needed: dict[str, set[str]] = {}
    for name, owner in owners.items():
        for other in debian.direct(debs[name], debs):
            if other in owners and owners[other] != owner:
                needed.setdefault(owner, set()).add(owners[other])
    return needed

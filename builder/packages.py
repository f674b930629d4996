"""Package lists: NEVRAs compared as rpm compares them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Literal

from univers.versions import RpmVersion

from builder.model import Frozen

# No name is an option or a path, and an epoch is a number of 32 bits: a guest may say anything.
_NEVRA = re.compile(
    r"(?P<name>[A-Za-z0-9_][^/:]*)-(?:(?P<epoch>[0-9]{1,10}):)?(?P<version>[^-:/]+)-(?P<release>[^-:/]+)\.(?P<arch>[^.:/-]+)"
)


class Package(Frozen):
    """One installed package; `evr` is "EPOCH:VERSION-RELEASE", the epoch left out if there is none."""

    name: str
    arch: str
    evr: str


class Change(Frozen):
    """How one package differs. before, after: its EVR, or EVRs joined by blanks (kernels); None if it is not there."""

    kind: Literal["added", "removed", "upgraded", "downgraded"]
    name: str
    before: str | None
    after: str | None


def parse(nevra: str) -> Package:
    """`bash-5.2-1.x86_64`, `less-1:608-2.x86_64` -> Package. Raises ValueError."""
    match = _NEVRA.fullmatch(nevra)
    if match is None:
        raise ValueError(f"{nevra!r} is not NAME-[EPOCH:]VERSION-RELEASE.ARCH")
    epoch = f"{match['epoch']}:" if match["epoch"] else ""
    return Package(name=match["name"], arch=match["arch"], evr=f"{epoch}{match['version']}-{match['release']}")


def compare(before: Iterable[str], after: Iterable[str]) -> list[Change]:
    """What changed between two lists of NEVRAs, sorted by name."""
    old, new = _by_name(before), _by_name(after)
    changes = []
    for name, arch in sorted({*old, *new}):
        was, now = old.get((name, arch), []), new.get((name, arch), [])
        if was == now:
            continue
        kind: Literal["added", "removed", "upgraded", "downgraded"]
        if not was:
            kind = "added"
        elif not now:
            kind = "removed"
        else:
            kind = "upgraded" if RpmVersion(was[-1]) <= RpmVersion(now[-1]) else "downgraded"
        changes.append(
            Change(kind=kind, name=f"{name}.{arch}", before=" ".join(was) or None, after=" ".join(now) or None)
        )
    return changes


def _by_name(nevras: Iterable[str]) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for nevra in nevras:
        package = parse(nevra)
        found[package.name, package.arch].append(package.evr)
    return {key: sorted(evrs, key=RpmVersion) for key, evrs in found.items()}

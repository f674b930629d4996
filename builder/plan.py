"""Definitions and builds -> what to do, in order, and why. Pure: reads nothing, starts nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from builder.model import Build, Frozen, Project

# In place of a digest that only a download can tell.
NOT_KNOWN = "not known before it is downloaded"
# In place of the digest of a package repository that does not answer, and never did.
NEEDS_NETWORK = "needs the network"
_UNKNOWN = {NOT_KNOWN: f"is {NOT_KNOWN}", NEEDS_NETWORK: NEEDS_NETWORK}
# A reason is one line; a whole folder of changed files is not.
_MOST_CHANGES = 5


class Planned(Frozen):
    """One image's turn. parent: the image that it is made from, also where that is no parent but is made flat.

    build: the one to reuse, None if there will be a new one. key: content key, over `inputs`.
    """

    image: str
    parent: str | None
    action: Literal["reuse", "build"]
    reason: str
    key: str
    inputs: dict[str, str]
    build: Build | None


def content_key(inputs: Mapping[str, str]) -> str:
    """Hex SHA-256 over inputs, whatever their order."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def order(project: Project, wanted: Iterable[str]) -> list[str]:
    """The wanted images and all that they are made from, parents first, each once."""
    found: list[str] = []
    for name in wanted:
        for image in reversed(project.chain(name)):
            if image.name not in found:
                found.append(image.name)
    return found


def plan(
    project: Project,
    wanted: Iterable[str],
    *,
    inputs: Mapping[str, Mapping[str, str]],
    builds: Mapping[str, Build],
    is_present: Callable[[Build], bool],
    rebuild: Iterable[str] = (),
    standing: Mapping[str, Build] | None = None,
) -> list[Planned]:
    """Decide for every wanted image and its parents between its newest build and a new one.

    inputs: of every image concerned, without its parent's key. builds: the newest of each image that has one.
    is_present: whether a build's file is really there. rebuild: images to build whatever their key says.
    standing: builds that are taken as they are, whatever has changed since; no inputs are needed of them.
    """
    forced, standing = set(rebuild), standing or {}
    planned: dict[str, Planned] = {}
    for name in order(project, wanted):
        image = project.images[name]
        parent = image.source
        if (build := standing.get(name)) is not None:
            planned[name] = _as_it_stands(build, parent)
            continue
        below = planned[parent] if parent else None
        mine = dict(inputs[name])
        if below is not None:
            mine[f"{'flat form of' if image.flat_of else 'parent'} {parent}"] = below.key
        build = builds.get(name)
        reason = "asked for" if name in forced else _reason(build, mine, below, is_present)
        planned[name] = Planned(
            image=name,
            parent=parent,
            action="build" if reason else "reuse",
            reason=reason or f"nothing changed since {build.version if build else ''}",
            key=content_key(mine),
            inputs=mine,
            build=None if reason else build,
        )
    return list(planned.values())


def _as_it_stands(build: Build, parent: str | None) -> Planned:
    return Planned(
        image=build.image,
        parent=parent,
        action="reuse",
        reason="it is taken as it stands",
        key=build.key,
        inputs=build.inputs,
        build=build,
    )


def _reason(
    build: Build | None,
    inputs: Mapping[str, str],
    below: Planned | None,
    is_present: Callable[[Build], bool],
) -> str:
    """Why a new build is needed; empty if none is."""
    if build is None:
        return "; ".join(["never built", *_unknown(inputs)])
    if below is not None and below.build is None:
        return f"{below.image} will be built"
    if changed := _changes(build.inputs, inputs):
        more = len(changed) - _MOST_CHANGES
        return ", ".join([*changed[:_MOST_CHANGES], *([f"and {more} more"] if more > 0 else [])])
    if not is_present(build):
        return f"the file of {build.version} is gone"
    if below is not None and below.build is not None and build.source != below.build.id:
        return f"{build.version} stands on another build of {below.image}"
    return ""


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """What differs, in words: "kickstart changed", "step 2: install is new"."""
    words = [f"{name} is new" for name in new if name not in old]
    words += [f"{name} is gone" for name in old if name not in new]
    words += _unknown(new)
    return words + [f"{name} changed" for name in new if name in old and new[name] not in (old[name], *_UNKNOWN)]


def _unknown(inputs: Mapping[str, str]) -> list[str]:
    return [f"{name} {_UNKNOWN[value]}" for name, value in inputs.items() if value in _UNKNOWN]

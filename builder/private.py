"""golden.private.toml: what a project adds for embargoed work, kept apart from what is public.

It lies beside golden.toml, outside version control, and is merged over it: tables key by key, everything else is
replaced. Its patches, packages and scripts lie in the folder golden.private. Every image that the file touches, by
itself or by its distribution, every one whose recipe reads something from the folder, and all that is made from such an
image, is private: its builds say so, and they are not packaged or published unless that is allowed by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from builder.model import Image
from builder.steps import Repos

FILE = "golden.private.toml"
FOLDER = "golden.private"

# In the name of an image, between its parent's name and its own; `golden build --with` alone makes such names.
MARK = "-private-"


def merged(public: Mapping[str, Any], private: Mapping[str, Any]) -> dict[str, Any]:
    """`private` over `public`, as TOML reads them; neither is changed."""
    found = dict(public)
    for key, value in private.items():
        below = found.get(key)
        found[key] = merged(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return found


def touched(private: Mapping[str, Any], section: str) -> set[str]:
    """The names of the tables [section.NAME] that are in golden.private.toml."""
    tables = private.get(section, {})
    return set(tables) if isinstance(tables, dict) else set()


def readers(images: Mapping[str, Image]) -> set[str]:
    """The names of the images whose recipes read something below the folder."""
    return {image.name for image in images.values() if any(map(_is_below_folder, _paths(image)))}


def _paths(image: Image) -> list[str]:
    """Paths of the project, and URLs among them."""
    return [
        path for step in image.steps for path in (*step.files, *(step.urls.values() if isinstance(step, Repos) else ()))
    ]


def _is_below_folder(path: str) -> bool:
    return PurePosixPath(path).parts[:1] == (FOLDER,)


def heirs(names: Iterable[str], distributions: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """`names` and every distribution that inherits from one of them. distributions: raw, free of cycles."""
    found = set(names)
    while more := {name for name, raw in distributions.items() if str(raw.get("inherits")) in found} - found:
        found |= more
    return found


def marked(images: Mapping[str, Image], *, names: set[str], distributions: set[str]) -> dict[str, Image]:
    """The images, those private that are named, are of a named distribution, or are made from a private one."""
    found = names | {image.name for image in images.values() if image.distribution in distributions}
    while more := {image.name for image in images.values() if image.source in found} - found:
        found |= more
    return {
        name: image.model_copy(update={"is_private": True}) if name in found else image
        for name, image in images.items()
    }

"""One definition for several distributions: `[matrix] el = ["rocky9", "almalinux9"]` and `[image."{el}-base"]`."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from builder.errors import did_you_mean
from builder.model import NAME

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")

# Where a placeholder stands for the distribution. Not in steps: `{…}` and `${…}` mean other things to shells; there
# `only = ["rocky9"]` says what differs.
_KEYS = ("parent", "distribution", "description")

Place = tuple[str | int, ...]
Report = Callable[[Place, str], None]


def read(data: object, *, distributions: Collection[str], report: Report) -> dict[str, list[str]]:
    """The `[matrix]` table: name -> distributions. `report` hears of each problem; what has one is left out."""
    if not isinstance(data, dict):
        report(("matrix",), 'is not a table; write [matrix] and lines such as el = ["rocky9", "almalinux9"]')
        return {}
    found: dict[str, list[str]] = {}
    for name, members in data.items():
        place: Place = ("matrix", name)
        if not NAME.fullmatch(name):
            report(place, f"'{name}' is not a name; use a-z, 0-9, and single '-' or '.' between them")
        elif not isinstance(members, list) or not members or not all(isinstance(member, str) for member in members):
            report(place, 'needs a list of distributions, such as ["rocky9", "almalinux9"]')
        else:
            found[name] = list(dict.fromkeys(members))
            for index, member in enumerate(members):
                if member not in distributions:
                    hint = did_you_mean(member, distributions)
                    report((*place, index), f"there is no distribution '{member}'{hint}")
    return found


def expand(
    images: Mapping[str, dict[str, Any]], matrix: Mapping[str, list[str]], *, report: Report
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Every image once for each member of the matrix that its name speaks of, in the order of the file.

    Returns the images, and the name under which each stands in the file. A base's distribution follows from its name.
    """
    found: dict[str, dict[str, Any]] = {}
    origin: dict[str, str] = {}
    for name, image in images.items():
        for expanded, data in _expanded(name, image, matrix, report):
            if expanded in found:
                report(("image", name), f"defines '{expanded}', and so does [image.\"{origin[expanded]}\"]")
                continue
            found[expanded], origin[expanded] = data, name
    return found, origin


def _expanded(
    name: str, image: dict[str, Any], matrix: Mapping[str, list[str]], report: Report
) -> list[tuple[str, dict[str, Any]]]:
    words = list(dict.fromkeys(_PLACEHOLDER.findall(name)))
    if not words:
        return [(name, image)]
    (word, *others) = words
    if others or word not in matrix:
        what = f"there is no matrix '{word}'{did_you_mean(word, matrix)}; write [matrix] {word or 'el'} = [...]"
        report(("image", name), "a name takes one placeholder" if others else what)
        return []
    result = []
    for member in matrix[word]:
        data = {key: _filled(value, word, member) if key in _KEYS else value for key, value in image.items()}
        if "parent" not in data:
            data.setdefault("distribution", member)
        result.append((_filled(name, word, member), data))
    return result


def _filled(value: Any, word: str, member: str) -> Any:
    return value.replace(f"{{{word}}}", member) if isinstance(value, str) else value

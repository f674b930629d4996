"""Sizes and durations as users write them. A number without a unit is refused: `20G` is 1000³ here and 1024³ there."""

from __future__ import annotations

import re

KIB, MIB, GIB, TIB = 1024, 1024**2, 1024**3, 1024**4

_SIZES = {"KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB}
_DURATIONS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_QUANTITY = re.compile(r"([0-9]+) ?([A-Za-z]+)")


def parse_size(text: str) -> int:
    """`"20 GiB"` -> bytes. Raises ValueError with the message for the user."""
    return _parse(text, units=_SIZES, what="size")


def parse_duration(text: str) -> int:
    """`"90s"`, `"5 min"` -> seconds. Raises ValueError with the message for the user."""
    return _parse(text, units=_DURATIONS, what="duration")


def _parse(text: str, *, units: dict[str, int], what: str) -> int:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or match[2] not in units or int(match[1]) == 0:
        *most, last = units
        raise ValueError(f"{text!r} is not a {what}; write a whole number and one of {', '.join(most)}, {last}")
    return int(match[1]) * units[match[2]]


def format_bytes(count: int) -> str:
    """1536 -> "1.5 KiB"; below 1 KiB whole bytes."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def format_moment(text: str) -> str:
    """ "2026-11-21T18:52:10+00:00" -> "2026-11-21 18:52 UTC"; as golden writes times, which are UTC."""
    return f"{text[:16].replace('T', ' ')} UTC"


def format_seconds(seconds: float) -> str:
    """0.42 -> "0.4 s", 75 -> "1 min 15 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"

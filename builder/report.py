"""A night as people and programs read it: one HTML page with nothing outside it, and JUnit XML."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from xml.etree.ElementTree import Element

import pygal
from pygal.graph.graph import Graph
from pygal.style import Style

from builder.nights import Night, Turn
from builder.store import write_atomically
from builder.templates import render
from builder.tools import junit
from builder.units import MIB, format_bytes, format_seconds
from builder.verdicts import Check, Verdict

_TEMPLATE = "night.html.j2"

# A plot with more lines than this is no plot: the images that matter most in it are shown.
_MOST_LINES = 10

_MOST_LABELS = 8

# Told apart on a light and on a dark ground, and by the colour-blind. Source: Paul Tol, "Colour schemes", "bright".
_COLOURS = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#aa3377",
    "#66a5c8",
    "#b89a1e",
    "#888888",
    "#8866cc",
    "#cc7744",
    "#44aa99",
)


def write(folder: Path, night: Night, *, history: Sequence[Night], verdicts: Mapping[str, Verdict]) -> Path:
    """index.html and junit.xml in the night's folder; returns the page.

    history: the nights before, oldest first. verdicts: of the images' newest builds.
    """
    junit.write(folder / "junit.xml", suites(night, verdicts))
    page = folder / "index.html"
    write_atomically(page, html(night, history=history))
    return page


def suites(night: Night, verdicts: Mapping[str, Verdict]) -> dict[str, list[Check]]:
    """A suite for each image: its build, and every test of its verification; one more for the publication."""
    found: dict[str, list[Check]] = {}
    for turn in night.turns:
        failed = turn.attempts[-1] if turn.attempts and turn.outcome == "failed" else None
        is_build = failed is not None and failed.step != "verify"
        result: Literal["passed", "failed", "skipped"]
        result = "failed" if is_build else "skipped" if turn.outcome == "held back" else "passed"
        message = failed.error if failed and is_build else turn.reason
        found[turn.image] = [Check(name="build", result=result, seconds=turn.build_s or 0, message=message)]
        verdict = verdicts.get(turn.image)
        if verdict is not None and verdict.version == turn.version and turn.outcome != "held back":
            found[turn.image] += verdict.tests
        if failed and not any(check.result == "failed" for check in found[turn.image]):
            found[turn.image].append(Check(name=failed.step, result="failed", message=failed.error))
    if (published := night.publication) is not None:
        wrong = published.attempts[-1].error if published.exit_code and published.attempts else ""
        found["publication"] = [Check(name="publish", result="failed" if wrong else "passed", message=wrong)]
    return found


def rows(night: Night) -> list[list[str]]:
    """For a table on a terminal: image, outcome, version, size, boot, time, why."""
    return [
        [
            turn.image,
            turn.outcome,
            turn.version or "",
            format_bytes(turn.size_bytes) if turn.size_bytes is not None else "",
            format_seconds(turn.boot_s) if turn.boot_s is not None else "",
            format_seconds(spent) if (spent := _spent(turn)) else "",
            why(turn),
        ]
        for turn in night.turns
    ]


def why(turn: Turn) -> str:
    """The reason in one line: what broke if something did."""
    if turn.outcome == "failed":
        if turn.failed:
            return f"failed: {'; '.join(turn.failed[:3])}{' …' if len(turn.failed) > 3 else ''}"
        if turn.attempts:
            return f"{turn.attempts[-1].step} ({turn.attempts[-1].cause}): {turn.attempts[-1].error.splitlines()[0]}"
    return turn.reason


def summary(night: Night) -> str:
    """One sentence: what came out of the night."""
    counts: dict[str, int] = {}
    for turn in night.turns:
        counts[turn.outcome] = counts.get(turn.outcome, 0) + 1
    words = ", ".join(f"{count} {outcome}" for outcome, count in counts.items()) or "no image"
    if night.publication is None:
        return f"{words}; nothing to publish"
    channel = night.publication.channel
    if not night.publication.is_done:
        return f"{words}; NOT published to {channel}"
    return f"{words}; {'published to' if night.publication.is_new else 'nothing new for'} {channel}"


def html(night: Night, *, history: Sequence[Night]) -> str:
    """The page. Everything is in it: styles, plots as SVG; no script, no font, no address is loaded."""
    nights = [*[it for it in history if it.version != night.version], night]
    return render(
        Path(__file__).parent,
        _TEMPLATE,
        autoescape=True,
        night=night,
        summary=summary(night),
        counts={name: sum(turn.outcome == name for turn in night.turns) for name in ("built", "stands", "failed")},
        nights=len(nights),
        plots=plots(nights),
        images=len({turn.image for it in nights for turn in it.turns}),
        most=_MOST_LINES,
        why=why,
        spent=_spent,
        size=format_bytes,
        seconds=format_seconds,
    )


def plots(nights: Sequence[Night]) -> list[tuple[str, str]]:
    """Title and SVG of each trend; none as long as there is but one night."""
    if len(nights) < 2:
        return []
    charts: tuple[tuple[str, type[Graph], Callable[[Turn], float | None]], ...] = (
        ("Size of each layer, MiB", pygal.Line, lambda turn: turn.size_bytes and turn.size_bytes / MIB),
        ("From the kernel's start to default.target, s", pygal.Line, lambda turn: turn.boot_s),
        ("Spent on building and verifying, min", pygal.StackedBar, lambda turn: _spent(turn) / 60 or None),
    )
    found = [(title, _plot(nights, kind, value)) for title, kind, value in charts]
    return [(title, svg) for title, svg in found if svg]


def _plot(nights: Sequence[Night], kind: type[Graph], value: Callable[[Turn], float | None]) -> str:
    """An SVG, empty if no night has a value. An image has the same colour in every plot."""
    images = list(dict.fromkeys(turn.image for night in nights for turn in night.turns))
    lines: dict[str, list[float | None]] = {}
    for image in images:
        turns = [night.turn(image) for night in nights]
        lines[image] = [None if turn is None or not (it := value(turn)) else round(it, 2) for turn in turns]
    most = {image: max((it for it in values if it is not None), default=0) for image, values in lines.items()}
    shown = sorted((image for image in images if most[image]), key=lambda it: most[it], reverse=True)[:_MOST_LINES]
    if not shown:
        return ""
    chart = kind(
        style=_style([_COLOURS[images.index(image) % len(_COLOURS)] for image in images if image in shown]), **_LOOK
    )
    chart.x_labels = [f"{night.version[4:6]}-{night.version[6:8]}" for night in nights]
    chart.x_labels_major = chart.x_labels[:: -(len(nights) // _MOST_LABELS + 1)]
    for image in images:
        if image in shown:
            chart.add(image, lines[image], allow_interruptions=True)
    chart.uuid = uuid.uuid5(uuid.NAMESPACE_OID, f"{kind.__name__} {lines}")  # as pygal's own, but the same each time
    chart.add_xml_filter(_without_scripts)
    return str(chart.render(is_unicode=True))


def _without_scripts(root: Element) -> Element:
    """pygal's settings for its own script, which is not here, and its comments."""
    for parent in list(root.iter()):
        for child in [child for child in parent if not isinstance(child.tag, str) or child.tag.endswith("script")]:
            parent.remove(child)
    return root


_LOOK: dict[str, Any] = {
    "js": (),
    "disable_xml_declaration": True,
    "width": 760,
    "height": 320,
    "legend_at_bottom": False,
    "include_x_axis": True,
    "show_x_guides": False,
    "dots_size": 2.5,
    "stroke_style": {"width": 2},
    "truncate_legend": 32,
    "truncate_label": -1,
    "show_minor_x_labels": False,
    "margin": 8,
    "zero": 0,
    "spacing": 12,
}


def _style(colours: Sequence[str]) -> Style:
    """Ink and ground are the page's own, so that the plots follow light and dark with it."""
    return Style(
        background="transparent",
        plot_background="transparent",
        foreground="var(--ink)",
        foreground_strong="var(--ink)",
        foreground_subtle="var(--line)",
        font_family="inherit",
        label_font_size=12,
        major_label_font_size=12,
        legend_font_size=13,
        opacity="1",
        opacity_hover="1",
        guide_stroke_dasharray="2,4",
        guide_stroke_color="var(--line)",
        major_guide_stroke_color="var(--line)",
        colors=tuple(colours),
    )


def _spent(turn: Turn) -> float:
    """Seconds that the night gave to this image."""
    return (turn.build_s or 0) + (turn.verify_s or 0)

"""Writes docs/benchmarks.md out of docs/benchmarks-*.json: `make figures`. A test says when it is old.

docs/benchmarks-NAME.json is what benchmarks/NAME.py (with _ for -) measured. What the page shows of it is

    {"title": "Depth of a chain",
     "when": "2026-11-21", "machine": {"processors": 2, "model": "AMD EPYC", "memory_gib": 24, "kernel": "6.1"},
     "busy": true, "command": "PYTHONPATH=. python3 benchmarks/depth.py --output docs/benchmarks-depth.json",
     "about": "What was measured, and how. Paragraphs have an empty line between them.",
     "tables": [{"title": "Reading", "head": ["", "depth 1"], "rows": [["boot-like, s", 0.69]]}],
     "plots": ["benchmarks-depth.svg"],
     "notes": "What that means."}

The JSON has these keys beside what else it keeps, or the script makes them of the JSON: `section(found)`, whose keys
come first. title, when, machine, busy and command must be there, all but the title by `conditions.Run`; `machine` names
processors, model, memory_gib and kernel; `busy` says that the machine had other work to do. Numbers in `about` and
`notes` are to be computed, too. `plot(found, target)` of the script draws its plot, also for `make figures`.
"""

from __future__ import annotations

import json
import re
import runpy
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.conditions import BUSY

TOP = Path(__file__).resolve().parents[1]
PAGE = TOP / "docs/benchmarks.md"
REQUIRED = ("title", "when", "machine", "busy", "command")
# Of `machine`, with the words for each. What else there is follows with its name.
WORDS = {"processors": "{} processors", "model": "{}", "memory_gib": "{} GiB of memory", "kernel": "Linux {}"}
HEAD = """\
<!-- Made by benchmarks/page.py out of benchmarks-*.json; do not edit. -->
# Benchmarks

Each is one command, made to be run again: it is the very one that the numbers below it are of. The JSON beside this
page is what it wrote, and all numbers, ratios and plots here are taken from that. Compare what stands side by side, and
not days or machines.

`golden.toml` and `STATE` are the sandbox's, with its images built; nothing else is needed on a host that is fit for
golden (`golden doctor`):

```
golden sandbox create sandbox
golden --file sandbox/golden.toml --state STATE build
PYTHONPATH=. python3 benchmarks/clones.py --file sandbox/golden.toml --state STATE
```

That a machine "had other work to do" is measured, too: other processes kept more than {busy} of a processor busy, on
average, while the benchmark ran.

How to add one is said in the head of `benchmarks/page.py`.
"""


def page(folder: Path) -> str:
    """The text, with a section for each JSON file, ordered by title. Raises ValueError naming what a file lacks."""
    sections = [shown(file) for file in folder.glob("benchmarks-*.json")]
    return "\n".join(
        [HEAD.format(busy=BUSY), *(_text(it, folder) for it in sorted(sections, key=lambda it: str(it["title"])))]
    )


def shown(file: Path) -> dict[str, Any]:
    """What the page shows of a JSON file."""
    found = json.loads(file.read_text(encoding="utf-8"))
    section = dict(found)
    if make := _script(file).get("section"):
        section |= make(found)
    missing = [key for key in REQUIRED if key not in section]
    if missing := missing or [f"machine's {key}" for key in WORDS if key not in section["machine"]]:
        raise ValueError(f"{file.name} does not say: {', '.join(missing)}; see {Path(__file__).name}")
    return section


def draw(folder: Path) -> None:
    """The plots of all JSON files, each beside it, out of it."""
    for file in folder.glob("benchmarks-*.json"):
        if plot := _script(file).get("plot"):
            plot(json.loads(file.read_text(encoding="utf-8")), file.with_suffix(".svg"))


def _script(file: Path) -> dict[str, Any]:
    """What the script that wrote a JSON file defines; of one that none wrote, nothing."""
    script = TOP / "benchmarks" / f"{file.stem.removeprefix('benchmarks-').replace('-', '_')}.py"
    return runpy.run_path(str(script)) if script.exists() else {}


def _text(section: Mapping[str, Any], folder: Path) -> str:
    blocks = [f"## {section['title']}", f"`{section['command']}`"]
    if section.get("about"):
        blocks += _paragraphs(section["about"])
    busy = ", which had other work to do" if section.get("busy") else ""
    blocks += _paragraphs(f"Measured {str(section['when'])[:10]} on {machine(section['machine'])}{busy}.")
    for it in section.get("tables", ()):
        blocks += [f"{it['title']}:"] if it.get("title") else []
        blocks.append(table(it["head"], it["rows"]))
    for plot in section.get("plots", ()):
        if not (folder / plot).exists():
            raise ValueError(f"{section['title']}: there is no {plot}")
        blocks.append(f"![{section['title']}]({plot})")
    if section.get("notes"):
        blocks += _paragraphs(section["notes"])
    return "\n\n".join(blocks) + "\n"


def _paragraphs(text: str) -> list[str]:
    """Filled, so that where a script's source has its line breaks does not show."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return [
        textwrap.fill(" ".join(it.split()), 120, break_long_words=False, break_on_hyphens=False) for it in paragraphs
    ]


def machine(said: Mapping[str, Any]) -> str:
    """{"processors": 2, "model": "AMD EPYC", "qemu": "7.2"} as words."""
    words = WORDS | {"accelerator": "{}", "qemu": "QEMU {}"}
    return ", ".join(words.get(key, f"{key} {{}}").format(value) for key, value in said.items())


def table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join('' if cell is None else str(cell) for cell in line)} |" for line in lines)


if __name__ == "__main__":
    draw(PAGE.parent)
    try:
        PAGE.write_text(page(PAGE.parent), encoding="utf-8")
    except ValueError as error:
        sys.exit(f"benchmarks: {error}")

"""The real Sparrowdo on a guest of the sandbox: tests/vm/test_real_sparrowdo.py measures it, as it is a test, too.

    GOLDEN_TEST_FIGURES=docs/benchmarks-real-sparrowdo.json pytest -m real_sparrowdo tests/vm

It needs what that file says in its head. Here is how it is shown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.results import figure, times

STEPS = {
    "bootstrap_s": "the bootstrap",
    "layer_s": "the layer's sparrowfile, by sudo",
    "smoke_s": "the smoke sparrowfile, without sudo",
    "whole_s": "the whole layer, with boot, cleaning and compression",
    "test_s": "a test on a clone, with boot",
}


def section(found: dict[str, Any]) -> dict[str, Any]:
    """For docs/benchmarks.md, see page.py."""
    return {
        "title": "Sparrowdo itself",
        "about": f"""
Sparrowdo {found["sparrowdo"]} against a sandbox guest with Rakudo {found["raku"]}; then there is Sparrow6
{found["sparrow6"]} in it. [sparrowdo.md](sparrowdo.md) says what of it was real. Each was run once.""",
        "tables": [{"head": ["", "s"], "rows": [[label, found[key]] for key, label in STEPS.items()]}],
        "plots": ["benchmarks-real-sparrowdo.svg"],
        "notes": f"The whole layer, which is built once, takes {times(found['whole_s'], found['test_s'])} as long as a "
        "test on a clone of it.",
    }


def plot(found: dict[str, Any], target: Path) -> None:
    with figure(target, (8, 3)) as (_, axis):
        labels = list(reversed(STEPS.values()))
        bars = axis.barh(labels, [found[key] for key in reversed(STEPS)])
        axis.bar_label(bars, fmt=" %.0f s")
        axis.margins(x=0.15)
        axis.set_xlabel("s")

"""What a benchmark leaves: its result as JSON, and a plot beside it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def leave(result: Any, target: Path | None, *, plot: Callable[[Any, Path], None] | None = None) -> None:
    """Print it, and write it to `target` if there is one; `plot` makes the file of that name that ends in .svg."""
    text = json.dumps(result, indent=2)
    if target:
        target.write_text(text + "\n", encoding="utf-8")
        if plot:
            plot(result, target.with_suffix(".svg"))
    print(text)


def times(more: float, less: float) -> str:
    """How many times as much `more` is, in words; the closer to one, the finer."""
    ratio = more / less
    return f"{ratio:.{2 if ratio < 2 else 1 if ratio < 100 else 0}f} times"


@contextlib.contextmanager
def figure(target: Path, size: tuple[float, float], **more: Any) -> Iterator[tuple[Any, Any]]:
    """Of matplotlib, and its axes; written when the block ends. The same data make the same bytes.

    size: inches, width and height. more: for `pyplot.subplots`.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "golden"
    from matplotlib import pyplot

    made, axes = pyplot.subplots(figsize=size, **more)
    yield made, axes
    made.tight_layout()
    made.savefig(target, metadata={"Date": None})

"""What does a bootstrap in every test cost against one in the image? Real guests of the sandbox, one after the other.

    golden sandbox create /var/tmp/sandbox && cd /var/tmp/sandbox && golden build sandbox-bootstrapped
    python3 benchmarks/bootstrap_once.py --file golden.toml --state STATE --output benchmarks-bootstrap-once.json

The bootstrap is the part of Sparrowdo's that every distribution with a Rakudo of its own has: Raku and zef installed by
the package manager, here from a repository on this machine; public ones are farther away. The test is a line of Raku.
"each": N clones of sandbox-upgrade, on each the bootstrap, then the test. "once": sandbox-bootstrapped built anew, then
N clones of it with the test alone. Both with their boots. Disk is what the clones' overlays, and the layer, take.
More tests than N are extrapolated from the medians, and marked.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from builder.tools.webserver import serving

MIB = 1024**2
# Where a guest reaches this host's loopback.
HOST = "10.0.2.2"
INSTALL = "dnf -y -q --repofrompath=updates,http://{host}:{port} --repo=updates --nogpgcheck install rakudo raku-zef"
TEST = "raku -e 'say 40 + 2'"
MANY = 70


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, required=True, help="golden.toml of a sandbox whose chain is built")
    parser.add_argument("--state", type=Path, required=True, help="as of golden")
    parser.add_argument("--tests", type=int, default=3, help="N")
    parser.add_argument("--output", type=Path, help="write the JSON here, and a plot beside it (needs matplotlib)")
    options = parser.parse_args()
    found = measure(Golden(options.file, options.state), options.file.parent / "updates", tests=options.tests)
    text = json.dumps(found, indent=2) + "\n"
    sys.stdout.write(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
        plot(found, options.output.with_suffix(".svg"))


class Golden:
    """The command line, for one project."""

    def __init__(self, file: Path, state: Path) -> None:
        self.state = state
        self._words = [sys.executable, "-m", "builder", "--progress", "quiet", "--file", str(file)]
        self._words += ["--state", str(state)]

    def __call__(self, *words: str) -> str:
        return subprocess.run([*self._words, *words], check=True, stdout=subprocess.PIPE, text=True).stdout


def measure(golden: Golden, updates: Path, *, tests: int) -> dict[str, object]:
    with serving(updates) as server:
        install = INSTALL.format(host=HOST, port=server.port)
        each = [run(golden, "sandbox-upgrade", [install, TEST]) for _ in range(tests)]
    begin = time.monotonic()
    (*_, built) = json.loads(golden("build", "--rebuild", "sandbox-bootstrapped", "--json"))
    build_s = time.monotonic() - begin
    once = [run(golden, "sandbox-bootstrapped", [TEST]) for _ in range(tests)]
    return {
        "when": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{os.cpu_count()} processors, Linux {platform.release()}",
        "accelerator": built["accelerator"],
        "tests": tests,
        "each": {"seconds": [r["seconds"] for r in each], "bytes": [r["bytes"] for r in each]},
        "once": {
            "build_seconds": round(build_s, 1),
            "layer_bytes": built["size_bytes"],
            "seconds": [r["seconds"] for r in once],
            "bytes": [r["bytes"] for r in once],
        },
        "extrapolated": {str(n): totals(each, once, build_s, built["size_bytes"], n) for n in (10, MANY)},
    }


def run(golden: Golden, image: str, commands: list[str]) -> dict[str, float]:
    """One test on a clone of its own: from the clone's creation to its end."""
    name = "bench-bootstrap"
    begin = time.monotonic()
    golden("clone", "create", name, "--image", image)
    try:
        for command in commands:
            golden("clone", "ssh", name, "--", command)
        golden("clone", "ssh", name, "--", "sync")
        size_bytes = (golden.state / "clones" / name / "disk.qcow2").stat().st_blocks * 512
    finally:
        golden("clone", "destroy", name)
    return {"seconds": round(time.monotonic() - begin, 1), "bytes": size_bytes}


def totals(
    each: list[dict[str, float]], once: list[dict[str, float]], build_s: float, layer_bytes: int, tests: int
) -> dict[str, float]:
    """By medians; one clone at a time."""

    def median(runs: list[dict[str, float]], key: str) -> float:
        return statistics.median(r[key] for r in runs)

    return {
        "each_seconds": round(tests * median(each, "seconds")),
        "once_seconds": round(build_s + tests * median(once, "seconds")),
        "each_bytes": round(tests * median(each, "bytes")),
        "once_bytes": round(layer_bytes + tests * median(once, "bytes")),
    }


def plot(found: dict[str, object], target: Path) -> None:
    """Time over the number of tests: measured as points, extrapolated as dashed lines."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "golden"
    from matplotlib import pyplot

    each: dict[str, list[float]] = found["each"]  # type: ignore[assignment]
    once: dict[str, list[float]] = found["once"]  # type: ignore[assignment]
    build_s = float(once["build_seconds"])  # type: ignore[arg-type]
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for label, runs, begin in (
        ("bootstrap in each test", each["seconds"], 0.0),
        ("bootstrap once", once["seconds"], build_s),
    ):
        measured = [begin + sum(runs[: n + 1]) for n in range(len(runs))]
        (line,) = axes.plot(range(1, len(runs) + 1), [s / 60 for s in measured], "o-", label=f"{label}, measured")
        ends = (len(runs), MANY)
        rest = [measured[-1] + (n - len(runs)) * statistics.median(runs) for n in ends]
        axes.plot(ends, [s / 60 for s in rest], "--", color=line.get_color(), label=f"{label}, extrapolated")
    axes.set_xlabel("tests, one after the other")
    axes.set_ylabel("minutes")
    axes.set_title(f"The sandbox, {found['accelerator']}, {found['machine']}", fontsize=9)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


def section(found: dict[str, Any]) -> dict[str, Any]:
    """For docs/benchmarks.md, see page.py."""
    each, once, ways = found["each"], found["once"], ("each", "once")
    measured = {
        "each_seconds": sum(each["seconds"]),
        "once_seconds": once["build_seconds"] + sum(once["seconds"]),
        "each_bytes": sum(each["bytes"]),
        "once_bytes": once["layer_bytes"] + sum(once["bytes"]),
    }
    counted = {f"{found['tests']}, measured": measured}
    counted |= {f"{count}, extrapolated": it for count, it in found["extrapolated"].items()}
    rows = [
        [tests, *(f"{it[f'{way}_seconds']:.0f}" for way in ways), *(f"{it[f'{way}_bytes'] / MIB:.0f}" for way in ways)]
        for tests, it in counted.items()
    ]
    many = found["extrapolated"][str(MANY)]
    return {
        "title": "Bootstrap once",
        "machine": f"{found['machine']}, {found['accelerator']}",
        "command": "PYTHONPATH=. python3 benchmarks/bootstrap_once.py --file golden.toml --state STATE "
        f"--tests {found['tests']} --output docs/benchmarks-bootstrap-once.json",
        "about": f"""
Tests, one after the other, each on a clone of its own, with its boot. "each": the bootstrap (Raku and zef from
a repository on this machine; public ones are farther away) in every test. "once": in the image, whose build is
in the numbers. Measured with {found["tests"]} tests; more are extrapolated from the medians.""",
        "tables": [
            {
                "head": ["tests", "each, s", "once, s", "each, MiB on the disk", "once, MiB on the disk"],
                "rows": rows,
            }
        ],
        "plots": ["benchmarks-bootstrap-once.svg"],
        "notes": f"{MANY} tests: {many['each_seconds'] / many['once_seconds']:.1f} times the time, extrapolated.",
    }


if __name__ == "__main__":
    main()

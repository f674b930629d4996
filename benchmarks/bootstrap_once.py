"""What does a bootstrap in every test cost against one in the image? Real guests of the sandbox, one after the other.

    golden sandbox create sandbox && golden --file sandbox/golden.toml build sandbox-upgrade
    PYTHONPATH=. python3 benchmarks/bootstrap_once.py --file sandbox/golden.toml --state STATE \
        --output docs/benchmarks-bootstrap-once.json

The bootstrap does what Sparrowdo's does, and less of it: the package manager installs Rakudo and zef, here from a
repository on this machine, and Rakudo compiles a module, here one small one of zef's. The test is a line of Raku that
uses the module.
"once": an image with the bootstrap is built on sandbox-upgrade, then N clones of it run the test alone. "each": N
clones of sandbox-upgrade, on each the bootstrap, then the test. All with their starts, and the two kinds in turn, so
that a busy moment of the machine hits both. Disk is what the clones' overlays take, and the image.
More tests than N are extrapolated: N tests as measured, and the median for each one more. What does not fit into
--minutes is left out: the image and one test of each kind are measured in any case, and another one of each if there is
time for both. With 2 of each on 2 processors without KVM it is over long before.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.conditions import Run
from benchmarks.disk import taken
from benchmarks.golden import Golden
from benchmarks.results import figure, leave
from builder.tools.webserver import serving

MIB = 1024**2
# Where a guest reaches this host's loopback.
HOST = "10.0.2.2"
INSTALL = "dnf -y -q --repofrompath=updates,http://{host}:{port} --repo=updates --nogpgcheck install rakudo raku-zef"
TEST = "raku -MZef::Utils::SystemQuery -e 'say 40 + 2'"
IMAGE = "sandbox-bootstrapped-once"
DEFINITION = f"""
[image.{IMAGE}]
parent = "sandbox-upgrade"
steps = [{{ install = ["rakudo", "raku-zef"] }}, {{ shell = ["{TEST}"] }}]
"""
# Tests that nobody waited for.
MORE = (10, 70)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, required=True, help="golden.toml of a sandbox whose chain is built")
    parser.add_argument("--state", type=Path, required=True, help="as of golden")
    parser.add_argument("--tests", type=int, default=2, help="N, of each kind")
    parser.add_argument("--minutes", type=float, default=15, help="that all of it may take")
    parser.add_argument("--output", type=Path, help="write the JSON here, and a plot beside it (needs matplotlib)")
    options = parser.parse_args()
    run, until_s = Run(options.state.absolute()), time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="golden-bootstrap-") as folder:
        file = with_image(options.file.absolute(), Path(folder))
        golden = Golden(file, options.state, progress="quiet")
        found = measure(golden, file.parent / "updates", tests=options.tests, until_s=until_s)
    found |= run.said(accelerator=found["accelerator"])
    leave(found, options.output, plot=plot)


def with_image(file: Path, folder: Path) -> Path:
    """The sandbox's project with the image of the benchmark in it; the store is the same."""
    for name in ("sandbox.iso", "updates", "keys"):
        (folder / name).symlink_to(file.parent / name)
    made = folder / "golden.toml"
    made.write_text(file.read_text(encoding="utf-8") + DEFINITION, encoding="utf-8")
    return made


def measure(golden: Golden, updates: Path, *, tests: int, until_s: float) -> dict[str, Any]:
    """until_s: on the monotonic clock; a pair of tests that would not end by then is left out."""
    golden("build", "sandbox-upgrade")
    begin = time.monotonic()
    (*_, built) = golden.json("build", "--rebuild", IMAGE)
    build_s = round(time.monotonic() - begin, 1)
    sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} the image is built: {build_s} s\n")
    each: list[dict[str, float]] = []
    once: list[dict[str, float]] = []
    with serving(updates) as server:
        install = INSTALL.format(host=HOST, port=server.port)
        while len(each) < tests and is_time_for_more(each, once, until_s=until_s):
            each.append(tested(golden, "sandbox-upgrade", [install, TEST]))
            once.append(tested(golden, IMAGE, [TEST]))
    return {
        "accelerator": built["accelerator"],
        "tests": len(each),
        "each": {"first": {"seconds": 0, "bytes": 0}, "tests": each},
        "once": {"first": {"seconds": build_s, "bytes": built["size_bytes"]}, "tests": once},
    }


def is_time_for_more(each: list[dict[str, float]], once: list[dict[str, float]], *, until_s: float) -> bool:
    if not each:
        return True
    longest_s = sum(max(test["seconds"] for test in way) for way in (each, once))
    return time.monotonic() + longest_s <= until_s


def tested(golden: Golden, image: str, commands: list[str]) -> dict[str, float]:
    """One test on a clone of its own: from the clone's creation to its end. seconds, and bytes of its overlay."""
    name = "bench-bootstrap"
    begin = time.monotonic()
    golden("clone", "create", name, "--image", image)
    try:
        for command in commands:
            golden("clone", "ssh", name, "--", command)
        golden("clone", "ssh", name, "--", "sync")
        size_bytes = taken(golden.state / "clones" / name / "disk.qcow2")
    finally:
        golden("clone", "destroy", name)
    seconds = round(time.monotonic() - begin, 1)
    sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} a test on a clone of {image}: {seconds} s\n")
    return {"seconds": seconds, "bytes": size_bytes}


def after(way: dict[str, Any], key: str, *, tests: int) -> float:
    """What so many tests take in all, one clone at a time. key: "seconds" or "bytes"."""
    runs = [run[key] for run in way["tests"]]
    more = max(tests - len(runs), 0)
    return float(way["first"][key] + sum(runs[:tests]) + more * statistics.median(runs))


def plot(found: dict[str, Any], target: Path) -> None:
    """Time and disk over the number of tests: measured as points, extrapolated as dashed lines."""
    with figure(target, (10, 4), ncols=2) as (made, both):
        tests, most = found["tests"], MORE[-1]
        units = (("seconds", "hours", 3600), ("bytes", "GiB", 1024 * MIB))
        for axes, (key, unit, divisor) in zip(both, units, strict=True):
            for name, label in (("each", "bootstrap in each test"), ("once", "bootstrap once, in the image")):
                numbers = range(1, tests + 1)
                measured = [after(found[name], key, tests=n) / divisor for n in numbers]
                (line,) = axes.plot(numbers, measured, "o-", markersize=4, label=f"{label}: measured")
                ends = (tests, most)
                rest = [after(found[name], key, tests=n) / divisor for n in ends]
                axes.plot(ends, rest, "--", color=line.get_color(), label=f"{label}: extrapolated")
            axes.set_xlabel("tests, one after the other")
            axes.set_ylabel(unit)
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
        both[0].legend(fontsize=8)
        made.suptitle(f"The sandbox, {found['machine']['accelerator']}", fontsize=9)


def section(found: dict[str, Any]) -> dict[str, Any]:
    """For docs/benchmarks.md, see page.py."""
    ways = (found["each"], found["once"])
    counts = {f"{found['tests']}, measured": found["tests"]} | {f"{count}, extrapolated": count for count in MORE}
    rows = [
        [
            label,
            *(f"{after(way, 'seconds', tests=count):.0f}" for way in ways),
            *(f"{after(way, 'bytes', tests=count) / MIB:.0f}" for way in ways),
        ]
        for label, count in counts.items()
    ]
    each, once = (after(way, "seconds", tests=MORE[-1]) for way in ways)
    return {
        "title": "Bootstrap once",
        "about": f"""
Tests, one after the other, each on a clone of its own, with its start: the first of a kind boots and saves its image's
memory, from which the others go on. "each": the bootstrap in every test. "once": in the image, whose build is in the
numbers. Scaled down: guests of the sandbox, and a bootstrap that is Rakudo and zef by
dnf from a repository on this machine, and a small module compiled by Rakudo; Sparrowdo's own compiles far more, and
downloads it. Measured: the build, and {found["tests"]} of the tests in each way, in turn; more tests are extrapolated,
each with the median of those.""",
        "tables": [
            {
                "head": ["tests", "each, s", "once, s", "each, MiB on the disk", "once, MiB on the disk"],
                "rows": rows,
            }
        ],
        "plots": ["benchmarks-bootstrap-once.svg"],
        "notes": f"{MORE[-1]} tests: with the bootstrap in each, {each / once:.1f} times the time, extrapolated.",
    }


if __name__ == "__main__":
    main()

"""How long `golden test` takes for the same tests, 1, 2 and 4 at once, on machines that go on from memory or boot.

    PYTHONPATH=. python3 benchmarks/parallel_tests.py --file golden.toml --state STATE \
        --output docs/benchmarks-parallel-tests.json

Each test asks the guest's kernel for its name, on a machine of its own. With each number of jobs as many tests run as
make ROUNDS rounds of them, from memory, which is saved before the clock starts, and, with --cold, on machines that
boot. About 20 s for each boot without KVM on an idle machine: 2 min, and as many more with --cold.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.conditions import Run
from benchmarks.golden import Golden
from benchmarks.results import figure, leave, times

JOBS, ROUNDS = (1, 2, 4), 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, required=True, help="golden.toml of a sandbox whose image is built")
    parser.add_argument("--state", type=Path, required=True, help="as of golden")
    parser.add_argument("--image", default="sandbox-upgrade")
    parser.add_argument("--cold", action="store_true", help="also a round of tests on machines that boot")
    parser.add_argument("--output", type=Path, help="write the JSON here, and a plot beside it (needs matplotlib)")
    options = parser.parse_args()
    run = Run(options.state.absolute())
    golden = Golden(options.file, options.state, progress="quiet")
    memory = golden.json("clone", "warm", options.image)
    found = measure(golden, memory, options.image, cold=options.cold)
    leave(found | run.said(accelerator=memory["circumstances"]["accelerator"]), options.output, plot=plot)
    return 0


def measure(golden: Golden, memory: dict[str, Any], image: str, *, cold: bool) -> dict[str, Any]:
    """memory: what `golden clone warm` said."""
    runs = [tested(golden, image, tests=ROUNDS * jobs, jobs=jobs, is_cold=False) for jobs in JOBS]
    runs += [tested(golden, image, tests=jobs, jobs=jobs, is_cold=True) for jobs in JOBS if cold]
    return {
        "image": memory["stem"],
        "memory_mib": memory["circumstances"]["memory_mib"],
        "runs": runs,
    }


def tested(golden: Golden, image: str, *, tests: int, jobs: int, is_cold: bool) -> dict[str, Any]:
    """One run of `golden test`, which has to be green. each_s: of a test, its machine's start included."""
    with tempfile.TemporaryDirectory(prefix="golden-bench-") as folder:
        for number in range(tests):
            place = Path(folder, f"test-{number}")
            place.mkdir()
            (place / "run.sh").write_text("uname -r\n")
            (place / "golden-test.toml").write_text(f'scripts = ["run.sh"]\ncold = {str(is_cold).lower()}\n')
        words = ["test", "--folder", folder, "--image", image, "--jobs", str(jobs), "--results", f"{folder}/results"]
        begin = time.monotonic()
        summary = golden.json(*words)
        seconds = time.monotonic() - begin
    print(
        f"{tests} tests, {jobs} at once, {'cold' if is_cold else 'warm'}: {seconds:.1f} s", file=sys.stderr, flush=True
    )
    return {
        "jobs": jobs,
        "is_cold": is_cold,
        "tests": tests,
        "seconds": round(seconds, 1),
        "each_s": [outcome["boot_s"] for result in summary["results"] for outcome in result["outcomes"]],
    }


def plot(found: dict[str, Any], target: Path) -> None:
    """Seconds for a test over the number of them at once."""
    with figure(target, (5, 4)) as (_, axes):
        for is_cold, label in ((True, "machines boot"), (False, "machines go on from memory")):
            runs = [it for it in found["runs"] if it["is_cold"] is is_cold]
            if runs:
                axes.plot([it["jobs"] for it in runs], [it["seconds"] / it["tests"] for it in runs], "o-", label=label)
        axes.set_xticks(JOBS)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("tests at once")
        axes.set_ylabel("s for each test of the run")
        axes.grid(alpha=0.3)
        axes.legend()


def section(found: dict[str, Any]) -> dict[str, Any]:
    """For docs/benchmarks.md, see page.py."""
    return {
        "title": "Tests in parallel",
        "about": f"""
`golden test` with tests that ask the guest's kernel for its name, each on a machine of its own of {found["image"]} with
{found["memory_mib"]} MiB of memory. Seconds are those of the whole command. Starts are the medians of the tests', from
the order to the answer on SSH. The memory of the image was saved before.""",
        "tables": [
            {
                "head": ["machines", "tests", "at once", "all, s", "s for each", "start, s"],
                "rows": [
                    [
                        "boot" if it["is_cold"] else "from memory",
                        it["tests"],
                        it["jobs"],
                        it["seconds"],
                        f"{it['seconds'] / it['tests']:.1f}",
                        f"{statistics.median(it['each_s']):.1f}",
                    ]
                    for it in found["runs"]
                ],
            }
        ],
        "plots": ["benchmarks-parallel-tests.svg"],
        "notes": notes([it for it in found["runs"] if not it["is_cold"]]),
    }


def notes(runs: list[dict[str, Any]]) -> str:
    """The most at once against one after the other."""
    one, most = runs[0], runs[-1]
    each = times(one["seconds"] / one["tests"], most["seconds"] / most["tests"])
    return f"From memory, {one['jobs']} at once: {each} the time for each test of that with {most['jobs']} at once."


if __name__ == "__main__":
    sys.exit(main())

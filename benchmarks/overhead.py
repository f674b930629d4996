"""What `golden build` costs over the commands that it runs: virt-install, virt-customize, qemu-img and the like, bare.

    PYTHONPATH=. python3 benchmarks/overhead.py --file golden.toml --state STATE --json docs/benchmarks-overhead.json

The bare commands are those that `golden build --dry-run --rebuild` prints, pasted into a shell one after the other, on
the files that it wrote for them. Beside each stands `golden build --rebuild`, start of Python to its end, with all that
the bare way leaves out: the plan, locks, checkpoints, the parent's digest, the limits, the console, the checks of what
was made, digests, the facts. In turn, so that a busy moment of the machine hits both, and the first of a pair is the
other one each time. --layer is built --rounds times, --base --base-rounds times. Fails if the median of golden's is
more than 5 % above that of the bare commands. About 70 s for a round of the sandbox's layer without KVM, 140 s for one
of its base.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.conditions import Run, timed
from benchmarks.golden import Golden
from benchmarks.results import figure, leave
from builder.preflight.kvm import accelerator
from builder.progress import Reporter

LIMIT = 0.05


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, required=True, help="the golden.toml")
    parser.add_argument("--state", type=Path, required=True, help="golden's state directory, with the images built")
    parser.add_argument("--layer", default="sandbox-upgrade", help="a layer whose parent is built")
    parser.add_argument("--rounds", type=int, default=3, help="of the layer")
    parser.add_argument("--base", default="sandbox-base")
    parser.add_argument("--base-rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the result here, and a plot beside it (needs matplotlib)")
    arguments = parser.parse_args()
    run = Run(arguments.state.absolute())
    bench = Bench(arguments.file.absolute(), arguments.state.absolute())
    wanted = {arguments.layer: arguments.rounds, arguments.base: arguments.base_rounds}
    result = bench.measure({image: rounds for image, rounds in wanted.items() if rounds})
    result |= run.said(accelerator=accelerator(bench.state, reporter=Reporter("quiet")).kind)
    leave(result, arguments.json, plot=plot)
    return 0 if is_kept(result) else 1


def is_kept(result: dict[str, Any]) -> bool:
    return all(row["overhead"] <= LIMIT for row in result["images"])


class Bench:
    def __init__(self, file: Path, state: Path) -> None:
        self.golden = Golden(file, state)
        self.state = state

    def measure(self, wanted: Mapping[str, int]) -> dict[str, Any]:
        """wanted: image -> rounds."""
        return {"images": [self.image(image, rounds=rounds) for image, rounds in wanted.items()]}

    def image(self, image: str, *, rounds: int) -> dict[str, Any]:
        golden: list[tuple[float, float]] = []
        plain: list[tuple[float, float]] = []
        steps = []
        for number in range(rounds):
            for is_golden in (True, False) if number % 2 else (False, True):
                if is_golden:
                    golden.append(self.build(image))
                    steps.append(self.steps(image))
                else:
                    plain.append(bare(self.commands(image)))
                took = (golden if is_golden else plain)[-1]
                print(f"{image}: {'golden' if is_golden else 'bare'}: {took[0]:.1f} s", file=sys.stderr, flush=True)
        return row(image, golden, plain) | {"golden_steps_s": steps}

    def commands(self, image: str) -> list[dict[str, str]]:
        """As golden prints them, with the files that they name; nothing is started."""
        commands: list[dict[str, str]] = self.golden.json("build", "--dry-run", "--rebuild", image)[image]
        return commands

    def build(self, image: str) -> tuple[float, float]:
        """Seconds, and seconds of processors."""
        return timed(lambda: self.golden("build", "--rebuild", image))

    def steps(self, image: str) -> dict[str, float]:
        """Of the newest build, as golden measured them itself."""
        return {it["step"].partition(": ")[2]: it["seconds"] for it in self.golden.json("show", image)["times"]}


def row(image: str, golden: Sequence[tuple[float, float]], plain: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """golden, plain: seconds, and seconds of processors, of each. overhead: a share of the bare commands' time."""
    ours, theirs = (statistics.median(passed for passed, _ in it) for it in (golden, plain))
    ours_busy, theirs_busy = (statistics.median(busy for _, busy in it) for it in (golden, plain))
    return {
        "image": image,
        "golden_s": [round(passed, 2) for passed, _ in golden],
        "bare_s": [round(passed, 2) for passed, _ in plain],
        "golden_median_s": round(ours, 2),
        "bare_median_s": round(theirs, 2),
        "golden_processor_s": round(ours_busy, 2),
        "bare_processor_s": round(theirs_busy, 2),
        "overhead": round(ours / theirs - 1, 4),
    }


def bare(commands: Sequence[Mapping[str, str]]) -> tuple[float, float]:
    """Seconds of the commands, and of processors, each in a shell of its own; servers run beside them, untimed.

    What the last of them writes, a build that golden does not know, is removed.
    """
    lines = [command["line"] for command in commands]

    def paste() -> None:
        for line in lines:
            if not line.endswith("&"):
                subprocess.run(["sh", "-c", line], check=True, stdout=sys.stderr, stdin=subprocess.DEVNULL)

    with contextlib.ExitStack() as stack:
        for line in lines:
            if line.endswith("&"):
                stack.enter_context(server(shlex.split(line.removesuffix("&"))))
        taken = timed(paste)
    Path(shlex.split(lines[-1])[-1]).unlink()
    return taken


@contextlib.contextmanager
def server(argv: Sequence[str]) -> Iterator[None]:
    """A web server, while the block runs; its last word is the port."""
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ) as process:
        try:
            while process.poll() is None:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(argv[-1]))):
                    break
                time.sleep(0.1)
            yield
        finally:
            process.terminate()


def plot(found: dict[str, Any], target: Path) -> None:
    """Each round as a point, and the medians; golden beside the bare commands."""
    rows = found["images"]
    with figure(target, (4 * len(rows), 4), ncols=len(rows), squeeze=False) as (_, axes):
        for axis, row in zip(axes[0], rows, strict=True):
            ways = {"bare commands": "bare", "golden": "golden"}
            for number, key in enumerate(ways.values()):
                times, median = row[f"{key}_s"], row[f"{key}_median_s"]
                axis.bar(number, median, 0.6, alpha=0.3)
                axis.plot([number] * len(times), times, "o", color="black", markersize=4)
            axis.set_xticks(range(len(ways)), ways)
            axis.set_title(f"{row['image']}: {row['overhead']:+.1%}")
            axis.set_ylabel("s, bars: median")


def section(found: dict[str, Any]) -> dict[str, Any]:
    """For docs/benchmarks.md, see page.py."""
    return {
        "title": "Overhead of a build",
        "about": f"""
`golden build --rebuild`, from the start of Python to its end, against the commands that it runs, pasted into a shell as
`golden build --dry-run` prints them: virt-install, virt-customize, qemu-img, and the few around them. In turn. golden's
time has in it what the bare commands leave out: the plan, locks, checkpoints, the parent's digest, limits, checks of
what was made, digests. Seconds of processors have libguestfs' appliance in them, but no machine of libvirt's. The
script fails if golden's median is more than {LIMIT:.0%} above the other.""",
        "tables": [
            {
                "title": "Median",
                "head": [
                    *("image", "rounds", "golden, s", "bare commands, s", "overhead, s", "overhead"),
                    *("golden, of processors, s", "bare commands, of processors, s"),
                ],
                "rows": [
                    [
                        row["image"],
                        len(row["golden_s"]),
                        f"{row['golden_median_s']:.1f}",
                        f"{row['bare_median_s']:.1f}",
                        f"{row['golden_median_s'] - row['bare_median_s']:.1f}",
                        f"{row['overhead']:.1%}",
                        f"{row['golden_processor_s']:.1f}",
                        f"{row['bare_processor_s']:.1f}",
                    ]
                    for row in found["images"]
                ],
            }
        ],
        "plots": ["benchmarks-overhead.svg"],
        "notes": f"At most {LIMIT:.0%} was the limit, which this run {'kept' if is_kept(found) else 'did not keep'}.",
    }


if __name__ == "__main__":
    sys.exit(main())

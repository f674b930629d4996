"""How golden grows: a plan of 10 to 1000 images, a channel of 10 to 1000 RPMs, 1 to 70 clones; time, and its memory.

    PYTHONPATH=. python3 benchmarks/growth.py --json docs/benchmarks-growth.json

Plans are those of benchmarks/plan.py, when nothing changed: the command as a person types it. Publishing is that of
benchmarks/publish.py: one more image into a signed channel. Clones are made and removed, none is started, of an image
of a few hundred KiB on two others. The memory is the largest that golden's own process ever held (its peak RSS; what it
runs has its own): that of `golden plan`, and of processes that do nothing but publish, or make clones. One that only
imports golden's commands stands beside them. About 6 minutes; needs libvirt for the clones.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import plan, publish
from benchmarks.conditions import Run
from benchmarks.disk import taken
from benchmarks.results import figure, leave, times
from builder import clones
from builder.progress import Reporter
from builder.publication import Signing
from builder.store import Store
from builder.tools import openpgp
from builder.tools.libvirt import connect
from builder.units import MIB
from tests.builds import add_chain

IMAGES, RPMS, CLONES = (10, 100, 1000), (10, 100, 1000), (1, 10, 70)
CHAIN = ("sandbox-base", "sandbox-upgrade", "sandbox-bootstrapped")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=IMAGES, help="in the catalogue, in tens")
    parser.add_argument("--rpms", type=int, nargs="+", default=RPMS, help="in the channel before")
    parser.add_argument("--clones", type=int, nargs="+", default=CLONES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the result here, and a plot beside it (needs matplotlib)")
    arguments = parser.parse_args()
    run = Run()
    result = measure(arguments.images, arguments.rpms, arguments.clones, rounds=arguments.rounds)
    leave(result | run.said(), arguments.json, plot=plot)
    return 0


def measure(images: Sequence[int], rpms: Sequence[int], counts: Sequence[int], *, rounds: int) -> dict[str, Any]:
    return {
        "imported_bytes": alone(imported)["peak_bytes"],
        "plans": rows("images", images, planned, rounds=rounds),
        "publishes": rows("rpms", rpms, published, rounds=rounds),
        "clones": rows("clones", counts, cloned, rounds=rounds),
        "rounds": rounds,
    }


def rows(
    what: str, sizes: Sequence[int], do: Callable[[Path, int, int], dict[str, float]], *, rounds: int
) -> list[dict[str, Any]]:
    """What `do` finds of each size, in a folder and a process of its own."""
    found = []
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="golden-growth-", dir="/var/tmp") as folder:
            Path(folder).chmod(0o755)
            found.append({what: size} | alone(do, Path(folder), size, rounds))
        print(f"{what}: {found[-1]}", file=sys.stderr, flush=True)
    return found


def alone(do: Callable[..., dict[str, float]], *arguments: object) -> dict[str, float]:
    """What `do` returns in a process of its own, with that one's `peak_bytes` unless it says so itself."""
    # Spawned: a fork would begin with all that this process holds.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_with_peak, (do, arguments))


def _with_peak(do: Callable[..., dict[str, float]], arguments: Sequence[object]) -> dict[str, float]:
    found = do(*arguments)
    return {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024} | found


def imported() -> dict[str, float]:
    """A process with golden's commands in it that does nothing."""
    argv = [sys.executable, "-m", "builder", "--version"]
    return {"peak_bytes": command_peak(argv, dict(os.environ))}


def command_peak(argv: Sequence[str], environment: dict[str, str]) -> int:
    """The peak RSS of one command that runs no others. Source: getrusage(2), "ru_maxrss", in KiB."""
    with subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(argv)} ended with {process.returncode}")
    return used.ru_maxrss * 1024


def planned(folder: Path, size: int, rounds: int) -> dict[str, float]:
    found = plan.measure(folder, size, rounds=rounds, image_bytes=256 * plan.KIB)
    # As plan.seconds, where no program can be reached.
    environment = os.environ | {
        "GOLDEN_FILE": str(folder / "golden.toml"),
        "GOLDEN_STATE": str(folder / "state"),
        "PATH": "/nowhere",
    }
    peak = command_peak([sys.executable, "-m", "builder", "plan", "--json"], environment)
    return {"seconds": float(str(found["nothing changed, s"])), "peak_bytes": peak}


def published(folder: Path, size: int, rounds: int) -> dict[str, float]:
    openpgp.make_key(folder / "signing.asc", name="benchmark")
    with openpgp.opened(Signing(file=folder / "signing.asc")) as signer:
        assert signer is not None
        found = publish.one(folder / "channel", size, large_mib=1, rounds=rounds, signer=signer)
    return {"seconds": found["publish_s"]}


def cloned(folder: Path, count: int, rounds: int) -> dict[str, float]:
    store = Store(folder, "demo")
    add_chain(store, *CHAIN)
    source = clones.locate(CHAIN[-1], None, images=Path("/no/images"), builds=store)
    made_s, removed_s, size = [], [], 0
    with connect() as connection:
        for _ in range(rounds):
            orders = [
                clones.Order(
                    name=f"growth-{os.getpid()}-{number}",
                    source=source,
                    memory_mib=64,
                    cpus=1,
                    accelerator="tcg",
                    key=None,
                )
                for number in range(count)
            ]
            begin = time.monotonic()
            made = clones.make(orders, state=folder, connection=connection, reporter=Reporter("quiet"))
            made_s.append(time.monotonic() - begin)
            size = sum(taken(clones.directory(folder, lease.name)) for lease in made)
            begin = time.monotonic()
            for lease in made:
                clones.destroy(lease.name, state=folder, connection=connection)
            removed_s.append(time.monotonic() - begin)
    return {
        "seconds": round(statistics.median(made_s), 3),
        "removed_s": round(statistics.median(removed_s), 3),
        "disk_bytes": size,
    }


PARTS = (("plans", "images"), ("publishes", "rpms"), ("clones", "clones"))


def plot(found: dict[str, Any], target: Path) -> None:
    """Time and memory over size."""
    with figure(target, (10, 4), ncols=2) as (_, axes):
        titles = {"plans": "plan, of images", "publishes": "publish, into RPMs", "clones": "make clones"}
        for axis, key, scale, label in (
            (axes[0], "seconds", 1, "s"),
            (axes[1], "peak_bytes", MIB, "peak of golden's own memory, MiB"),
        ):
            for part, what in PARTS:
                sizes = [row[what] for row in found[part]]
                axis.plot(sizes, [row[key] / scale for row in found[part]], "o-", label=titles[part])
            axis.set_xscale("log")
            axis.set_ylim(bottom=0)
            axis.set_xlabel("how many")
            axis.set_ylabel(label)
            axis.grid(alpha=0.3)
        axes[0].legend()


def section(found: dict[str, Any]) -> dict[str, Any]:
    """For docs/benchmarks.md, see page.py."""

    def memory(row: dict[str, Any]) -> str:
        return f"{row['peak_bytes'] / MIB:.0f}"

    clones_head = ["clones", "made, s", "removed, s", "on the disk, MiB", "memory, MiB"]
    return {
        "title": "Growth",
        "about": f"""
A plan in which nothing changed, of the projects of "Plans"; one more image into the signed channels of "Publishing";
clones of a small image on two others, none started. Medians of {found["rounds"]}. Memory is the peak of golden's own
process (RSS); one that only says its version has {found["imported_bytes"] / MIB:.0f} MiB.""",
        "tables": [
            {
                "head": ["images in the project", "plan, s", "memory, MiB"],
                "rows": [[row["images"], f"{row['seconds']:.2f}", memory(row)] for row in found["plans"]],
            },
            {
                "head": ["RPMs in the channel", "publish, s", "memory, MiB"],
                "rows": [[row["rpms"], f"{row['seconds']:.2f}", memory(row)] for row in found["publishes"]],
            },
            {
                "head": clones_head,
                "rows": [
                    [
                        row["clones"],
                        f"{row['seconds']:.2f}",
                        f"{row['removed_s']:.2f}",
                        f"{row['disk_bytes'] / MIB:.1f}",
                        memory(row),
                    ]
                    for row in found["clones"]
                ],
            },
        ],
        "plots": ["benchmarks-growth.svg"],
        "notes": " ".join(ratio(found[part], what) for part, what in PARTS),
    }


def ratio(rows: list[dict[str, Any]], what: str) -> str:
    """The largest against the smallest."""
    small, large = rows[0], rows[-1]
    label = what.replace("rpms", "RPMs")
    return (
        f"{large[what]} {label} against {small[what]}: {times(large['seconds'], small['seconds'])} the time, "
        f"{times(large['peak_bytes'], small['peak_bytes'])} the memory."
    )


if __name__ == "__main__":
    sys.exit(main())

"""Boots of chains of depth 1 to 5 and of the deepest one as one file, for benchmarks/depth.py.

The sandbox's base, and four layers on it, each of which writes anew another fifth of the files below /usr: what a guest
reads when it boots is spread over all of them, which no usual layer does. golden builds and flattens them.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.clones import Bench
from benchmarks.conditions import Run
from benchmarks.golden import Golden
from benchmarks.small_layers import with_own_updates
from builder import clones
from builder.tools.libvirt import connect
from builder.units import MIB

DEPTHS = (1, 2, 3, 4, 5)
# New files in the place of the old ones, with their attributes; those that are open stay what they are. By one tar and
# not one cp for each: thousands of processes take minutes without KVM.
REWRITE = (
    "cd /usr && find . -xdev -type f -links 1 | LC_ALL=C sort | awk 'NR % {parts} == {part}' | "
    "tar --xattrs --verbatim-files-from -T - -cf - | tar --xattrs --unlink-first -xpf -"
)
IMAGE = """
[image.sandbox-deep-{depth}]
parent = "{parent}"
steps = [{{ run = ['''{command}'''] }}]
"""


def boots(file: Path, state: Path, *, rounds: int, run: Run) -> dict[str, Any]:
    """Seconds from nothing to the answer on SSH of clones of each depth and of the flat one, in turn.

    file, state: a sandbox's, with its base built. Nothing is left of what is built here. run: whose work this is.
    """
    with tempfile.TemporaryDirectory(prefix="golden-depth-", dir="/var/tmp") as name:
        folder = Path(name)
        file = with_layers(file, folder)
        own = folder / "state"
        run.owns(own)
        subprocess.run(["cp", "-a", "--reflink=auto", state, own], check=True)
        golden = Golden(file, own)
        golden("build", f"sandbox-deep-{DEPTHS[-1]}")
        golden("flatten", f"sandbox-deep-{DEPTHS[-1]}")
        subjects = {f"depth {depth}": Bench(file, own, image_of(depth)) for depth in DEPTHS}
        subjects["flat"] = Bench(file, own, f"sandbox-deep-{DEPTHS[-1]}-flat")
        seconds: dict[str, list[float]] = {subject: [] for subject in subjects}
        with connect() as connection:
            for bench in subjects.values():
                # The image's files are read once, so that their digests are known and they are in the host's cache.
                order = [bench.order("first")]
                with clones.running(order, state=own, connection=connection, boot_timeout_s=None):
                    pass
            for number in range(rounds):
                for subject, bench in subjects.items():
                    limit_s = clones.BOOT_TIMEOUT_S * bench.accelerator.time_factor
                    took = bench.start(
                        connection, f"{subject.replace(' ', '-')}-{number}", limit_s=limit_s, is_cold=True
                    )
                    seconds[subject].append(took)
                    print(f"{subject}: {took:.1f} s", file=sys.stderr, flush=True)
        sizes = {subject: bench.source.file.stat().st_size / MIB for subject, bench in subjects.items()}
        return {
            "accelerator": subjects["flat"].accelerator.kind,
            "rounds": rounds,
            "seconds": seconds,
            "median_s": {subject: round(statistics.median(times), 2) for subject, times in seconds.items()},
            "file_mib": {subject: round(size, 1) for subject, size in sizes.items()},
        }


def image_of(depth: int) -> str:
    return "sandbox-base" if depth == 1 else f"sandbox-deep-{depth}"


def with_layers(file: Path, folder: Path) -> Path:
    """The sandbox's project in `folder`, with the layers in it."""
    file = with_own_updates(file, folder)
    with file.open("a", encoding="utf-8") as stream:
        for depth in DEPTHS[1:]:
            command = REWRITE.format(parts=len(DEPTHS), part=depth - 1)
            stream.write(IMAGE.format(depth=depth, parent=image_of(depth - 1), command=command))
    return file

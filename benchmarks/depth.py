"""What does the depth of a chain cost a reader? Chains of 1 to 5 layers against the same disk in one file.

    PYTHONPATH=. python3 benchmarks/depth.py --file golden.toml --state STATE --output docs/benchmarks-depth.json

Makes real qcow2 chains below --work: a base with data, and layers that each rewrite a part of it, compressed with zstd
as golden ships them. Then reads all of them in turn, round after round, so that a busy moment of the machine hits
every one alike; medians and the fastest rounds are reported. Three readers: boot-like (bursts of reads in a row at
scattered places, as a starting guest does), 4 KiB at random, `qemu-img bench`, and the whole disk. With --file and
--state, a sandbox's, real guests are booted, too, --boots times each, on the chains of benchmarks/depth_boots.py: that
takes 3 minutes to build them without KVM, and 2 for each round.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.conditions import Run
from benchmarks.depth_boots import boots
from benchmarks.results import figure, leave, times
from builder.run import Argv, query

KIB, MIB = 1024, 1024**2
DEPTHS = (1, 2, 3, 4, 5)
FIRST_SEED = 20261121
# The unit of the made-up data, half of it incompressible: about what a guest's files are on the whole.
BLOCK = 64 * KIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"), help="where the chains are made and removed")
    parser.add_argument("--disk-mib", type=int, default=1024, help="data in the base")
    parser.add_argument("--layer-mib", type=int, default=128, help="data in each layer above it")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--file", type=Path, help="the sandbox's golden.toml, for boots")
    parser.add_argument("--state", type=Path, help="golden's state directory, with the sandbox's base built")
    parser.add_argument("--boots", type=int, default=3, help="of each chain")
    parser.add_argument("--output", type=Path, help="write the JSON here, too, and a plot beside it (needs matplotlib)")
    options = parser.parse_args()
    if (options.file is None) is not (options.state is None):
        parser.error("--file and --state go together")
    run, more = Run(), {}
    with tempfile.TemporaryDirectory(prefix="golden-depth-", dir=options.work) as folder:
        found = measure(Path(folder), options)
    if options.file is not None:
        found["boots"] = boots(options.file.absolute(), options.state.absolute(), rounds=options.boots, run=run)
        more = {"accelerator": found["boots"]["accelerator"]}
    leave(found | run.said(**more), options.output, plot=plot)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    tops = make_chain(folder, disk_mib=options.disk_mib, layer_mib=options.layer_mib)
    subjects = {f"depth {depth}": tops[depth] for depth in DEPTHS}
    subjects["flat"] = flatten(tops[DEPTHS[-1]], folder / "flat.qcow2")
    readers = {
        "boot-like": boot_like(options.disk_mib * MIB),
        "random 4 KiB": random_reads(options.disk_mib * MIB),
        "qemu-img bench": bench(options.disk_mib * MIB),
        "whole disk": whole,
    }
    seconds: dict[str, dict[str, list[float]]] = {reader: {subject: [] for subject in subjects} for reader in readers}
    for number in range(options.rounds + 1):
        for reader, read in readers.items():
            for subject, disk in subjects.items():
                begin = time.monotonic()
                read(disk)
                if number:  # the first round only warms the host's cache
                    seconds[reader][subject].append(time.monotonic() - begin)
        print(f"round {number} of {options.rounds}", file=sys.stderr)
    return {
        "qemu": query(["qemu-img", "--version"], why="ask for the version").splitlines()[0],
        "disk_mib": options.disk_mib,
        "layer_mib": options.layer_mib,
        "rounds": options.rounds,
        "bytes": {subject: chain_bytes(disk) for subject, disk in subjects.items()},
        "median_s": {
            reader: {subject: round(statistics.median(times), 4) for subject, times in row.items()}
            for reader, row in seconds.items()
        },
        "fastest_s": {
            reader: {subject: round(min(times), 4) for subject, times in row.items()} for reader, row in seconds.items()
        },
        "slowest_s": {
            reader: {subject: round(max(times), 4) for subject, times in row.items()} for reader, row in seconds.items()
        },
    }


def make_chain(folder: Path, *, disk_mib: int, layer_mib: int) -> dict[int, Path]:
    """Depth -> the top of the chain of so many layers; a longer one stands on the shorter."""
    tops: dict[int, Path] = {}
    chance = random.Random(FIRST_SEED)
    for depth in DEPTHS:
        raw = folder / "layer.raw"
        blocks = disk_mib * MIB // BLOCK
        share = blocks if depth == 1 else layer_mib * MIB // BLOCK
        plain, top = folder / f"plain-{depth}.qcow2", folder / f"layer-{depth}.qcow2"
        if depth == 1:
            with raw.open("wb") as stream:
                for _ in range(share):
                    stream.write(block(chance))
            convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", "-o", ZSTD, raw, top]
            query(convert, why="make the base", timeout_s=600)
        else:
            below = tops[depth - 1]
            query(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", below.name, plain], why="overlay")
            write_blocks(plain, raw, chance, share=share, blocks=blocks)
            convert = ["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", "-c", "-o", ZSTD, "-B", below.name]
            query([*convert, "-F", "qcow2", plain, top], why="compress a layer", timeout_s=600)
            plain.unlink()
        raw.unlink()
        tops[depth] = top
    return tops


ZSTD = "compression_type=zstd,cluster_size=64k"


def block(chance: random.Random) -> bytes:
    return chance.randbytes(BLOCK // 2) + bytes(BLOCK // 2)


def write_blocks(disk: Path, raw: Path, chance: random.Random, *, share: int, blocks: int) -> None:
    """Rewrite `share` blocks in runs of a megabyte, anywhere on the disk."""
    run = MIB // BLOCK
    raw.write_bytes(b"".join(block(chance) for _ in range(run)))
    starts = chance.sample(range(0, blocks, run), share // run)
    words = [word for start in starts for word in ("-c", f"write -q -s {raw} {start * BLOCK} {MIB}")]
    query(["qemu-io", "-f", "qcow2", *words, disk], why="write to a layer", timeout_s=600)


def flatten(top: Path, target: Path) -> Path:
    argv: Argv = ["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", "-c", "-o", ZSTD, top, target]
    query(argv, why="flatten", timeout_s=600)
    return target


def boot_like(size_bytes: int) -> Callable[[Path], None]:
    """About 200 MiB in some 3000 requests: bursts of 4 to 256 KiB in a row, each burst somewhere else."""
    chance = random.Random(FIRST_SEED + 1)
    reads = []
    for _ in range(300):
        at = chance.randrange(0, size_bytes - 4 * MIB, 4 * KIB)
        for _ in range(10):
            length = chance.choice((4, 16, 32, 64, 128, 256)) * KIB
            reads.append((at, length))
            at += length
    return lambda disk: read_all(disk, reads)


def random_reads(size_bytes: int) -> Callable[[Path], None]:
    chance = random.Random(FIRST_SEED + 2)
    reads = [(chance.randrange(0, size_bytes, 4 * KIB), 4 * KIB) for _ in range(3000)]
    return lambda disk: read_all(disk, reads)


def read_all(disk: Path, reads: list[tuple[int, int]]) -> None:
    words = [word for at, length in reads for word in ("-c", f"read -q {at} {length}")]
    query(["qemu-io", "-r", "-f", "qcow2", *words, disk], why="read", timeout_s=600)


def bench(size_bytes: int) -> Callable[[Path], None]:
    """`qemu-img bench` reads the disk from its beginning to its end, 64 KiB at a time, 8 requests at once."""
    words = ["-f", "qcow2", "-c", str(size_bytes // BLOCK), "-d", "8", "-s", str(BLOCK)]

    def read(disk: Path) -> None:
        query(["qemu-img", "bench", *words, disk], why="read", timeout_s=600)

    return read


def whole(disk: Path) -> None:
    query(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", "-n", disk, "null-co://"], why="read", timeout_s=600)


def chain_bytes(disk: Path) -> int:
    answer = query(["qemu-img", "info", "--output=json", "--backing-chain", disk], why="look at a chain")
    return sum(link["actual-size"] for link in json.loads(answer))


def all_medians(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Of the readers, and of boots if there were any."""
    boot = {"boot to SSH": found["boots"]["median_s"]} if "boots" in found else {}
    return {**found["median_s"], **boot}


def plot(found: dict[str, Any], target: Path) -> None:
    """Each reader, and boots if there were any, as a share of what the flat file takes."""
    rows = all_medians(found)
    with figure(target, (8, 4)) as (_, axis):
        for name, row in rows.items():
            axis.plot(list(row), [seconds / row["flat"] for seconds in row.values()], "o-", label=name)
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_ylim(bottom=0)
        axis.set_ylabel("median, of the flat file's")
        axis.legend()
        axis.grid(alpha=0.3)


def section(found: dict[str, Any]) -> dict[str, Any]:
    """For docs/benchmarks.md, see page.py. Fastest rounds beside medians: in them the machine had least else to do."""
    sizes = found["bytes"]
    rows = [["on the disk, MiB", *(f"{size / MIB:.0f}" for size in sizes.values())]]
    for reader, row in found["median_s"].items():
        fastest = found["fastest_s"][reader]
        rows.append([f"{reader}, s", *(f"{median:.2f} ({fastest[subject]:.2f})" for subject, median in row.items())])
    deepest = list(sizes)[-2]
    ratios = ", ".join(f"{name} {times(row[deepest], row['flat'])}" for name, row in all_medians(found).items())
    tables = [{"title": "Median, and the fastest round in brackets", "head": ["", *sizes], "rows": rows}]
    is_booted, booted = "boots" in found, "The time of a boot is not measured here."
    if is_booted:
        tables.append(_boots_table(found["boots"]))
        booted = """

The boots are those of the sandbox's base and of four layers on it, each of which wrote another fifth of the files below
/usr anew, so that a boot reads from all of them; to the answer on SSH, in turn."""
    bench = " `qemu-img bench`: 64 KiB at a time, 8 at once." if "qemu-img bench" in found["median_s"] else ""
    return {
        "title": "Depth of a chain",
        "about": f"""
Real qcow2 files as golden ships them (zstd, 64 KiB clusters; {found["qemu"]}): a base with {found["disk_mib"]}
MiB of data; each layer above rewrites {found["layer_mib"]} MiB anywhere on the disk in runs of 1 MiB; half of
all bytes are incompressible. "flat" is the chain of {deepest} as one file. All are read in turn,
{found["rounds"]} rounds, with the host's cache warm. Boot-like: 300 bursts of 10 reads in a row, 4 to 256 KiB
each.{bench} Every reader is a process of its own, whose start is in the numbers. {booted}""",
        "tables": tables,
        "plots": ["benchmarks-depth.svg"] if bench else [],
        "notes": f"Flat saves {(sizes[deepest] - sizes['flat']) / MIB:.0f} MiB here: blocks that a layer above "
        f"replaced, on purpose many.\n\nThe chain of {deepest} takes, of the flat file's time, by the medians: "
        f"{ratios}.",
    }


def _boots_table(found: dict[str, Any]) -> dict[str, Any]:
    return {
        "title": f"From nothing to the answer on SSH, {found['accelerator']}, {found['rounds']} of each",
        "head": ["", *found["seconds"]],
        "rows": [
            ["this file, MiB", *found["file_mib"].values()],
            ["median, s", *found["median_s"].values()],
            ["fastest, s", *(min(times) for times in found["seconds"].values())],
        ],
    }


if __name__ == "__main__":
    main()

"""Seventy clones against seventy full copies, warm starts against cold ones, and a pool, on this host.

    python benchmarks/clones.py --file golden.toml --state STATE --image sandbox-upgrade --starts 10 --json result.json

Makes 70 clones of a built image, not started, and measures time and room on the disk. The copies are computed from one
that is measured: a whole copy of the image's chain is made by qemu-img, and removed. --starts N: boots N clones one
after the other, saves the image's memory, and lets N clones go on from it; 0 leaves that out. About 40 s for each boot
without KVM. Then a few that went on from memory are on at once, and what they take of the host's is read; and clones
of a pool are taken.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.conditions import Run
from benchmarks.disk import taken
from benchmarks.results import figure, leave, times
from builder import clones
from builder.clones import pools, ready, warm
from builder.config import load
from builder.preflight.kvm import accelerator
from builder.progress import Reporter
from builder.store import Store
from builder.tools.libvirt import Connection, connect
from builder.units import MIB

CLONES, ON_AT_ONCE, TAKEN = 70, 4, 4
# What the project promises.
LIMIT_S, LIMIT_BYTES, WARM_PART = 5.0, MIB, 15


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, required=True, help="the golden.toml")
    parser.add_argument("--state", type=Path, required=True, help="golden's state directory, with the image built")
    parser.add_argument("--image", default="sandbox-upgrade")
    parser.add_argument("--starts", type=int, default=5, help="how many cold and how many warm starts")
    parser.add_argument("--json", type=Path, help="write the result here, and a plot beside it (needs matplotlib)")
    arguments = parser.parse_args()
    run = Run(arguments.state.absolute())
    bench = Bench(arguments.file.absolute(), arguments.state.absolute(), arguments.image)
    with connect() as connection:
        result = {"image": bench.source.build.stem} | bench.seventy(connection)
        if arguments.starts:
            result |= bench.starts(connection, count=arguments.starts) | bench.at_once(connection)
            result |= bench.pool(connection)
        versions = connection.versions()
    result |= run.said(accelerator=bench.accelerator.kind, **versions)
    leave(result, arguments.json, plot=plot if arguments.starts else None)
    return 0 if is_kept(result) else 1


def is_kept(result: dict[str, Any]) -> bool:
    is_small = result["made_s"] < LIMIT_S and result["largest_clone_bytes"] < LIMIT_BYTES
    return is_small and result.get("warm_p50_s", 0) <= result.get("cold_p50_s", 0) / WARM_PART


class Bench:
    def __init__(self, file: Path, state: Path, image: str) -> None:
        project = load(file)
        self.state = state
        self.name = project.name
        self.key = project.ssh_key
        self.source = clones.locate(image, None, images=Path("/no/images"), builds=Store(state, project.name))
        self.accelerator = accelerator(state, reporter=Reporter("quiet"))

    def order(self, name: str) -> clones.Order:
        build = self.source.build
        return clones.Order(
            name=f"bench-{os.getpid()}-{name}",
            source=self.source,
            memory_mib=build.memory_mib,
            cpus=build.cpus,
            accelerator=self.accelerator.kind_for(build.arch),
            key=self.key,
            owner=clones.this_process(),
        )

    def seventy(self, connection: Connection) -> dict[str, Any]:
        orders = [self.order(str(number)) for number in range(CLONES)]
        quiet = Reporter("quiet")
        # The digests of the image's files are remembered after the first clone, as on any host that has made one.
        with clones.running([self.order("first")], state=self.state, connection=connection, boot_timeout_s=None):
            pass
        begin = time.monotonic()
        made = clones.make(orders, state=self.state, connection=connection, reporter=quiet)
        made_s = time.monotonic() - begin
        try:
            sizes = [taken(clones.directory(self.state, lease.name)) for lease in made]
        finally:
            begin = time.monotonic()
            for lease in made:
                clones.destroy(lease.name, state=self.state, connection=connection)
        removed_s = time.monotonic() - begin
        copy_bytes, copy_s = self.copy()
        return {
            "clones": CLONES,
            "made_s": round(made_s, 2),
            "removed_s": round(removed_s, 2),
            "clones_bytes": sum(sizes),
            "largest_clone_bytes": max(sizes),
            "one_copy_bytes": copy_bytes,
            "one_copy_s": round(copy_s, 2),
            "copies_bytes_computed": CLONES * copy_bytes,
            "copies_s_computed": round(CLONES * copy_s, 1),
        }

    def copy(self) -> tuple[int, float]:
        """Bytes and seconds of one whole, uncompressed copy of the chain: what a machine of its own would be."""
        with tempfile.TemporaryDirectory(dir=self.state) as folder:
            target = Path(folder) / "copy.qcow2"
            begin = time.monotonic()
            argv = ["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", self.source.file, target]
            subprocess.run(argv, check=True)
            return taken(target), time.monotonic() - begin

    def starts(self, connection: Connection, *, count: int) -> dict[str, Any]:
        limit_s = clones.BOOT_TIMEOUT_S * self.accelerator.time_factor
        cold = [self.start(connection, f"cold-{n}", limit_s=limit_s, is_cold=True) for n in range(count)]
        memory, _ = warm.prepare(
            self.order("warm"),
            state=self.state,
            connection=connection,
            reporter=Reporter("quiet"),
            boot_timeout_s=limit_s,
        )
        warmed = [self.start(connection, f"warm-{n}", limit_s=limit_s, is_cold=False) for n in range(count)]
        return {
            "cold_s": cold,
            "warm_s": warmed,
            "cold_p50_s": statistics.median(cold),
            "cold_p95_s": p95(cold),
            "warm_p50_s": statistics.median(warmed),
            "warm_p95_s": p95(warmed),
            "memory_bytes": memory.size_bytes,
        }

    def start(self, connection: Connection, name: str, *, limit_s: float, is_cold: bool) -> float:
        """Seconds from nothing to the answer on SSH: made, started, waited for."""
        begin = time.monotonic()
        lease, _ = clones.create(
            self.order(name),
            state=self.state,
            connection=connection,
            reporter=Reporter("quiet"),
            is_full=False,
            boot_timeout_s=limit_s,
            is_cold=is_cold,
        )
        seconds = round(time.monotonic() - begin, 2)
        clones.destroy(lease.name, state=self.state, connection=connection)
        if (lease.warm is None) is not is_cold:
            raise RuntimeError(f"{name} did not start as it was to")
        return seconds

    def at_once(self, connection: Connection) -> dict[str, Any]:
        """Several on at once that went on from one memory: what they declare, and what they take of the host's."""
        orders = [self.order(f"on-{number}") for number in range(ON_AT_ONCE)]
        limit_s = clones.BOOT_TIMEOUT_S * self.accelerator.time_factor
        with clones.running(orders, state=self.state, connection=connection, boot_timeout_s=limit_s) as made:
            sizes = [proportional_bytes(lease.domain_name) for lease in made]
        return {
            "on_at_once": ON_AT_ONCE,
            "declared_mib": orders[0].memory_mib,
            "proportional_bytes": sizes,
            "seventy_bytes_computed": CLONES * round(statistics.mean(sizes)),
        }

    def pool(self, connection: Connection) -> dict[str, Any]:
        """Clones taken from a pool: seconds from the order to the lease, and to the answer on SSH."""
        order = self.order("taker")
        wanted = pools.Pool(
            image=self.source.build.image,
            images=Path("/no/images"),
            project=self.name,
            ready=TAKEN,
            accelerator=order.accelerator,
            key=self.key,
        )
        factor = self.accelerator.time_factor
        more: dict[str, Any] = {"state": self.state, "connection": connection}
        taken_s, answered_s = [], []
        try:
            pools.declare(wanted, state=self.state)
            pools.fill(wanted.name, reporter=Reporter("quiet"), time_factor=factor, **more)
            for _ in range(TAKEN):
                begin = time.monotonic()
                found = ready.take(order, **more)
                taken_s.append(round(time.monotonic() - begin, 3))
                if found is None:
                    raise RuntimeError("the pool is empty")
                clones.wait(found[0], timeout_s=60 * factor, note=lambda _: None, is_up=True, **more)
                answered_s.append(round(time.monotonic() - begin, 3))
                clones.destroy(found[0].name, **more)
        finally:
            pools.declare(wanted.model_copy(update={"ready": 0}), state=self.state)
            pools.fill(wanted.name, reporter=Reporter("quiet"), time_factor=factor, **more)
        return {"pool_taken_s": taken_s, "pool_answered_s": answered_s}


def proportional_bytes(domain: str) -> int:
    """Of QEMU's process: pages that several share count in parts. Source: proc_pid_smaps(5), "Pss"."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"guest={domain}," in (process / "cmdline").read_text(errors="replace"):
                lines = (process / "smaps_rollup").read_text().splitlines()
                return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    raise RuntimeError(f"{domain} is not on")


def p95(values: Sequence[float]) -> float:
    """The value that 95 of 100 do not exceed; of few values the largest."""
    return sorted(values)[min(len(values) - 1, round(0.95 * (len(values) - 1)))]


def plot(found: dict[str, Any], target: Path) -> None:
    """Each start as a point, and the medians; room on the disk, clones against copies."""
    with figure(target, (10, 4), ncols=2) as (made, (starts, room)):
        kinds = {"boot": "cold_s", "go on from memory": "warm_s", "taken from a pool": "pool_answered_s"}
        for number, key in enumerate(kinds.values()):
            starts.plot([number] * len(found[key]), found[key], "o", alpha=0.6)
            starts.hlines(statistics.median(found[key]), number - 0.3, number + 0.3, color="black")
        starts.set_xticks(range(len(kinds)), kinds)
        starts.set_yscale("log")
        starts.set_ylabel("until it answers on SSH, s")
        starts.grid(alpha=0.3, axis="y")
        bars = {"clones": found["clones_bytes"] / MIB, "copies": found["copies_bytes_computed"] / MIB}
        room.bar(list(bars), list(bars.values()))
        room.set_yscale("log")
        room.set_ylabel(f"{found['clones']} of them on the disk, MiB")
        for number, (value, key) in enumerate(zip(bars.values(), ("made_s", "copies_s_computed"), strict=True)):
            room.annotate(f"{value:.0f} MiB, made in {found[key]:.1f} s", (number, value), ha="center", va="bottom")
        made.suptitle(f"{found['image']}, {found['machine']['accelerator']}", fontsize=9)


def section(found: dict[str, Any]) -> dict[str, Any]:
    """For docs/benchmarks.md, see page.py."""
    count, largest_kib = found["clones"], found["largest_clone_bytes"] / 1024
    tables: list[dict[str, Any]] = [
        {
            "head": ["", f"{count} clones (measured)", f"{count} copies (computed from one)"],
            "rows": [
                ["time to make, s", f"{found['made_s']:.1f}", f"{found['copies_s_computed']:.0f}"],
                [
                    "on the disk, MiB",
                    f"{found['clones_bytes'] / MIB:.0f} ({largest_kib:.0f} KiB the largest)",
                    f"{found['copies_bytes_computed'] / MIB:.0f} ({found['one_copy_bytes'] / MIB:.0f} each)",
                ],
                ["time to remove, s", f"{found['removed_s']:.1f}", ""],
            ],
        }
    ]
    if "warm_p50_s" in found:
        tables.append(
            {
                "title": "From nothing to the answer on SSH",
                "head": ["", "starts", "median, s", "95 of 100 within, s"],
                "rows": [
                    [kind, len(found[f"{kind}_s"]), found[f"{kind}_p50_s"], found[f"{kind}_p95_s"]]
                    for kind in ("cold", "warm")
                ],
            }
        )
    if "pool_taken_s" in found:
        rows = [
            [what, len(found[key]), f"{statistics.median(found[key]):.2f}", f"{max(found[key]):.2f}"]
            for what, key in (("taken", "pool_taken_s"), ("taken, and answered on SSH", "pool_answered_s"))
        ]
        tables.append({"title": "From a pool", "head": ["", "clones", "median, s", "slowest, s"], "rows": rows})
        each, declared_mib = statistics.mean(found["proportional_bytes"]) / MIB, found["declared_mib"]
        tables.append(
            {
                "title": f"Memory of the host, {found['on_at_once']} on at once that went on from memory",
                "head": ["", "each, MiB", f"{count} (computed), MiB"],
                "rows": [
                    ["declared", declared_mib, count * declared_mib],
                    ["taken, shared pages in parts", f"{each:.0f}", f"{count * each:.0f}"],
                ],
            }
        )
    return {
        "title": "Clones",
        "about": f"""
{count} clones of {found["image"]}, not started, against as many whole copies of it. The copies are computed
from one that was made and measured. The script fails if the clones take {LIMIT_S:.0f} s or more, one takes
{LIMIT_BYTES // MIB} MiB or more, or the median warm start more than 1/{WARM_PART} of the median cold one.""",
        "tables": tables,
        "plots": ["benchmarks-clones.svg"] if "pool_taken_s" in found else [],
        "notes": notes(found),
    }


def notes(found: dict[str, Any]) -> str:
    """Ratios, and whether this run was within the limits."""
    made, room = (
        times(found[copies], found[clones])
        for copies, clones in (("copies_s_computed", "made_s"), ("copies_bytes_computed", "clones_bytes"))
    )
    said = f"Copies take {made} the time and {room} the room of clones (computed)."
    if "warm_p50_s" in found:
        said += f" A cold start takes {times(found['cold_p50_s'], found['warm_p50_s'])} a warm one, of the medians"
    if "pool_answered_s" in found:
        said += f", and {times(found['cold_p50_s'], statistics.median(found['pool_answered_s']))} one from a pool"
    limits = {
        f"{found['clones']} clones in less than {LIMIT_S:.0f} s": found["made_s"] < LIMIT_S,
        f"less than {LIMIT_BYTES // MIB} MiB for each": found["largest_clone_bytes"] < LIMIT_BYTES,
    }
    if "warm_p50_s" in found:
        limits[f"a warm start in 1/{WARM_PART} of a cold one"] = found["warm_p50_s"] <= found["cold_p50_s"] / WARM_PART
    kept = "; ".join(f"{limit}: {'kept' if is_so else 'not kept'}" for limit, is_so in limits.items())
    return f"{said.rstrip('.')}.\n\nLimits, and this run: {kept}."


if __name__ == "__main__":
    sys.exit(main())

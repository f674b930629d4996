"""Seventy clones against seventy full copies, and warm starts against cold ones, on this host.

    python benchmarks/clones.py --file golden.toml --state STATE --image sandbox-upgrade --starts 10 --json result.json

Makes 70 clones of a built image, not started, and measures time and room on the disk. The copies are computed from one
that is measured: a whole copy of the image's chain is made by qemu-img, and removed. --starts N: boots N clones one
after the other, saves the image's memory, and lets N clones go on from it; 0 leaves that out. About 40 s for each boot
without KVM.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from builder import clones
from builder.clones import warm
from builder.config import load
from builder.preflight import accelerator
from builder.progress import Reporter
from builder.store import Store
from builder.tools.libvirt import Connection, connect
from builder.units import MIB

CLONES = 70
# What the project promises.
LIMIT_S, LIMIT_BYTES, WARM_PART = 5.0, MIB, 15


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, required=True, help="the golden.toml")
    parser.add_argument("--state", type=Path, required=True, help="golden's state directory, with the image built")
    parser.add_argument("--image", default="sandbox-upgrade")
    parser.add_argument("--starts", type=int, default=5, help="how many cold and how many warm starts")
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()
    bench = Bench(arguments.file.absolute(), arguments.state.absolute(), arguments.image)
    with connect() as connection:
        result = bench.host(connection) | bench.seventy(connection)
        if arguments.starts:
            result |= bench.starts(connection, count=arguments.starts)
    text = json.dumps(result, indent=2)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0 if is_kept(result) else 1


def is_kept(result: dict[str, Any]) -> bool:
    is_small = result["made_s"] < LIMIT_S and result["largest_clone_bytes"] < LIMIT_BYTES
    return is_small and result.get("warm_p50_s", 0) <= result.get("cold_p50_s", 0) / WARM_PART


class Bench:
    def __init__(self, file: Path, state: Path, image: str) -> None:
        project = load(file)
        self.state = state
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

    def host(self, connection: Connection) -> dict[str, Any]:
        return {
            "made": f"{datetime.now(UTC):%Y-%m-%d}",
            "image": self.source.build.stem,
            "processors": os.cpu_count(),
            "kernel": platform.release(),
            "accelerator": self.accelerator.kind,
            **connection.versions(),
        }

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
            return target.stat().st_blocks * 512, time.monotonic() - begin

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


def taken(folder: Path) -> int:
    """Bytes on the disk, blocks that are there alone."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


def p95(values: Sequence[float]) -> float:
    """The value that 95 of 100 do not exceed; of few values the largest."""
    return sorted(values)[min(len(values) - 1, round(0.95 * (len(values) - 1)))]


def section(found: dict[str, Any]) -> dict[str, Any]:
    """For docs/benchmarks.md, see page.py."""
    machine = f"{found['processors']} processors, Linux {found['kernel']}, {found['accelerator']}"
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
    return {
        "title": "Clones",
        "when": found["made"],
        "machine": f"{machine}, QEMU {found['qemu']}, libvirt {found['libvirt']}",
        "command": "PYTHONPATH=. python3 benchmarks/clones.py --file golden.toml --state STATE "
        f"--starts {len(found.get('cold_s', ()))} --json docs/benchmarks-clones.json",
        "about": f"""
{count} clones of {found["image"]}, not started, against as many whole copies of it. The copies are computed
from one that was made and measured. The script fails if the clones take {LIMIT_S:.0f} s or more, one takes
{LIMIT_BYTES // MIB} MiB or more, or the median warm start more than 1/{WARM_PART} of the median cold one.""",
        "tables": tables,
    }


if __name__ == "__main__":
    sys.exit(main())

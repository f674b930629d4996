"""What one more image costs a channel that has 10, 100 or 1000 RPMs: golden's way, and createrepo_c over all of it.

    PYTHONPATH=. python3 benchmarks/publish.py --json docs/benchmarks-publish.json

Each channel is made of the two RPMs of each of many small images and of one base whose image has --large MiB, all
signed. Then one more image is published and signed, --rounds times. Beside it stands what is commonly done: copy the
RPMs to a folder, createrepo_c over all of it. Takes 3 minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.conditions import Run, own_s
from benchmarks.results import figure, leave, times
from builder import channels
from builder.channels import compose, publication
from builder.package import package
from builder.progress import Reporter
from builder.publication import Signing
from builder.store import Store
from builder.tools import createrepo, openpgp
from builder.tools.openpgp import Signer
from builder.units import MIB
from tests.builds import add_build

URL = "http://mirror.example/golden"
# What a publication does for each RPM that is there already: name -> module and function. None is part of another.
PARTS: dict[str, tuple[Any, str]] = {
    "read": (createrepo, "read"),
    "write": (createrepo, "write"),
    "link": (compose, "_link_all"),
    "complete": (publication, "need_complete"),
}
SPEC = """
Name: golden-{name}
Version: 1
Release: 1
Summary: Benchmark
License: none
BuildArch: noarch
AutoReqProv: no
%description
%files
"""
# As golden's own: a capability, an exact requirement, a file.
PACKAGE = """
%package -n golden-many-{number}-image-20261101.1
Summary: Benchmark
AutoReqProv: no
Provides: golden-image-id(golden-many-{number}-image-20261101.1-1-1:{digest})
%description -n golden-many-{number}-image-20261101.1
%files -n golden-many-{number}-image-20261101.1
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000], help="RPMs in the channel before")
    parser.add_argument("--large", type=int, default=256, help="MiB of the one large image among them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the result here, and a plot beside it (needs matplotlib)")
    arguments = parser.parse_args()
    run = Run()
    with tempfile.TemporaryDirectory(prefix="golden-publish-", dir="/var/tmp") as folder:
        result = measure(Path(folder), arguments.sizes, large_mib=arguments.large, rounds=arguments.rounds)
    leave(result | run.said(), arguments.json, plot=plot)


def measure(folder: Path, sizes: list[int], *, large_mib: int, rounds: int) -> dict[str, Any]:
    openpgp.make_key(folder / "signing.asc", name="benchmark")
    found = []
    with openpgp.opened(Signing(file=folder / "signing.asc")) as signer:
        assert signer is not None
        for size in sizes:
            found.append(one(folder / str(size), size, large_mib=large_mib, rounds=rounds, signer=signer))
            shutil.rmtree(folder / str(size))
    return {
        "large_mib": large_mib,
        "rounds": rounds,
        "channels": found,
    }


def one(folder: Path, size: int, *, large_mib: int, rounds: int, signer: Signer) -> dict[str, Any]:
    folder.mkdir()
    store, quiet = Store(folder, "demo"), Reporter("quiet")
    large = folder / "large"
    large.mkdir()
    many = made(folder / "many", size - 1, large_mib=large_mib, signer=signer)
    channels.publish(store, "candidate", many, url=URL, signer=signer)
    seconds, processor, new_bytes = [], [], 0
    parts: dict[str, list[float]] = {name: [] for name in PARTS}
    last: list[Path] = []
    for number in range(rounds):
        build = add_build(store, "sandbox-base", version=f"20261121.{number + 1}")
        (packaged,) = package(store, [build], prefix="golden", reporter=quiet, signer=signer)
        last = [packaged.image_rpm, packaged.link_rpm]
        new_bytes = sum(path.stat().st_size for path in last)
        begin, used = time.monotonic(), own_s()
        with clocked(parts):
            channels.publish(store, "candidate", last, url=URL, signer=signer)
        seconds.append(time.monotonic() - begin)
        processor.append(own_s() - used)
    begin = time.monotonic()
    channels.publish(store, "candidate", last, url=URL, signer=signer)
    nothing = time.monotonic() - begin
    plain = folder / "plain"
    plain.mkdir()
    for path in (*many, *last):
        os.link(path, plain / path.name)
    begin = time.monotonic()
    subprocess.run(["createrepo_c", "--quiet", plain], check=True)
    full = time.monotonic() - begin
    return {
        "rpms_before": size,
        "new_rpms": 2,
        "new_bytes": new_bytes,
        "publish_s": round(statistics.median(seconds), 3),
        "publish_fastest_s": round(min(seconds), 3),
        "publish_processor_s": round(min(processor), 3),
        "parts_processor_s": {name: round(min(used), 4) for name, used in parts.items()},
        "nothing_new_s": round(nothing, 3),
        "createrepo_c_full_s": round(full, 3),
    }


@contextlib.contextmanager
def clocked(parts: dict[str, list[float]]) -> Iterator[None]:
    """Adds the processor time of each of PARTS within the block."""
    with contextlib.ExitStack() as stack:
        for name, (module, function) in PARTS.items():
            stack.enter_context(mock.patch.object(module, function, clock(getattr(module, function), parts[name])))
        yield


def clock(function: Callable[..., Any], used: list[float]) -> Callable[..., Any]:
    def measured(*arguments: Any, **more: Any) -> Any:
        begin = own_s()
        try:
            return function(*arguments, **more)
        finally:
            used.append(own_s() - begin)

    return measured


def made(folder: Path, count: int, *, large_mib: int, signer: Signer) -> list[Path]:
    """`count` signed RPMs by one rpmbuild, the first with `large_mib` MiB that do not compress."""
    folder.mkdir()
    spec = folder / "many.spec"
    large = folder / "large.raw"
    with large.open("wb") as stream:
        for _ in range(large_mib):
            stream.write(os.urandom(MIB))
    text = "%global _binary_payload w1.zstdio\n" + SPEC.format(name="many").replace("%files\n", "")
    text += f"%install\nmkdir -p %{{buildroot}}/images\nln {large} %{{buildroot}}/images/large\n%files\n/images\n"
    text += "".join(PACKAGE.format(number=number, digest=f"{number:064x}") for number in range(1, count))
    spec.write_text(text, encoding="utf-8")
    argv = ["rpmbuild", "-bb", "--quiet", "--define", f"_topdir {folder}", str(spec)]
    subprocess.run(argv, check=True, capture_output=True)
    found = sorted((folder / "RPMS").rglob("*.rpm"))
    assert len(found) == count, len(found)
    define = [
        *("--define", f"_gpg_name {signer.fingerprint}"),
        *("--define", f"_gpg_path {signer.home}"),
        *("--define", f"__gpg {shutil.which('gpg')}"),
    ]
    for at in range(0, count, 200):
        subprocess.run(["rpmsign", *define, "--addsign", *found[at : at + 200]], check=True, capture_output=True)
    return found


def section(found: dict[str, Any]) -> dict[str, Any]:
    """For docs/benchmarks.md, see page.py."""
    small, *_, large = found["channels"]
    each_ms = 1000 * (large["publish_processor_s"] - small["publish_processor_s"])
    each_ms /= large["rpms_before"] - small["rpms_before"]
    parts_ms = {
        name: 1000 * (used - small["parts_processor_s"][name]) / (large["rpms_before"] - small["rpms_before"])
        for name, used in large["parts_processor_s"].items()
    }
    link_ms = parts_ms["link"] * large["rpms_before"]
    return {
        "title": "Publishing",
        "about": f"""
One more image, two RPMs of {found["channels"][0]["new_bytes"] / 1024:.0f} KiB, into a signed channel; beside it
createrepo_c over all of it, as it is commonly done. The RPMs that are there are empty but for one of
{found["large_mib"]} MiB.""",
        "tables": [
            {
                "title": f"Fastest of {found['rounds']}, median in brackets",
                "head": [
                    "RPMs in the channel",
                    "publish, s",
                    "of processors, s",
                    "nothing new, s",
                    "createrepo_c, all, s",
                ],
                "rows": [
                    [
                        row["rpms_before"],
                        f"{row['publish_fastest_s']:.2f} ({row['publish_s']:.2f})",
                        f"{row['publish_processor_s']:.3f}",
                        f"{row['nothing_new_s']:.2f}",
                        f"{row['createrepo_c_full_s']:.2f}",
                    ]
                    for row in found["channels"]
                ],
            }
        ],
        "plots": ["benchmarks-publish.svg"],
        "notes": f"""
{large["rpms_before"]} RPMs against {small["rpms_before"]}:
{times(large["publish_s"], small["publish_s"])} the time, and
{times(large["publish_processor_s"], small["publish_processor_s"])} that of processors; createrepo_c over all of
{large["rpms_before"]}: {times(large["createrepo_c_full_s"], large["publish_s"])} golden's, by the medians.

No RPM that is there is read or signed again. What is left of a channel's size is its metadata and one hard link a
file: {each_ms:.3f} ms of a processor for each RPM. createrepo_c reads every RPM.

Of that, {parts_ms["read"]:.3f} ms are for reading the metadata of the compose before, {parts_ms["write"]:.3f} for
writing it as XML and compressing that, {parts_ms["link"]:.3f} for the link, and {parts_ms["complete"]:.3f} for seeing
that no requirement is missing. dnf wants one list of all packages, so the first two cannot follow what is new alone.
The link could, if composes shared a folder of RPMs; then none would be whole by itself, and none could be removed
without a look at all others, to save {link_ms:.0f} ms with {large["rpms_before"]} RPMs.""",
    }


def plot(found: dict[str, Any], target: Path) -> None:
    """Time over the RPMs that are there."""
    lines = {
        "publish, median": "publish_s",
        "of it, of processors": "publish_processor_s",
        "nothing new": "nothing_new_s",
        "createrepo_c over all": "createrepo_c_full_s",
    }
    with figure(target, (6, 4)) as (_, axis):
        sizes = [row["rpms_before"] for row in found["channels"]]
        for label, key in lines.items():
            axis.plot(sizes, [row[key] for row in found["channels"]], "o-", label=label)
        axis.set_xscale("log")
        axis.set_ylim(bottom=0)
        axis.set_xlabel("RPMs in the channel")
        axis.set_ylabel("s")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)


if __name__ == "__main__":
    main()

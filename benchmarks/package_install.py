"""A layer from its qcow2 to a client's disk: golden's way, and four others, with the same qcow2 in one run.

    PYTHONPATH=. python3 benchmarks/package_install.py --json docs/benchmarks-package-install.json

The layer holds --size MiB of this machine's own programs and libraries, as an installed system does, from block to
block.

* golden: a qcow2 with zstd in 64 KiB clusters, as it seals when it builds; from there: RPMs with payload zstd 1,
  signed, into a signed channel, dnf over http into an empty root.
* an RPM with xz -9: the one of many specs. The qcow2 as it is, `%define _binary_payload w9.xzdio`, createrepo_c over
  the folder, nothing signed, the same dnf.
* virt-builder's: `xz --best --block-size=16777216` of the raw disk and its SHA-512, as virt-builder(1) says templates
  are made; curl over http, sha512sum, unxz with as many threads as there are processors.
* qemu-img and rsync: `qemu-img convert -c`, then rsync from its daemon on 127.0.0.1, which compares checksums itself.
* the floor: SHA-256 and a copy of the same bytes, once the plain qcow2's and once the sealed one's. Nothing is forced
  to the disk.

What arrives is compared with what was sent, by SHA-256, outside the time. Beside the seconds that passed are those
that processors were busy for it, which say more on a machine with other work. A network of 1 Gbit/s is computed: the
seconds that passed, and the bytes that travel at 125 MB/s, one after the other, as if nothing of both were at once.
Ways that use xz run once, since they take minutes; the others --rounds times, in turn. Fails if golden is less than 20
times as fast as the RPM with xz -9 on that network. As root. 30 minutes on 2 processors, nearly all of it xz, on one
of them.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.conditions import Run, timed
from benchmarks.results import figure, leave
from builder import channels
from builder.channels import client_config
from builder.model import Build
from builder.package import package
from builder.progress import Reporter
from builder.publication import Signing
from builder.store import Store, sha256, write_atomically
from builder.tools import dnf, openpgp, qcow2
from builder.tools.openpgp import Signer
from builder.tools.webserver import serving
from builder.units import MIB
from tests.builds import make_build

# What the project promises against an RPM with xz -9, at 1 Gbit/s.
FACTOR, NETWORK_BYTES_S = 20, 125_000_000
BLOCK_BYTES = 16 * MIB  # of xz, as virt-builder(1) says

SPEC = """\
%global _binary_payload w9.xzdio
%global __os_install_post %{{nil}}
Name: golden-plain-base
Version: 1
Release: 1
Summary: A layer as many specs ship it
License: none
BuildArch: noarch
AutoReqProv: no
%description
A qcow2.
%install
mkdir -p %{{buildroot}}/usr/share/plain
cp {image} %{{buildroot}}/usr/share/plain/base.qcow2
%files
/usr/share/plain/base.qcow2
"""

DAEMON = """\
use chroot = no
port = {port}
address = 127.0.0.1
pid file = {folder}/rsyncd.pid
lock file = {folder}/rsyncd.lock
[images]
path = {folder}
uid = {uid}
gid = {gid}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="MiB of data in the layer")
    parser.add_argument("--rounds", type=int, default=3, help="of the ways without xz")
    parser.add_argument("--json", type=Path, help="write the result here, and a plot beside it (needs matplotlib)")
    arguments = parser.parse_args()
    run = Run()
    with tempfile.TemporaryDirectory(prefix="golden-package-", dir="/var/tmp") as folder:
        result = measure(Path(folder), arguments.size, rounds=arguments.rounds) | run.said()
    leave(result, arguments.json, plot=plot)
    return 0 if result["times_faster_at_1_gbit"] >= FACTOR else 1


def measure(folder: Path, size_mib: int, *, rounds: int) -> dict[str, Any]:
    raw, plain, sealed = folder / "layer.raw", folder / "plain.qcow2", folder / "sealed.qcow2"
    fill(raw, size_mib)
    convert(raw, plain)
    options = ["-c", "-W", "-o", "compression_type=zstd,cluster_size=64k"]
    seal = timed(lambda: convert(plain, sealed, *options))
    ways: dict[str, list[dict[str, Any]]] = {}

    def run(name: str, do: Callable[[Path], dict[str, Any]]) -> None:
        own = folder / "way"
        own.mkdir()
        found = do(own)
        shutil.rmtree(own)
        ways.setdefault(name, []).append(found)
        print(f"{name}: {found['total_s']:.1f} s, {found['bytes'] / MIB:.0f} MiB", file=sys.stderr, flush=True)

    for _ in range(rounds):
        run("golden", lambda own: golden_way(own, sealed))
        run("rsync", lambda own: rsync_way(own, plain))
        run("floor", lambda own: floor(own, plain))
        run("floor_sealed", lambda own: floor(own, sealed))
    run("virt_builder", lambda own: virt_builder_way(own, raw))
    run("spec_with_xz9", lambda own: spec_way(own, plain))
    found: dict[str, Any] = {name: middle(runs) for name, runs in ways.items()}
    ours, theirs = found["golden"], found["spec_with_xz9"]
    return {
        "layer_mib": size_mib,
        "plain_qcow2_bytes": plain.stat().st_size,
        "rounds": rounds,
        "seal_s": round(seal[0], 2),
        "seal_processor_s": round(seal[1], 2),
        "ways": found,
        "times_faster": round(theirs["total_s"] / ours["total_s"], 1),
        "times_faster_at_1_gbit": round(theirs["at_1_gbit_s"] / ours["at_1_gbit_s"], 1),
        "times_faster_at_1_gbit_with_sealing": round(theirs["at_1_gbit_s"] / (ours["at_1_gbit_s"] + seal[0]), 1),
    }


def fill(raw: Path, size_mib: int) -> None:
    """The files of /usr one after the other, each from a block of 4 KiB on, as in a file system; again if too few."""
    left = size_mib * MIB
    with raw.open("wb") as out:
        while left > 0:
            for path in sorted(Path("/usr").rglob("*")):
                if left <= 0:
                    break
                if path.is_symlink() or not path.is_file():
                    continue
                data = path.read_bytes()[:left]
                out.write(data + b"\0" * (-len(data) % 4096))
                left -= len(data) + -len(data) % 4096
    os.truncate(raw, size_mib * MIB)


def convert(source: Path, target: Path, *options: str) -> None:
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", *options, source, target], check=True)


def golden_way(folder: Path, sealed: Path) -> dict[str, Any]:
    store = Store(folder / "state", "demo")
    build = sealed_build(store, sealed)
    openpgp.make_key(folder / "signing.asc", name="benchmark")
    with openpgp.opened(Signing(file=folder / "signing.asc")) as signer:
        assert signer is not None
        rpms: list[Path] = []
        times = {
            "prepare": timed(lambda: rpms.extend(packed(store, build, signer))),
            "publish": timed(lambda: channels.publish(store, "candidate", rpms, url="http://x.example", signer=signer)),
        }
        with serving(store.channels) as server:
            config = folder / "golden.repo"
            config.write_text(
                client_config(
                    "candidate", prefix="golden", project="demo", url=server.url, fingerprint=signer.fingerprint
                )
            )
            times["install"] = install(folder, config, "golden-demo-base")
    installed = folder / "root/usr/share/golden/images" / store.qcow2(build).name
    assert sha256(installed) == build.id.sha256
    assert qcow2.chain(installed)
    return result(times, installed, travels=sum(path.stat().st_size for path in rpms))


def sealed_build(store: Store, sealed: Path) -> Build:
    """As `golden build` leaves it in the store; a link, so that it costs nothing."""
    store.images.mkdir(parents=True)
    disk = store.images / "demo-base-20261121.1.qcow2"
    sealed.chmod(0o444)
    os.link(sealed, disk)
    packages = disk.with_suffix(".packages")
    packages.write_text("bash-0:5.1-1.x86_64\n")
    build: Build = make_build("demo-base", version="20261121.1", digest=sha256(disk), size_bytes=disk.stat().st_size)
    build = build.model_copy(update={"packages_sha256": hashlib.sha256(packages.read_bytes()).hexdigest()})
    write_atomically(store.facts(build), build.model_dump_json() + "\n", mode=0o444)
    return build


def packed(store: Store, build: Build, signer: Signer) -> list[Path]:
    (made,) = package(store, [build], prefix="golden", reporter=Reporter("quiet"), signer=signer)
    return [made.image_rpm, made.link_rpm]


def spec_way(folder: Path, plain: Path) -> dict[str, Any]:
    spec, topdir, repository = folder / "plain.spec", folder / "rpmbuild", folder / "repository"
    spec.write_text(SPEC.format(image=plain))
    argv = ["rpmbuild", "-bb", "--define", f"_topdir {topdir}", str(spec)]
    times = {"prepare": timed(lambda: subprocess.run(argv, check=True, capture_output=True))}
    (rpm,) = (topdir / "RPMS").rglob("*.rpm")

    def publish() -> None:
        repository.mkdir()
        shutil.copy(rpm, repository)
        subprocess.run(["createrepo_c", "--quiet", repository], check=True)

    times["publish"] = timed(publish)
    with serving(repository) as server:
        config = folder / "plain.repo"
        config.write_text(f"[plain]\nname=plain\nbaseurl={server.url}\ngpgcheck=0\n")
        times["install"] = install(folder, config, "golden-plain-base")
    installed = folder / "root/usr/share/plain/base.qcow2"
    assert sha256(installed) == sha256(plain)
    return result(times, installed, travels=rpm.stat().st_size)


def install(folder: Path, config: Path, name: str) -> tuple[float, float]:
    return timed(
        lambda: dnf.install_into_root(
            [name], root=folder / "root", repo_file=config, cache=folder / "cache", log=folder / "dnf.log"
        )
    )


def virt_builder_way(folder: Path, raw: Path) -> dict[str, Any]:
    served, client = folder / "served", folder / "client"
    served.mkdir()
    client.mkdir()
    template, arrived, installed = served / "base.xz", client / "base.xz", client / "base.raw"
    xz = ["xz", "--best", f"--block-size={BLOCK_BYTES}", "--threads=1", "--stdout", raw]

    def prepare() -> None:
        with template.open("wb") as out:
            subprocess.run(xz, check=True, stdout=out)

    def publish() -> None:
        with (served / "sums").open("wb") as out:
            subprocess.run(["sha512sum", "base.xz"], check=True, stdout=out, cwd=served)

    times = {"prepare": timed(prepare), "publish": timed(publish)}
    with serving(served) as server:

        def fetch() -> None:
            for name in ("sums", "base.xz"):
                subprocess.run(["curl", "--fail", "--silent", "-o", client / name, f"{server.url}/{name}"], check=True)
            subprocess.run(["sha512sum", "--check", "--quiet", "sums"], check=True, cwd=client)
            with installed.open("wb") as out:
                subprocess.run(["xz", "--decompress", "--threads=0", "--stdout", arrived], check=True, stdout=out)

        times["install"] = timed(fetch)
    assert sha256(installed) == sha256(raw)
    return result(times, installed, travels=template.stat().st_size)


def rsync_way(folder: Path, plain: Path) -> dict[str, Any]:
    served, installed = folder / "served", folder / "client.qcow2"
    served.mkdir()
    image = served / "base.qcow2"
    times = {"prepare": timed(lambda: convert(plain, image, "-c"))}
    with rsync_daemon(served) as url:
        argv = ["rsync", f"{url}/{image.name}", installed]
        times["install"] = timed(lambda: subprocess.run(argv, check=True))
    assert sha256(installed) == sha256(image)
    return result(times, installed, travels=image.stat().st_size)


@contextlib.contextmanager
def rsync_daemon(folder: Path) -> Iterator[str]:
    """The address of `folder`, served by a daemon of its own on a port that was free."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folder / "rsyncd.conf"
    config.write_text(DAEMON.format(port=port, folder=folder, uid=os.getuid(), gid=os.getgid()))
    url = f"rsync://127.0.0.1:{port}/images"
    with subprocess.Popen(["rsync", "--daemon", "--no-detach", f"--config={config}"]) as daemon:
        try:
            while subprocess.run(["rsync", url + "/"], capture_output=True).returncode:
                if daemon.poll() is not None:
                    sys.exit(f"rsync's daemon ended with {daemon.returncode}")
                time.sleep(0.1)
            yield url
        finally:
            daemon.terminate()


def floor(folder: Path, image: Path) -> dict[str, Any]:
    installed = folder / "copy"
    times = {"prepare": timed(lambda: sha256(image)), "install": timed(lambda: shutil.copyfile(image, installed))}
    return result(times, installed, travels=image.stat().st_size)


def result(times: dict[str, tuple[float, float]], installed: Path, *, travels: int) -> dict[str, Any]:
    total = sum(passed for passed, _ in times.values())
    return {
        **{f"{step}_s": round(passed, 2) for step, (passed, _) in times.items()},
        **{f"{step}_processor_s": round(busy, 2) for step, (_, busy) in times.items()},
        "total_s": round(total, 2),
        "total_processor_s": round(sum(busy for _, busy in times.values()), 2),
        "at_1_gbit_s": round(total + travels / NETWORK_BYTES_S, 2),
        "bytes": travels,
        "installed_bytes": installed.stat().st_size,
    }


def middle(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The run whose total is the median (of an even number, the slower one), whole, so that its parts add up."""
    total = statistics.median_high(run["total_s"] for run in runs)
    return next(run for run in runs if run["total_s"] == total) | {"runs_s": [run["total_s"] for run in runs]}


NAMES = {
    "golden": "golden",
    "spec_with_xz9": "RPM with xz -9",
    "virt_builder": "virt-builder's xz",
    "rsync": "convert -c, rsync",
    "floor": "floor: SHA-256, copy",
    "floor_sealed": "the same, sealed",
}


def section(found: dict[str, Any]) -> dict[str, Any]:
    """For docs/benchmarks.md, see page.py."""
    ways, plain_mib = found["ways"], found["plain_qcow2_bytes"] / MIB
    steps = ("prepare_s", "publish_s", "install_s", "total_s", "total_processor_s", "at_1_gbit_s")
    return {
        "title": "From a layer to a client's disk",
        "about": f"""
{found["layer_mib"]} MiB of the machine's own programs and libraries in a qcow2 ({plain_mib:.0f} MiB), from there to a
client's disk on loopback, and what arrived compared. golden: the qcow2 that it sealed with zstd, RPMs with payload zstd
1, a channel, all of it signed, dnf over http into an empty root. RPM with xz -9: the plain qcow2, `w9.xzdio`,
createrepo_c over the folder, nothing signed, the same dnf. virt-builder's: `xz --best --block-size={BLOCK_BYTES}` of
the raw disk and its SHA-512; curl, sha512sum, xz with all processors. Then `qemu-img convert -c` and rsync from its
daemon. The floor: SHA-256 and a copy of the plain qcow2, and of the sealed one.

1 Gbit/s is computed: the time that passed here, and what travels at 125 MB/s, one after the other. The ways with xz
ran once, the others {found["rounds"]} times in turn: here is the run with the median.""",
        "tables": [
            {
                "head": [
                    *("", "prepare, s", "publish, s", "fetch and install, s", "together, s", "of processors, s"),
                    *("at 1 Gbit/s (computed), s", "travels, MiB", "installed, MiB"),
                ],
                "rows": [
                    [
                        name,
                        *(f"{ways[way][step]:.1f}" if step in ways[way] else "" for step in steps),
                        *(f"{ways[way][size] / MIB:.0f}" for size in ("bytes", "installed_bytes")),
                    ]
                    for way, name in NAMES.items()
                ],
            }
        ],
        "plots": ["benchmarks-package-install.svg"],
        "notes": f"golden is {found['times_faster_at_1_gbit']} times as fast as the RPM with xz -9 at 1 Gbit/s "
        f"(computed), {found['times_faster']} times on loopback. The seal, which compresses the qcow2 when the image "
        f"is built, took {found['seal_s']:.1f} s more: with it, {found['times_faster_at_1_gbit_with_sealing']} times. "
        f"Other work kept {found['others_processors']} processors busy meanwhile, which not all ways met alike: the "
        "seconds of processors are those of each way alone.",
    }


def plot(found: dict[str, Any], target: Path) -> None:
    """The time of each way by its parts, and what travels."""
    with figure(target, (11, 4), ncols=2, sharey=True) as (_, (times, sizes)):
        ways = {name: found["ways"][way] for way, name in reversed(NAMES.items())}
        totals = [way["at_1_gbit_s"] for way in ways.values()]
        for at, (bar, total) in enumerate(zip(times.barh(list(ways), totals), totals, strict=True)):
            times.annotate(f" {total:.1f} s", (bar.get_width(), at), va="center")
        times.set_xscale("log")
        times.set_xlim(right=max(totals) * 8)  # room for the words
        times.set_xlabel("to the client's disk at 1 Gbit/s (computed), s")
        sizes.barh(list(ways), [way["bytes"] / MIB for way in ways.values()])
        sizes.set_xlabel("travels, MiB")


if __name__ == "__main__":
    sys.exit(main())

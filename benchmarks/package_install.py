"""A layer from its qcow2 to a client's disk: package, publish, dnf install; golden's way, and a spec with xz -9.

    PYTHONPATH=. python3 benchmarks/package_install.py --json docs/benchmarks-package-install.json

The layer holds --size MiB of this machine's own programs and libraries, as an installed system does, from block to
block. golden ships it as it seals: a qcow2 with zstd in 64 KiB clusters, payload zstd 1, signed, into a signed channel.
The other way is the one of many specs: the qcow2 as it is, `%define _binary_payload w9.xzdio`, createrepo_c, no
signatures. Both are installed by the real dnf over http on loopback into an empty root; what is installed is compared
with what was packed. Beside the seconds that passed are those that processors were busy for it, which say more on a
machine with other work. As root. 20 minutes on 2 processors, nearly all of it xz.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from builder import channels
from builder.channels import client_config
from builder.model import Build
from builder.package import package
from builder.progress import Reporter
from builder.publication import Signing
from builder.store import Store, sha256, write_atomically
from builder.tools import dnf, openpgp, qemu_img
from builder.tools.webserver import serving
from builder.units import MIB
from tests.builds import make_build

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="MiB of data in the layer")
    parser.add_argument("--limit", type=float, help="seconds after which xz is stopped: the rest is then a lower bound")
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="golden-package-", dir="/var/tmp") as folder:
        result = measure(Path(folder), arguments.size, limit_s=arguments.limit)
    text = json.dumps(result, indent=2)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    print(text)


def measure(folder: Path, size_mib: int, *, limit_s: float | None) -> dict[str, Any]:
    raw = folder / "layer.raw"
    fill(raw, size_mib)
    plain = folder / "plain.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, plain], check=True)
    ours = golden_way(folder, plain)
    theirs = spec_way(folder, plain, limit_s=limit_s)
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processors": os.cpu_count(), "kernel": platform.release()},
        "layer_mib": size_mib,
        "plain_qcow2_bytes": plain.stat().st_size,
        "golden": ours,
        "spec_with_xz9": theirs,
        "times_faster": round(theirs["total_s"] / ours["total_s"], 1),
        "times_faster_with_sealing": round(theirs["total_s"] / (ours["total_s"] + ours["seal_s"]), 1),
        "is_lower_bound": "stopped_after_s" in theirs,
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


def golden_way(folder: Path, plain: Path) -> dict[str, Any]:
    store, quiet, times = Store(folder / "state", "demo"), Reporter("quiet"), {}
    store.images.mkdir(parents=True)
    disk = store.images / "demo-base-20261121.1.qcow2"
    options = ["-c", "-W", "-o", "compression_type=zstd,cluster_size=64k"]
    times["seal"] = timed(
        lambda: subprocess.run(["qemu-img", "convert", "-O", "qcow2", *options, plain, disk], check=True)
    )
    disk.chmod(0o444)
    packages = disk.with_suffix(".packages")
    packages.write_text("bash-0:5.1-1.x86_64\n")
    build: Build = make_build("demo-base", version="20261121.1", digest=sha256(disk), size_bytes=disk.stat().st_size)
    build = build.model_copy(update={"packages_sha256": hashlib.sha256(packages.read_bytes()).hexdigest()})
    write_atomically(store.facts(build), build.model_dump_json() + "\n", mode=0o444)
    openpgp.make_key(folder / "signing.asc", name="benchmark")
    with openpgp.opened(Signing(file=folder / "signing.asc")) as signer:
        assert signer is not None
        rpms: list[Path] = []

        def pack() -> None:
            (made,) = package(store, [build], prefix="golden", reporter=quiet, signer=signer)
            rpms.extend((made.image_rpm, made.link_rpm))

        times["package"] = timed(pack)
        times["publish"] = timed(
            lambda: channels.publish(store, "candidate", rpms, url="http://x.example", signer=signer)
        )
        with serving(store.channels) as server:
            config = folder / "golden.repo"
            config.write_text(
                client_config(
                    "candidate", prefix="golden", project="demo", url=server.url, fingerprint=signer.fingerprint
                )
            )
            times["dnf_install"] = install(folder / "ours", config, "golden-demo-base")
    installed = folder / "ours/root/usr/share/golden/images" / disk.name
    assert sha256(installed) == build.id.sha256
    assert qemu_img.chain(installed)
    found = result(times, rpms[0].stat().st_size, installed)
    shutil.rmtree(folder / "ours")
    return found


def spec_way(folder: Path, plain: Path, *, limit_s: float | None) -> dict[str, Any]:
    spec, topdir, times = folder / "plain.spec", folder / "rpmbuild", {}
    spec.write_text(SPEC.format(image=plain))
    argv = ["rpmbuild", "-bb", "--define", f"_topdir {topdir}", str(spec)]
    try:
        times["package"] = timed(lambda: subprocess.run(argv, check=True, capture_output=True, timeout=limit_s))
    except subprocess.TimeoutExpired:
        assert limit_s is not None
        return {"stopped_after_s": limit_s, "total_s": limit_s}
    (rpm,) = (topdir / "RPMS").rglob("*.rpm")
    repository = folder / "repository"

    def publish() -> None:
        repository.mkdir()
        shutil.copy(rpm, repository)
        subprocess.run(["createrepo_c", "--quiet", repository], check=True)

    times["publish"] = timed(publish)
    with serving(repository) as server:
        config = folder / "plain.repo"
        config.write_text(f"[plain]\nname=plain\nbaseurl={server.url}\ngpgcheck=0\n")
        times["dnf_install"] = install(folder / "theirs", config, "golden-plain-base")
    installed = folder / "theirs/root/usr/share/plain/base.qcow2"
    assert sha256(installed) == sha256(plain)
    return result(times, rpm.stat().st_size, installed)


def install(folder: Path, config: Path, name: str) -> tuple[float, float]:
    folder.mkdir()
    return timed(
        lambda: dnf.install_into_root(
            [name], root=folder / "root", repo_file=config, cache=folder / "cache", log=folder / "dnf.log"
        )
    )


def result(times: dict[str, tuple[float, float]], rpm_bytes: int, installed: Path) -> dict[str, Any]:
    steps = ("package", "publish", "dnf_install")
    return {
        **{f"{step}_s": passed for step, (passed, _) in times.items()},
        **{f"{step}_processor_s": busy for step, (_, busy) in times.items()},
        "total_s": round(sum(times[step][0] for step in steps), 2),
        "total_processor_s": round(sum(times[step][1] for step in steps), 2),
        "rpm_bytes": rpm_bytes,
        "installed_bytes": installed.stat().st_size,
    }


def timed(do: Callable[[], object]) -> tuple[float, float]:
    """Seconds that passed, and seconds of processors."""
    begin, busy = time.monotonic(), processor_s()
    do()
    return round(time.monotonic() - begin, 2), round(processor_s() - busy, 2)


def processor_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(it.ru_utime + it.ru_stime for it in used)


def section(found: dict[str, Any]) -> dict[str, Any]:
    """For docs/benchmarks.md, see page.py."""
    ours, theirs = found["golden"], found["spec_with_xz9"]
    steps = ("package_s", "publish_s", "dnf_install_s", "total_s", "total_processor_s")
    rows = [["golden", *(f"{ours[step]:.1f}" for step in steps), *_mib(ours)]]
    limit = ""
    if found["is_lower_bound"]:
        limit = f" --limit {theirs['stopped_after_s']:.0f}"
        over = f"over {theirs['stopped_after_s']:.0f}"
        rows.append(["spec with xz -9", over, "", "", over, "", "", ""])
        verdict = (
            f"xz was stopped, so that golden is at least {found['times_faster']} times as fast is a lower bound "
            f"({found['times_faster_with_sealing']} times with the seal); a run without `--limit` tells the rest."
        )
    else:
        rows.append(["spec with xz -9", *(f"{theirs[step]:.1f}" for step in steps), *_mib(theirs)])
        verdict = f"golden is {found['times_faster']} times as fast"
        verdict += f", {found['times_faster_with_sealing']} times with the seal."
    return {
        "title": "From a layer to a client's disk",
        "command": f"PYTHONPATH=. python3 benchmarks/package_install.py{limit} "
        "--json docs/benchmarks-package-install.json",
        "about": f"""
{found["layer_mib"]} MiB of the machine's own programs and libraries in a qcow2 ({
            found["plain_qcow2_bytes"]
            / MIB:.0f} MiB): packaged, published, installed by dnf over http on loopback into an empty root, the result
compared. golden: zstd in the qcow2, payload zstd 1, all of it signed. The other way: the plain qcow2,
`w9.xzdio`, createrepo_c, nothing signed.""",
        "tables": [
            {
                "head": [
                    *("", "package, s", "publish, s", "dnf install, s", "together, s", "of processors, s"),
                    *("RPM, MiB", "installed, MiB"),
                ],
                "rows": rows,
            }
        ],
        "notes": f"{verdict} The seal, which compresses the qcow2 when the image is built, took {ours['seal_s']:.1f} s "
        "more.",
    }


def _mib(way: dict[str, Any]) -> list[str]:
    return [f"{way[key] / MIB:.0f}" for key in ("rpm_bytes", "installed_bytes")]


if __name__ == "__main__":
    main()

"""How large an upgrade's layer is: golden's way and the plain virt-customize way, side by side, from the same parent.

    python benchmarks/small_layers.py --file golden.toml --state STATE --add-mib 0 128 --json result.json

Builds the image anew, and once more by hand as it is commonly done: an overlay, and on it
`virt-customize --run-command 'dnf upgrade'`. Both install the same packages from the same repository. New data are the
files of the packages that changed, as rpm knows their sizes in the finished guest. With --add-mib the repository has
one more update, of as many MiB that cannot be compressed. Takes 2 to 4 minutes for each size without KVM.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.conditions import Run
from benchmarks.disk import taken
from benchmarks.golden import Golden
from benchmarks.results import figure, leave, times
from builder.config import load
from builder.media import Repository
from builder.model import Project
from builder.preflight.kvm import accelerator
from builder.progress import Reporter
from builder.tools import guestfs
from builder.tools.webserver import serving
from builder.units import MIB

# What the project promises of a layer: 1.5 × the new data and 64 MiB.
FACTOR, ROOM_BYTES = 1.5, 64 * MIB


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, required=True, help="the golden.toml")
    parser.add_argument("--state", type=Path, required=True, help="golden's state directory, with the parent built")
    parser.add_argument("--image", default="sandbox-upgrade", help="an image whose only step is an upgrade")
    parser.add_argument(
        "--add-mib", type=int, nargs="+", default=[0], help="sizes of an update to add, one run for each"
    )
    parser.add_argument("--json", type=Path, help="write the result here, and a plot beside it (needs matplotlib)")
    arguments = parser.parse_args()
    run, state, layers = Run(arguments.state.absolute()), arguments.state.absolute(), []
    for mib in arguments.add_mib:
        with tempfile.TemporaryDirectory(prefix="golden-benchmark-", dir="/var/tmp") as folder:
            file = arguments.file.absolute()
            file = with_update(file, Path(folder), mib) if mib else file
            layers.append(measure(file, state, arguments.image) | {"add_mib": mib})
    kind = accelerator(state, reporter=Reporter("quiet")).kind
    result = {"image": arguments.image, "layers": layers} | run.said(accelerator=kind)
    leave(result, arguments.json, plot=plot)
    return 0 if is_kept(result) else 1


def is_kept(result: dict[str, Any]) -> bool:
    return all(layer["golden_bytes"] <= layer["limit_bytes"] for layer in result["layers"])


SPEC = """\
Name: sandbox-facts
Version: 99
Release: 1
Summary: An update of {mib} MiB
License: none
BuildArch: noarch
AutoReqProv: no
%description
For a benchmark.
%install
mkdir -p %{{buildroot}}/usr/share/sandbox-facts
head -c {mib}M /dev/urandom > %{{buildroot}}/usr/share/sandbox-facts/data
%files
/usr/share/sandbox-facts
"""


def with_update(file: Path, folder: Path, mib: int) -> Path:
    """The sandbox's project in `folder`, same images and parents, with a large update in a copy of its repository."""
    file = with_own_updates(file, folder)
    add_update(folder / "updates", folder, mib)
    return file


def with_own_updates(file: Path, folder: Path) -> Path:
    """The sandbox's project in `folder`, same images and parents, its repository of updates a copy."""
    folder.chmod(0o755)
    shutil.copytree(file.parent / "updates", folder / "updates")
    for name in ("sandbox.iso", "keys"):
        (folder / name).symlink_to((file.parent / name).resolve())
    shutil.copyfile(file, folder / file.name)
    return folder / file.name


def add_update(updates: Path, folder: Path, mib: int) -> None:
    """A newer one of a package that every sandbox has, in the repository `updates`. folder: for rpmbuild."""
    spec = folder / "update.spec"
    spec.write_text(SPEC.format(mib=mib))
    fast = ["--define", "_binary_payload w1.zstdio", "--define", f"_topdir {folder}/rpmbuild"]
    do(["rpmbuild", "--quiet", "-bb", *fast, "--define", f"_rpmdir {updates}/Packages", spec], dict(os.environ))
    do(["createrepo_c", "--quiet", updates], dict(os.environ))


def measure(file: Path, state: Path, image: str) -> dict[str, Any]:
    project = load(file)
    is_kvm = accelerator(state, reporter=Reporter("quiet")).kind == "kvm"
    environment = os.environ | guestfs.environment(is_kvm=is_kvm)
    golden = Golden(file, state)
    begin = time.monotonic()
    golden("build", "--rebuild", image)
    golden_s = time.monotonic() - begin
    built = golden.json("show", image)
    parent = built["parent"]
    below = golden.json("show", f"{parent['image']}@{parent['version']}")
    changes = golden.json("diff", image)["changes"]
    plain_bytes, plain_s = plain(project, image, Path(below["file"]), environment)
    names = [change["name"] for change in changes if change["after"]]
    new_bytes = size_of(names, Path(built["file"]), environment)
    return {
        "packages_changed": len(names),
        "new_data_bytes": new_bytes,
        "limit_bytes": int(FACTOR * new_bytes) + ROOM_BYTES,
        "golden_bytes": taken(Path(built["file"])),
        "plain_bytes": plain_bytes,
        "golden_s": round(golden_s, 1),
        "plain_s": round(plain_s, 1),
    }


def plain(project: Project, image: str, parent: Path, environment: dict[str, str]) -> tuple[int, float]:
    """An overlay and one virt-customize, nothing cleaned, nothing trimmed, nothing compressed: bytes, seconds."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="golden-benchmark-", dir="/var/tmp")))
        overlay = folder / "overlay.qcow2"
        words = [f"--repofrompath={name},{url}" for name, url in addresses(project.repositories(image), stack)]
        dnf = ["dnf", "-y", "--disablerepo=*", "--enablerepo=bench-*", "--nogpgcheck", *words, "upgrade"]
        begin = time.monotonic()
        do(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", parent, overlay], environment)
        command = " ".join(f"'{word}'" for word in dnf)
        do(["virt-customize", "--quiet", "-a", overlay, "--memsize", "1536", "--run-command", command], environment)
        return taken(overlay), time.monotonic() - begin


def addresses(repositories: Sequence[Repository], stack: contextlib.ExitStack) -> list[tuple[str, str]]:
    found = []
    for repository in repositories:
        url = repository.location
        if repository.folder is not None:
            port = stack.enter_context(serving(repository.folder)).port
            url = f"http://{guestfs.HOST}:{port}"
        found.append((f"bench-{repository.name}", url))
    return found


def size_of(packages: Sequence[str], image: Path, environment: dict[str, str]) -> int:
    """Bytes of the files of these packages (NAME.ARCH) in a finished image."""
    question = f"sh \"rpm -q --qf '%{{LONGSIZE}}\\\\n' {' '.join(packages)}\"\n"
    argv = ["guestfish", "--ro", "--format=qcow2", "-a", str(image), "-i"]
    answer = subprocess.run(argv, input=question, env=environment, check=True, capture_output=True, text=True)
    return sum(int(line) for line in answer.stdout.split() if line.isdigit())


def do(argv: Sequence[str | Path], environment: dict[str, str]) -> None:
    subprocess.run(argv, check=True, env=environment, stdout=sys.stderr)


def section(found: dict[str, Any]) -> dict[str, Any]:
    """For docs/benchmarks.md, see page.py."""
    return {
        "title": "Small layers",
        "about": """
An upgrade of the sandbox as golden makes it, against an overlay and `virt-customize --run-command 'dnf
upgrade'`, from the same parent and repository. New data are the files of the packages that changed, as rpm
knows their sizes. The script fails if golden's layer is larger than 1.5 × the new data and 64 MiB.""",
        "tables": [
            {
                "head": [
                    "packages",
                    "new data, MiB",
                    "limit, MiB",
                    "golden, MiB",
                    "plain, MiB",
                    "golden, s",
                    "plain, s",
                ],
                "rows": [
                    [
                        row["packages_changed"],
                        *(f"{row[f'{key}_bytes'] / MIB:.1f}" for key in ("new_data", "limit", "golden", "plain")),
                        *(f"{row[f'{key}_s']:.0f}" for key in ("golden", "plain")),
                    ]
                    for row in found["layers"]
                ],
            }
        ],
        "plots": ["benchmarks-small-layers.svg"],
        "notes": f"""
The plain way takes, of golden's room: {ratios(found, "plain_bytes", "golden_bytes")}. golden takes, of the plain way's
time: {ratios(found, "golden_s", "plain_s")}. golden's time has in it what the plain way leaves out: the verification of
the parent, the list of packages, cleaning, trimming, compression and checks. The limit was
{"kept" if is_kept(found) else "not kept"} in this run.""",
    }


def ratios(found: dict[str, Any], more: str, less: str) -> str:
    return ", ".join(
        f"{times(layer[more], layer[less])} with {layer['new_data_bytes'] / MIB:.1f} MiB of new data"
        for layer in found["layers"]
    )


def plot(found: dict[str, Any], target: Path) -> None:
    """Room and time of each, golden beside the plain way; the limit as a line."""
    with figure(target, (9, 4), ncols=2) as (_, (room, took)):
        layers = found["layers"]
        labels = [f"{layer['new_data_bytes'] / MIB:.1f} MiB of new data" for layer in layers]
        for at, way in ((-0.2, "golden"), (0.2, "plain")):
            where = [number + at for number in range(len(layers))]
            room.bar(where, [layer[f"{way}_bytes"] / MIB for layer in layers], 0.4, label=way)
            took.bar(where, [layer[f"{way}_s"] for layer in layers], 0.4, label=way)
        for number, layer in enumerate(layers):
            room.hlines(layer["limit_bytes"] / MIB, number - 0.4, number, color="black", label="limit" * (not number))
        room.set_ylabel("the layer, MiB")
        took.set_ylabel("s")
        for axis in (room, took):
            axis.set_xticks(range(len(layers)), labels)
        room.legend()


if __name__ == "__main__":
    sys.exit(main())

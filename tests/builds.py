"""Small builds to test with: facts alone, or a store of real qcow2 files, a few hundred KiB each."""

from __future__ import annotations

import json
import os
from pathlib import Path

from builder.model import Build, Distribution, Image, ImageId, Project
from builder.run import Argv, query
from builder.store import Store, sha256, write_atomically

VERSION = "20261121.1"

# The tree of the sandbox: child -> parent.
TREE = {
    "sandbox-base": None,
    "sandbox-upgrade": "sandbox-base",
    "sandbox-bootstrapped": "sandbox-upgrade",
    "sandbox-tools-installed": "sandbox-upgrade",
}


def make_build(
    image: str,
    *,
    version: str = VERSION,
    parent: ImageId | None = None,
    digest: str = "0" * 64,
    description: str = "",
    size_bytes: int = 1,
    packages_sha256: str = "0" * 64,
) -> Build:
    """The facts of a build; nothing is on disk."""
    return Build(
        id=ImageId(image=image, version=version, sha256=digest),
        parent=parent,
        distribution=image.partition("-")[0],
        description=description,
        key="k" * 64,
        inputs={},
        size_bytes=size_bytes,
        virtual_bytes=4 * 1024**2,
        packages=1,
        packages_sha256=packages_sha256,
        memory_mib=512,
        cpus=1,
        accelerator="tcg",
        started="2024-11-21T10:00:00+00:00",
        finished="2024-11-21T10:10:00+00:00",
        times=(),
        commands=(),
        tools={},
    )


def make_project(folder: Path, *, url: str = "http://127.0.0.1:8710") -> Project:
    """A project with the sandbox's tree; no file is written."""
    sandbox = Distribution(
        name="sandbox", title="Sandbox", kickstart_version="RHEL9", kickstart="el9.ks.j2", osinfo="rocky9"
    )
    images = {
        name: Image(name=name, distribution="sandbox", layer=name.partition("-")[2], parent=parent)
        for name, parent in TREE.items()
    }
    return Project(
        file=folder / "golden.toml",
        name="demo",
        prefix="golden",
        ssh_key=folder / "keys/id_ed25519",
        url=url,
        distributions={"sandbox": sandbox},
        images=images,
    )


def add_build(
    store: Store, image: str, *, version: str = VERSION, parent: Build | None = None, description: str = ""
) -> Build:
    """A build with a real qcow2 in the store: random data, over its parent's file if it has one."""
    store.images.mkdir(parents=True, exist_ok=True)
    stem = f"{image}-{version}"
    disk = store.images / f"{stem}.qcow2"
    if parent is None:
        raw = store.images / f".{stem}.raw"
        raw.write_bytes(os.urandom(128 * 1024))
        os.truncate(raw, 4 * 1024**2)
        _qemu_img("convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", raw, disk)
        raw.unlink()
    else:
        # A relative backing name: looked up beside the overlay, here as on the machine that installs it.
        _qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", store.qcow2(parent).name, disk)
        offset = 256 * 1024 * len(store.chain(parent))
        query(["qemu-io", "-c", f"write -q -P {os.urandom(1)[0]} {offset} 64k", disk], why="write to the overlay")
    disk.chmod(0o444)
    packages = store.images / f"{stem}.packages"
    write_atomically(packages, f"{stem}-marker-0:1-1.noarch\n", mode=0o444)
    build = make_build(
        image,
        version=version,
        parent=parent.id if parent else None,
        digest=sha256(disk),
        description=description,
        size_bytes=disk.stat().st_size,
        packages_sha256=sha256(packages),
    )
    write_atomically(store.facts(build), build.model_dump_json(indent=2) + "\n", mode=0o444)
    return build


def add_chain(store: Store, *images: str, version: str = VERSION) -> dict[str, Build]:
    """Builds of `images` (all of the tree by default, parents first) at one version, each on its parent's."""
    made: dict[str, Build] = {}
    for image in images or tuple(TREE):
        parent = TREE[image]
        made[image] = add_build(store, image, version=version, parent=made[parent] if parent else None)
    return made


def backing_chain(disk: Path) -> list[str]:
    """The file names of a disk's chain as qemu-img sees it, child first."""
    answer = _qemu_img("info", "--output=json", "--backing-chain", disk)
    return [Path(link["filename"]).name for link in json.loads(answer)]


def _qemu_img(*words: str | Path) -> str:
    argv: Argv = ["qemu-img", *words]
    return query(argv, why=f"run qemu-img {words[0]} for a test")


def verify_builds(store: Store, *builds: Build, passed: bool = True) -> Path:
    """The records of builds that were tested, as verifying writes them; returns the last one's file."""
    store.verified.mkdir(parents=True, exist_ok=True)
    for build in builds:
        record = {
            "image": build.image,
            "version": build.version,
            "sha256": build.id.sha256,
            "passed": passed,
            "at": "2024-11-21T11:00:00+00:00",
        }
        write_atomically(store.verification(build), json.dumps(record) + "\n")
    return store.verification(builds[-1])

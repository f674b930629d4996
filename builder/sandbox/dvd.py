"""The DVD: `.treeinfo`, `images/pxeboot`, the installer's image and the package repository, as an ISO 9660 image."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from builder import run
from builder.sandbox.definition import DATA, Definition
from builder.templates import render

LABEL = "GOLDEN-SANDBOX"


def treeinfo(tree: Path, *, release: str, timestamp: int) -> str:
    """`.treeinfo` as text: virt-install, libosinfo and Anaconda find kernel and initrd by it.

    timestamp: seconds since 1970. The checksums are those of the files below `tree`.
    """
    names = ("images/pxeboot/vmlinuz", "images/pxeboot/initrd.img", "images/install.img", "repodata/repomd.xml")
    digests = {name: hashlib.sha256((tree / name).read_bytes()).hexdigest() for name in names}
    return render(DATA, "treeinfo.j2", release=release, timestamp=timestamp, digests=digests)


def comps(definition: Definition) -> str:
    """The group `core` as comps XML."""
    return render(DATA, "comps.xml.j2", packages=definition.core)


def repository(folder: Path, *, log: Path, groups: Path | None = None) -> None:
    """Repository metadata for the RPMs below `folder`."""
    argv: list[str | Path] = ["createrepo_c", "--quiet", "--general-compress-type=gz", "--no-database"]
    if groups is not None:
        argv += ["--groupfile", groups]
    run.run([*argv, folder], why=f"make the package repository {folder.name}", timeout_s=300, log=log)


def build(target: Path, *, tree: Path, log: Path) -> None:
    """Pack `tree` into an ISO image that anybody can read: QEMU may run as another user."""
    argv: list[str | Path] = ["xorriso", "-as", "mkisofs", "-quiet", "-V", LABEL, "-R", "-J", "-joliet-long"]
    run.run([*argv, "-o", target, tree], why="make the DVD image", timeout_s=300, log=log)
    target.chmod(0o644)


def place(source: Path, target: Path) -> None:
    """Put a file into the tree without copying it where the file system allows."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)

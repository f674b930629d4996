"""Files put into a disk image before it boots, by guestfish: one start of libguestfs' appliance."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from builder import run
from builder.tools import guestfs
from builder.tools.appliance import pausing

_TIMEOUT_S = 120


def put(
    disk: Path,
    folder: Path,
    *,
    labels: Mapping[str, str],
    log: Path,
    is_kvm: bool,
    time_factor: float,
) -> None:
    """Put what is in `folder` into the guest on `disk`, below its root; owners become root.

    labels: path in the guest -> SELinux type of a file that is used before anything could relabel it.
    log: guestfish's own words. Raises ToolError.
    """
    with tempfile.TemporaryDirectory(prefix="golden-files-") as place:
        archive = Path(place) / "files.tar"
        with tarfile.open(archive, "w") as tar:
            for path in sorted(folder.iterdir()):
                tar.add(path, arcname=path.name, filter=_of_root)
        with pausing(disk, {}) as pauses:
            run.run(
                argv(disk, archive, labels=labels),
                why="put a test's files into its machine",
                timeout_s=_TIMEOUT_S * time_factor,
                log=log,
                env=guestfs.environment(is_kvm=is_kvm) | (pauses.environment if pauses else {}),
                watch=pauses.poll if pauses else None,
            )


def argv(disk: Path, archive: Path, *, labels: Mapping[str, str]) -> run.Argv:
    """`--inspector` finds the root file system and mounts what its fstab names."""
    words: list[str | Path] = ["guestfish", "--format=qcow2", "--add", disk, "--inspector"]
    words += ["tar-in", archive, "/", "xattrs:false"]
    for path, kind in labels.items():
        context = f"system_u:object_r:{kind}:s0"
        words += [":", "lsetxattr", "security.selinux", context, str(len(context)), path]
    return words


def _of_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member

"""rsync: folders to another folder, to rsync's daemon, or to a machine by ssh, files whole under their names only.

A target is written as rsync has it: FOLDER, rsync://HOST/MODULE/PATH, or [USER@]HOST:/PATH.
Source: rsync(1).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from builder import run

_TIMEOUT_S = 6 * 3600.0
# Seconds without a byte after which rsync gives up.
_SILENCE_S = 300
# It says so itself.
_GRACE_S = 60

# No questions: of a host whose key is not known, or of a password.
_SSH = "ssh -o BatchMode=yes -o ConnectTimeout=30"


def copy(folder: Path, target: str, *, link_to: str | None = None, excluded: Sequence[str] = (), log: Path) -> None:
    """Make `target`, a folder, the same as `folder`; what is there besides stays. It need not exist, its parent must.

    link_to: a folder, relative to `target`: files that have the same name, size and time there become hard links to
    those. excluded: rsync's patterns. Raises HostError or ToolError.
    """
    words = [f"--link-dest={link_to}"] if link_to else []
    words += [f"--exclude={pattern}" for pattern in excluded]
    _run([*_rsync(target), *words, f"{folder}/", f"{target}/"], why=f"copy {folder.name} to {target}", log=log)


def copy_file(file: Path, target: str, *, log: Path) -> None:
    """Into the folder `target`; readers see the old file or the new one. Raises HostError or ToolError."""
    # By checksum: two files of one second and one size may differ all the same.
    _run([*_rsync(target), "--checksum", file, f"{target}/"], why=f"copy {file.name} to {target}", log=log)


def fetch_file(source: str, file: Path) -> None:
    """Raises ToolError if it is not there, or the target cannot be reached."""
    run.query([*_rsync(source), source, file], why=f"read {source}", timeout_s=_SILENCE_S + _GRACE_S)


def names(folder: str) -> list[str]:
    """What a target's folder holds. Raises HostError or ToolError."""
    listed = run.query(
        [*_rsync(folder), "--list-only", f"{folder}/"], why=f"list {folder}", timeout_s=_SILENCE_S + _GRACE_S
    )
    # "drwxr-xr-x          4,096 2026/11/21 15:28:00 20261121.1", a name last, which may hold blanks.
    return [parts[4] for line in listed.splitlines() if len(parts := line.split(maxsplit=4)) == 5 and parts[4] != "."]


def make_folder(target: str, *, log: Path) -> None:
    """`target` and the folder that it is in; what that is in has to be there. Raises HostError or ToolError."""
    parent, _, name = target.rpartition("/")
    above, _, last = parent.rpartition("/")
    with tempfile.TemporaryDirectory(prefix="golden-rsync-") as folder:
        (Path(folder) / last / name).mkdir(parents=True)
        (Path(folder) / last).chmod(0o755)
        _run([*_rsync(target), "--omit-dir-times", Path(folder) / last, f"{above}/"], why=f"make {target}", log=log)


def remove(folder: str, names: Sequence[str], *, log: Path) -> None:
    """Remove the folders `names` from a target's folder, and nothing else. Raises HostError or ToolError."""
    with tempfile.TemporaryDirectory(prefix="golden-rsync-") as empty:
        only = [word for name in names for word in (f"--include=/{name}", f"--include=/{name}/**")]
        argv: list[str | Path] = [*_rsync(folder), "--omit-dir-times", "--delete", *only, "--exclude=*"]
        _run([*argv, f"{empty}/", f"{folder}/"], why=f"remove {', '.join(names)} from {folder}", log=log)


def _run(argv: Sequence[str | Path], *, why: str, log: Path) -> None:
    run.run(argv, why=why, timeout_s=_TIMEOUT_S, log=log)


def _rsync(address: str) -> list[str | Path]:
    # Owners and groups are the target's business; times are what tells a file that is there already.
    argv: list[str | Path] = ["rsync", "--recursive", "--links", "--times", "--perms", "--chmod=D755,F644"]
    argv.append(f"--timeout={_SILENCE_S}")
    # With a shell named, rsync would reach even its daemon through ssh.
    return argv if address.startswith("rsync://") else [*argv, f"--rsh={_SSH}"]

"""Programs inside the installer and inside the new system. golden is not here: this is the installer's own door."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .console import stopped

SYSROOT = Path("/mnt/sysroot")
TAIL_LINES = 20


def attempt(argv: Sequence[str], *, root: Path | None = None, log: Path | None = None) -> tuple[int, str]:
    """Run a program to its end, chrooted into `root` if given. Returns its exit status and its output.

    log: as seen from inside `root`; the output is appended there as well.
    """
    with tempfile.TemporaryFile() as output:
        pid = os.fork()
        if pid == 0:
            _become(argv, root=root, output=output.fileno())
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        output.seek(0)
        written = output.read()
    if log is not None:
        place = log if root is None else root / log.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("ab") as stream:
            stream.write(written)
    return status, written.decode(errors="replace")


def _become(argv: Sequence[str], *, root: Path | None, output: int) -> None:
    try:
        if root is not None:
            os.chroot(root)
            os.chdir("/")
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.execvp(argv[0], list(argv))
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def call(argv: Sequence[str], *, root: Path | None = None) -> str:
    """Like `attempt`, for programs that must succeed. Raises InstallError with the command and its last lines."""
    status, output = attempt(argv, root=root)
    if status != 0:
        end = "\n".join(output.splitlines()[-TAIL_LINES:])
        raise stopped(f"The command '{shlex.join(argv)}' failed with status {status}:\n{end}")
    return output

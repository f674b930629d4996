"""scp: files between here and golden's own machines."""

from __future__ import annotations

from pathlib import Path

from builder import run
from builder.tools import ssh


def fetch(target: ssh.Target, remote: str, local: Path, *, timeout_s: float = 300) -> None:
    """Copy a file or folder of the machine's to `local`. Raises ToolError."""
    argv = ssh.copy_command(target, [remote], str(local), is_out=True)
    run.query(argv, why=f"fetch {remote}", timeout_s=timeout_s)


def send(target: ssh.Target, local: Path, remote: str, *, timeout_s: float = 300) -> None:
    """Copy a file or folder to the machine. Raises ToolError."""
    # A local name with a colon would be taken for a host's; a path that begins with a slash never is.
    argv = ssh.copy_command(target, [str(local.absolute())], remote, is_out=False)
    run.query(argv, why=f"send {local.name}", timeout_s=timeout_s)

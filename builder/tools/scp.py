"""scp: files between here and golden's own machines."""

from __future__ import annotations

from pathlib import Path

from builder import run
from builder.tools import ssh


def fetch(target: ssh.Target, remote: str, local: Path, *, timeout_s: float = 300) -> None:
    """Copy a file or folder of the machine's to `local`. Raises ToolError."""
    _copy(target, [f"{target.user}@{target.host}:{remote}", local], why=f"fetch {remote}", timeout_s=timeout_s)


def send(target: ssh.Target, local: Path, remote: str, *, timeout_s: float = 300) -> None:
    """Copy a file or folder to the machine. Raises ToolError."""
    # A local name with a colon would be taken for a host's; a path that begins with a slash never is.
    _copy(
        target,
        [local.absolute(), f"{target.user}@{target.host}:{remote}"],
        why=f"send {local.name}",
        timeout_s=timeout_s,
    )


def _copy(target: ssh.Target, places: list[str | Path], *, why: str, timeout_s: float) -> None:
    run.query(argv(target, places), why=why, timeout_s=timeout_s)


def argv(target: ssh.Target, places: list[str | Path]) -> list[str | Path]:
    """The options are those of `ssh.command`; scp alone writes the port in a capital letter. Source: scp(1)."""
    words = ssh.command(target)
    options = [word for number, word in enumerate(words) if word == "-o" or words[number - 1] == "-o"]
    return ["scp", "-q", "-r", "-F", "/dev/null", "-P", str(target.port), "-i", target.key, *options, *places]

"""The one door to outside programs: start, limit, log and stop a process. Nothing else imports `subprocess`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from builder import faults, interrupts
from builder.errors import HostError, ToolError

Argv = Sequence[str | Path]

TAIL_LINES = 20
_POLL_S = 0.1
_GRACE_S = 10.0

# Source: prctl(2), PR_SET_PDEATHSIG; linux/prctl.h. Looked up here, since little is allowed between fork and exec.
_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl

# What a program is called in the package that brings it, where the two names differ: (apt, dnf).
_PACKAGES = {
    "createrepo_c": ("createrepo-c", "createrepo_c"),
    "gpg": ("gpg", "gnupg2"),
    "guestfish": ("guestfish", "libguestfs"),
    "mke2fs": ("e2fsprogs", "e2fsprogs"),
    "qemu-img": ("qemu-utils", "qemu-img"),
    "gpg-connect-agent": ("gpgconf", "gnupg2"),
    "gpgconf": ("gpgconf", "gnupg2"),
    "rpmbuild": ("rpm", "rpm-build"),
    "rpmkeys": ("rpm", "rpm"),
    "rpmsign": ("rpm", "rpm-sign"),
    "ssh": ("openssh-client", "openssh-clients"),
    "ssh-keygen": ("openssh-client", "openssh-clients"),
    "scp": ("openssh-client", "openssh-clients"),
    "virsh": ("libvirt-clients", "libvirt-client"),
    "virt-customize": ("guestfs-tools", "guestfs-tools"),
    "virt-install": ("virtinst", "virt-install"),
    "mksquashfs": ("squashfs-tools", "squashfs-tools"),
    "qemu-system-x86_64": ("qemu-system-x86", "qemu-kvm"),
    "qemu-system-aarch64": ("qemu-system-arm", "qemu-kvm"),
}


def run(
    argv: Argv,
    *,
    why: str,
    timeout_s: float,
    log: Path,
    ok: Collection[int] = (0,),
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    watch: Callable[[], None] | None = None,
) -> int:
    """Run one outside program to its end, both output streams appended to `log`; returns its exit status, one of `ok`.

    why: the step in the user's words, "create the overlay for rocky9-upgrade"; it heads the error.
    timeout_s: seconds of wall clock for the whole command, silent or chatty.
    env: variables on top of golden's own environment. watch: called about ten times a second while the program
    runs; what it raises ends the program and goes up.
    Raises HostError if the program is missing, ToolError if it fails or is late (quotes the log's last 20 lines).
    """
    words = _resolved(argv, why=why)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        out.write(f"$ {printable(argv)}\n".encode())
        out.flush()
        begin = out.tell()
        with _started(words, why=why, out=out, err=subprocess.STDOUT, env=env, cwd=cwd) as child:
            status = _wait(child, timeout_s=timeout_s, watch=watch)
    if status is None or status not in ok:
        _fail(argv, why=why, status=status, timeout_s=timeout_s, output=tail(log, begin=begin), log=log)
    return status


def query(
    argv: Argv,
    *,
    why: str,
    timeout_s: float = 60,
    ok: Collection[int] = (0,),
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    watch: Callable[[], None] | None = None,
) -> str:
    """Run one outside program and return its standard output; for questions, mostly with JSON answers.

    watch: as in `run`.
    Raises HostError if the program is missing, ToolError if it fails or is late (quotes its standard error).
    """
    words = _resolved(argv, why=why)
    with _started(words, why=why, out=subprocess.PIPE, err=subprocess.PIPE, env=env, cwd=cwd) as child:
        stdout, stderr, status = _heard(child, timeout_s=timeout_s, watch=watch)
    if status not in ok:
        output = "\n".join((stderr or stdout).decode(errors="replace").splitlines()[-TAIL_LINES:])
        _fail(argv, why=why, status=status, timeout_s=timeout_s, output=output, log=None)
    return stdout.decode(errors="replace")


@dataclass(frozen=True)
class Answer:
    """What a program said and how it ended. status: None when the limit came first."""

    status: int | None
    stdout: str
    stderr: str


def ask(argv: Argv, *, why: str, timeout_s: float) -> Answer:
    """Run one outside program whose status is an answer and no error; nothing is raised for it.

    timeout_s: seconds. Raises HostError if the program is missing.
    """
    with _started(
        _resolved(argv, why=why), why=why, out=subprocess.PIPE, err=subprocess.PIPE, env=None, cwd=None
    ) as child:
        stdout, stderr, status = _heard(child, timeout_s=timeout_s, watch=None)
    return Answer(status, stdout.decode(errors="replace"), stderr.decode(errors="replace"))


def become(argv: Argv, *, why: str) -> NoReturn:
    """Replace golden by the program, for commands that hand over the terminal (ssh, console).

    Raises HostError if the program is missing.
    """
    words = _resolved(argv, why=why)
    os.execv(words[0], [str(argv[0]), *words[1:]])


def attached(argv: Argv, *, why: str) -> int:
    """Run a program at golden's own terminal to its end, and return its exit status; for what a person does there.

    128 and the signal's number if one ended it, as shells have it. Raises HostError if the program is missing.
    """
    words = _resolved(argv, why=why)
    try:
        status = subprocess.run(words, check=False).returncode
    except OSError as error:
        raise HostError(f"could not {why}: '{words[0]}' did not start: {error.strerror}") from error
    return status if status >= 0 else 128 - status


# Held until they have ended, so that none of them is left as a zombie by one that lives longer.
_left: list[subprocess.Popen[bytes]] = []


def leave(argv: Argv, *, why: str, log: Path) -> None:
    """Start a program that goes on when golden has ended, both output streams going to the end of `log`.

    In a session of its own: no Ctrl-C reaches it. Raises HostError if the program is missing.
    """
    _left[:] = [child for child in _left if child.poll() is None]
    log.parent.mkdir(parents=True, exist_ok=True)
    words = _resolved(argv, why=why)
    with log.open("ab") as out:
        _left.append(_start(words, why=why, out=out, err=subprocess.STDOUT, env=None, cwd=None, is_left=True))


def has_program(name: str) -> bool:
    return shutil.which(name) is not None


def how_to_install(program: str) -> str:
    """The command that brings a program, for the package manager of this host."""
    apt, dnf = _PACKAGES.get(program, (program, program))
    return f"dnf install {dnf}" if shutil.which("dnf") and not shutil.which("apt-get") else f"apt-get install {apt}"


def printable(argv: Argv) -> str:
    """The command as one line that can be pasted into a shell."""
    return shlex.join(str(word) for word in argv)


def tail(log: Path, *, begin: int = 0, lines: int = TAIL_LINES) -> str:
    """The last lines of a log, from byte `begin` on, terminal control bytes left out."""
    window = 64 * 1024
    with log.open("rb") as stream:
        stream.seek(max(begin, log.stat().st_size - window))
        text = stream.read().decode(errors="replace").replace("\r", "\n")
    kept = ["".join(c for c in line if c.isprintable() or c == "\t") for line in text.splitlines() if line.strip()]
    return "\n".join(kept[-lines:])


def _resolved(argv: Argv, *, why: str) -> list[str]:
    words = [str(word) for word in argv]
    program = shutil.which(words[0])
    if program is None:
        raise HostError(
            f"could not {why}: the program '{words[0]}' is not on this machine",
            try_next=how_to_install(words[0]),
        )
    return [program, *words[1:]]


@contextlib.contextmanager
def _started(
    words: list[str],
    *,
    why: str,
    out: IO[bytes] | int,
    err: int,
    env: Mapping[str, str] | None,
    cwd: Path | None,
) -> Iterator[subprocess.Popen[bytes]]:
    """The program, running while the block does.

    A signal that comes while it is being started is held back until somebody is there to end it: on a busy machine
    the program may run for a while before Popen returns, and an exception out of Popen would leave it behind.
    """
    let_go = interrupts.hold()
    try:
        child = _start(words, why=why, out=out, err=err, env=env, cwd=cwd)
    except BaseException:
        let_go()
        raise
    with _ended(child):
        let_go()
        faults.place(f"program.{Path(words[0]).name}", child=child.pid)
        yield child


def _path_for(program: str) -> dict[str, str]:
    """A script that has env look for Python finds the one that it was installed with, before golden's own.

    As Debian 13's virt-install, whose libraries are in no virtual environment.
    """
    with contextlib.suppress(OSError), Path(program).open("rb") as file:
        if file.readline(80).startswith(b"#!/usr/bin/env python"):
            return {"PATH": f"{Path(program).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    return {}


def _start(
    words: list[str],
    *,
    why: str,
    out: IO[bytes] | int,
    err: int,
    env: Mapping[str, str] | None,
    cwd: Path | None,
    is_left: bool = False,
) -> subprocess.Popen[bytes]:
    # A fixed locale: messages are matched and quoted. A session of its own: a Ctrl-C at the terminal reaches
    # golden alone, which then ends the whole group in order.
    merged = {**os.environ, "LC_ALL": "C.UTF-8", "LANGUAGE": "C", **_path_for(words[0]), **(env or {})}
    try:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=merged,
            cwd=cwd,
            start_new_session=True,
            preexec_fn=None if is_left else _end_with_golden,
        )
    except OSError as error:
        raise HostError(f"could not {why}: '{words[0]}' did not start: {error.strerror}") from error


def _end_with_golden() -> None:
    """In the new process: if golden is killed, with no chance to end anybody, the kernel sends SIGTERM.

    Else a program would go on writing where the next golden begins anew.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def _ended(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Whatever happens inside, no process of the child's group is left behind: TERM, then KILL."""
    try:
        yield
    finally:
        if child.poll() is None:
            _signal_group(child, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=_GRACE_S)
        _signal_group(child, signal.SIGKILL)
        child.wait()
        for stream in (child.stdout, child.stderr):
            if stream is not None:
                stream.close()


def _signal_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


def _wait(child: subprocess.Popen[bytes], *, timeout_s: float, watch: Callable[[], None] | None) -> int | None:
    """The exit status, or None when the limit came first."""
    deadline = time.monotonic() + timeout_s
    # Python's own waiting with a limit looks up to 50 ms late. Source: subprocess, Popen._wait; pidfd_open(2).
    handle = os.pidfd_open(child.pid)
    try:
        ended = select.poll()
        ended.register(handle, select.POLLIN)
        while (left_s := deadline - time.monotonic()) > 0:
            if ended.poll(1000 * (left_s if watch is None else min(_POLL_S, left_s))):
                return child.wait()
            if watch is not None:
                watch()
        return None
    finally:
        os.close(handle)


def _heard(
    child: subprocess.Popen[bytes], *, timeout_s: float, watch: Callable[[], None] | None
) -> tuple[bytes, bytes, int | None]:
    """Both streams, and the exit status; None when the limit came first. What was read so far is lost to no wait."""
    deadline = time.monotonic() + timeout_s
    while True:
        left_s = max(0.0, deadline - time.monotonic())
        try:
            stdout, stderr = child.communicate(timeout=left_s if watch is None else min(_POLL_S, left_s))
            return stdout, stderr, child.returncode
        except subprocess.TimeoutExpired as late:
            if time.monotonic() >= deadline:
                return late.stdout or b"", late.stderr or b"", None
            if watch is not None:
                watch()


def _fail(argv: Argv, *, why: str, status: int | None, timeout_s: float, output: str, log: Path | None) -> NoReturn:
    if status is None:
        end = f"ended by golden: still running after {timeout_s:.0f} s"
    elif status < 0:
        end = f"killed by {signal.Signals(-status).name}"
    else:
        end = f"exit {status}"
    raise ToolError(
        f"could not {why}",
        details=[("command", printable(argv)), ("end", end), ("output", output or "(none)")],
        log=log,
    )

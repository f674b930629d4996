"""A world of its own for the campaign: processes, mounts and a libvirt that nobody outside sees, gone with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_INSIDE = "GOLDEN_TORTURE_WORLD"
_OWN_FOLDERS = ("/run", "/dev/shm", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt", "/etc/libvirt")
_PATIENCE_S = 60.0


def enter() -> None:
    """Start this program again in namespaces of its own, below a first process that buries all that are left alone.

    libvirtd waits until a QEMU that it left is no process any more, not even a dead one. Needs root.
    Source: unshare(1), pid_namespaces(7).
    """
    if not os.environ.get(_INSIDE):
        os.environ[_INSIDE] = "1"
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        os.execvp("unshare", [*unshare, sys.executable, "-m", "tests.torture", *sys.argv[1:]])
    child = os.fork()
    while child:
        found, code = os.wait()
        if found == child:
            os._exit(os.waitstatus_to_exitcode(code) % 256)


def furnish(folder: Path) -> None:
    """Folders of its own for libvirt, and `folder` in memory: a campaign waits for no disk."""
    for place in _OWN_FOLDERS:
        Path(place).mkdir(parents=True, exist_ok=True)
        _mount(Path(place))
    _mount(folder)
    Path("/run/lock").mkdir()
    # Without a daemon for logs, which would be one more to look after.
    Path("/etc/libvirt/qemu.conf").write_text('stdio_handler = "file"\n')
    Path("/etc/libvirt/libvirtd.conf").write_text('auth_unix_rw = "none"\n')


def _mount(place: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", place], check=True)


class Libvirt:
    """The world's own libvirtd, which may be killed and comes back."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(["libvirtd"], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        wait_until(
            lambda: not virsh("list", "--all", "--name", is_checked=False).startswith("error"), "libvirtd answers"
        )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid


def virsh(*words: str, is_checked: bool = True) -> str:
    argv = ["virsh", "-q", "-c", "qemu:///system", *words]
    found = subprocess.run(argv, capture_output=True, text=True, check=is_checked)
    return found.stdout if found.returncode == 0 else f"error: {found.stderr}"


def domains() -> list[str]:
    return virsh("list", "--all", "--name").split()


def processes(libvirt: Libvirt) -> dict[int, str]:
    """Everything that runs in this world but the campaign and libvirtd; what has ended and was not asked is gone."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            is_dead = (place / "stat").read_text(errors="replace").rpartition(")")[2].split()[0] in "ZX"
        except OSError:
            continue
        if command and not is_dead and int(place.name) not in (1, os.getpid(), libvirt.pid):
            found[int(place.name)] = command
    return found


def wait_until(is_true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not is_true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {_PATIENCE_S:.0f} s: {what}")
        time.sleep(0.05)


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)


def leave(folder: Path) -> None:
    """Let go of what `furnish` mounted over `folder`; the rest goes with the world."""
    subprocess.run(["umount", "--lazy", folder], check=False)


def remount(folder: Path, how: str) -> None:
    """how: options of mount(8)."""
    subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)


def leave_room(folder: Path, room_bytes: int) -> None:
    """No more than that can be written below `folder`, which is a mount of its own."""
    found = os.statvfs(folder)
    used = (found.f_blocks - found.f_bfree) * found.f_frsize
    remount(folder, f"size={used + room_bytes}")

"""A world of its own for the campaign: processes, mounts and a libvirt that nobody outside sees, gone with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from builder.tools.webserver import serving
from tests.mirror import mirror

_INSIDE = "GOLDEN_TORTURE_WORLD"
_OWN_FOLDERS = ("/run", "/dev/shm", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt", "/etc/libvirt")
_PATIENCE_S = 60.0


_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_OWN_BOOT_ID = Path("/run/boot_id")


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
    _OWN_BOOT_ID.write_text(f"{uuid.uuid4()}\n")
    subprocess.run(["mount", "--bind", _OWN_BOOT_ID, _BOOT_ID], check=True)
    # Without a daemon for logs, which would be one more to look after.
    Path("/etc/libvirt/qemu.conf").write_text('stdio_handler = "file"\n')
    Path("/etc/libvirt/libvirtd.conf").write_text('auth_unix_rw = "none"\n')


def reboot(libvirt: Libvirt, *keep: int) -> None:
    """All processes are gone but the campaign and `keep`, what lies in /run of libvirt's too; the boot is another one.

    What was written and not synced is not lost by this.
    """
    libvirt.end()
    for pid in processes(*keep):
        kill(pid)
    wait_until(lambda: not processes(*keep), "processes end")
    for path in Path("/run/libvirt").rglob("*"):
        if not path.is_dir():
            path.unlink()
    _OWN_BOOT_ID.write_text(f"{uuid.uuid4()}\n")
    libvirt.start()


def _mount(place: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", place], check=True)


class Server:
    """A web server in a process of its own, as it has threads, and the campaign forks. It says where, and waits."""

    def __init__(self, served: AbstractContextManager[str]) -> None:
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setsid()
                with served as url:
                    os.write(writer, url.encode())
                    os.close(writer)
                    while True:
                        signal.pause()
            finally:
                os._exit(1)
        os.close(writer)
        with os.fdopen(reader) as said:
            self.url = said.read()


@contextlib.contextmanager
def upstream(files: Mapping[str, bytes]) -> Iterator[str]:
    """A mirror's address. files: path without its leading slash -> what is there."""
    with mirror() as served:
        for name, data in files.items():
            served.put(name, data)
        yield served.url


@contextlib.contextmanager
def folder_served(folder: Path) -> Iterator[str]:
    """The address of a folder, which may be made anew meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    with serving(folder) as server:
        yield server.url


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

    def end(self, *, by: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(by)
            self._process.wait(_PATIENCE_S)

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


def processes(*ours: int) -> dict[int, str]:
    """Everything that runs in this world but the campaign and `ours`; what has ended and was not asked is gone."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            is_dead = (place / "stat").read_text(errors="replace").rpartition(")")[2].split()[0] in "ZX"
        except OSError:
            continue
        if command and not is_dead and int(place.name) not in (1, os.getpid(), *ours):
            found[int(place.name)] = command
    return found


def below(process: int) -> list[int]:
    """All that a process has started, and what that has started."""
    parents: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            fields = (place / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] not in "ZX":
            parents.setdefault(int(fields[1]), []).append(int(place.name))
    found = parents.get(process, [])
    return [*found, *(it for child in found for it in below(child))]


def machines() -> list[int]:
    """The QEMU processes of libvirt's; those that golden's programs start are none of it."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"qemu-system" in words[0] and b"-uuid" in words:
            found.append(int(place.name))
    return found


def locks(folder: Path) -> list[str]:
    """Files below `folder` that some process of this world has locked. Source: proc_locks(5)."""
    device = folder.stat().st_dev
    shown = f"{os.major(device):02x}:{os.minor(device):02x}"
    held = []
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[1] == "->" or words[1] != "FLOCK" or words[5].rpartition(":")[0] != shown:
            continue
        inode = int(words[5].rpartition(":")[2])
        names = [str(path) for path in folder.rglob("*") if path.lstat().st_ino == inode]
        held.append(f"{(names or [str(inode)])[0]} by process {words[4]}")
    return held


def wait_until(is_true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not is_true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {_PATIENCE_S:.0f} s: {what}")
        time.sleep(0.05)


def kill(process: int, by: signal.Signals = signal.SIGKILL) -> None:
    """If it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, by)


def leave(folder: Path) -> None:
    """Let go of what `furnish` mounted over `folder`; the rest goes with the world."""
    subprocess.run(["umount", "--lazy", folder], check=False)


def remount(folder: Path, how: str) -> None:
    """how: options of mount(8). What was open there a moment ago keeps it from being read-only for a moment."""
    argv: list[str | Path] = ["mount", "-o", f"remount,{how}", folder]
    try:
        wait_until(lambda: subprocess.run(argv, capture_output=True, check=False).returncode == 0, f"{how} at {folder}")
    except TimeoutError as error:
        raise TimeoutError(f"{error}: {', '.join(_opened(folder)) or 'nobody has a file open there'}") from error


def _opened(folder: Path) -> list[str]:
    """Who has a file open below it that can be written, or is removed: "qemu-system-x86 (42) has …/console.log"."""
    found = []
    for handle in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            file, process = str(handle.readlink()), handle.parents[1]
            flags = (process / "fdinfo" / handle.name).read_text().split("flags:")[1].split()[0]
            if file.startswith(f"{folder}/") and (int(flags, 8) & os.O_ACCMODE or file.endswith(" (deleted)")):
                found.append(f"{(process / 'comm').read_text().strip()} ({process.name}) has {file}")
    return found


def leave_room(folder: Path, room_bytes: int) -> None:
    """No more than that can be written below `folder`, which is a mount of its own."""
    found = os.statvfs(folder)
    used = (found.f_blocks - found.f_bfree) * found.f_frsize
    remount(folder, f"size={used + room_bytes}")

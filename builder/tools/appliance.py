"""libguestfs' appliance at work: it is ended if its disk is full, and its disk is changed between two operations.

virt-customize reads the script of an operation when its turn comes (mlcustomize, "read_whole_file"). A script that is a
named pipe makes it wait for as long as something is to be done here, and costs the appliance nothing. The appliance's
QEMU is started by a wrapper, which gives it a monitor (guestfs(3), "QEMU WRAPPERS"). By that golden asks whether it
stands still: QEMU stops a machine that has no room to write, and libguestfs waits for it without end.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from builder.errors import ToolError
from builder.tools import qmp, standstill

# libguestfs asks QEMU what it can before it starts the appliance, which has drives.
_WRAPPER = """\
#!/bin/sh
case " $* " in
    *" -drive "*) set -- "$@" -qmp unix:{monitor},server=on,wait=off ;;
esac
exec {program} "$@"
"""
# How often the appliance is asked how it is, in seconds.
_LOOK_S = 2.0
# Where EL has QEMU; libguestfs knows one place, which is this or that of PATH.
_LIBEXEC = Path("/usr/libexec/qemu-kvm")


class Appliance:
    """One that runs. disk: the file that its first disk is written to."""

    def __init__(self, monitor: Path, disk: Path) -> None:
        self._monitor = monitor
        self._disk = disk

    def switch_to(self, file: Path) -> None:
        """From now on the first disk is written to `file`, a new overlay of what it was; that stays as it is.

        What the appliance has not written out is in neither. It takes less than a tenth of a second. Raises ToolError.
        """
        drives = qmp.execute(self._monitor, "query-block")
        names = [it["device"] for it in drives if it.get("inserted", {}).get("file") == str(self._disk)]
        if len(names) != 1:
            raise ToolError(f"libguestfs' QEMU has no drive with {self._disk}")
        arguments = {"device": names[0], "snapshot-file": str(file), "format": "qcow2"}
        qmp.execute(self._monitor, "blockdev-snapshot-sync", **arguments)
        file.chmod(0o644)  # another user's QEMU reads it as a backing file
        self._disk = file

    def look(self) -> None:
        """Raises StandsStill if it has no room to write; one that is not there yet, or no more, is well.

        Source: QEMU, qapi/run-state.json, "io-error"; qapi/block-core.json, "BlockDeviceIoStatus".
        """
        try:
            if qmp.execute(self._monitor, "query-status")["status"] != "io-error":
                return
            drives = [it for it in qmp.execute(self._monitor, "query-block") if "inserted" in it]
        except ToolError:
            return
        full = [it for it in drives if it.get("io-status", "ok") != "ok"] or drives
        raise standstill.error("libguestfs' appliance", [Path(it["inserted"]["file"]) for it in full])


class Pauses:
    """What is to be done between operations. todo: script -> what comes before it is read, in virt-customize's order.

    environment: for virt-customize.
    """

    def __init__(
        self, appliance: Appliance, todo: Mapping[Path, Callable[[Appliance], None]], *, environment: dict[str, str]
    ) -> None:
        self.environment = environment
        self._appliance = appliance
        self._looked = time.monotonic()
        self._todo = dict(todo)
        self._texts = {script: script.read_text(encoding="utf-8") for script in todo}

    def begin(self) -> None:
        for script in self._todo:
            script.unlink()
            os.mkfifo(script, 0o700)

    def poll(self) -> None:
        """Do what is due, if virt-customize has come to a pause. Raises what that raises, and StandsStill."""
        if time.monotonic() - self._looked >= _LOOK_S:
            self._looked = time.monotonic()
            self._appliance.look()
        script = next(iter(self._todo), None)
        if script is None:
            return
        try:
            pipe = os.open(script, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nobody reads it yet
                return
            raise
        with os.fdopen(pipe, "w", encoding="utf-8") as stream, contextlib.suppress(BrokenPipeError):
            os.set_blocking(pipe, True)
            self._todo[script](self._appliance)
            self._restore(script)
            del self._todo[script]
            stream.write(self._texts[script])
            stream.flush()

    def end(self) -> None:
        """The scripts are files again, for whoever reads or pastes them."""
        for script in self._todo:
            self._restore(script)

    def _restore(self, script: Path) -> None:
        beside = script.with_name(f".{script.name}")
        beside.touch(mode=0o700)
        beside.write_text(self._texts[script], encoding="utf-8")
        beside.replace(script)


@contextlib.contextmanager
def pausing(disk: Path, todo: Mapping[Path, Callable[[Appliance], None]]) -> Iterator[Pauses | None]:
    """For one virt-customize, or guestfish, with `disk` as its first; its `poll` is to be called now and then.

    None if it cannot be: where nobody knows of a QEMU, or temporary files may not be executed.
    """
    program = _program()
    if program is None:
        yield None
        return
    # A socket's path has 108 bytes at most, and a state folder may have a long one.
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        wrapper, monitor = Path(folder, "qemu"), Path(folder, "qmp")
        wrapper.write_text(_WRAPPER.format(monitor=monitor, program=shlex.quote(program)), encoding="utf-8")
        wrapper.chmod(0o700)
        # libguestfs asks a QEMU what it can, by three starts, and remembers that by the program's size and time of
        # change. Without that of the QEMU that is meant it would ask, and keep the answer, for each new wrapper.
        with contextlib.suppress(OSError):  # one that is not there is libguestfs' to complain of
            changed = Path(program).stat().st_mtime_ns
            os.utime(wrapper, ns=(changed, changed))
        if not os.access(wrapper, os.X_OK):  # nothing may be executed there
            yield None
            return
        pauses = Pauses(Appliance(monitor, disk), todo, environment={"LIBGUESTFS_HV": str(wrapper)})
        pauses.begin()
        try:
            yield pauses
        finally:
            pauses.end()


def _program() -> str | None:
    """The QEMU that libguestfs would take."""
    told = os.environ.get("LIBGUESTFS_HV") or os.environ.get("LIBGUESTFS_QEMU")
    found = told or shutil.which(f"qemu-system-{platform.machine()}")
    return found or (str(_LIBEXEC) if _LIBEXEC.exists() else None)

"""libguestfs: work in a guest's file system without the guest running, one start of its appliance per call."""

from __future__ import annotations

import io
import re
import shlex
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from builder import run
from builder.errors import ToolError, VerifyError
from builder.model import Frozen
from builder.tools import proxies
from builder.tools.appliance import Appliance, pausing
from builder.units import MIB

# Where libguestfs' appliance reaches the host's loopback. Source: guestfs(3), "set-network"; measured.
HOST = "169.254.2.2"

_OUTPUT_MAGIC = "golden-output-disk"
OUTPUT_BYTES = 256 * MIB
_LARGEST_FILE = 64 * MIB
_START_TIMEOUT_S = 120
_LONGEST_OUTPUT = 32 * MIB
# Where virt-customize lets what it runs print to, in the guest; it is appended to, and virt-customize leaves it there.
_PRINTED = "/tmp/builder.log"
_HEADING = "== golden runs "
_RUNNING = re.compile(r"^\[ *[0-9.]+\] (.*)$")


class Operation(Frozen):
    """A shell script run as root in the guest's file system. name: unique in its call; it names file and error.

    is_written_out: whether all that it did is on the disk when it ends.
    """

    name: str
    script: str
    timeout_s: float
    is_written_out: bool = False


def copy_printed(folder: str) -> str:
    """A shell line for the guest: what the operations have printed so far as the file `log` in `folder`."""
    return f"[ ! -f {_PRINTED} ] || tail -c {_LONGEST_OUTPUT} {_PRINTED} > {folder}/log\n"


def forget_printed() -> str:
    """A shell line for the guest, the last one of a phase: nothing of that stays in the guest."""
    return f"rm -f {_PRINTED}\n"


def environment(*, is_kvm: bool) -> dict[str, str]:
    """Variables for every libguestfs program: no libvirt in between, and emulation where KVM is not proven."""
    return {"LIBGUESTFS_BACKEND": "direct"} | ({} if is_kvm else {"LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"})


def write_scripts(operations: Sequence[Operation], folder: Path) -> None:
    """The operations' scripts as files in `folder`, where `argv` expects them."""
    folder.mkdir(parents=True, exist_ok=True)
    for operation in operations:
        path = _script(operation, folder)
        # Nobody else may read it, not even for a moment: one of them may hold the hash of a password.
        path.unlink(missing_ok=True)
        path.touch(mode=0o700)
        # In a subshell, which a script of a user's may leave as it likes.
        body = f"(\n{operation.script}\n)\nsync\n" if operation.is_written_out else operation.script
        path.write_text(f"#!/bin/sh\nset -eu\necho '{_HEADING}{operation.name}'\n{body}", encoding="utf-8")


def argv(
    operations: Sequence[Operation], *, disk: Path, output: Path, scripts: Path, more: Sequence[Path] = ()
) -> list[str | Path]:
    """The command for `operations`, in order. output: the raw disk that the guest may leave files on. more: others."""
    runs = [word for operation in operations for word in ("--run", _script(operation, scripts))]
    return [
        "virt-customize",
        *("--format", "qcow2", "--add", disk),
        *(word for raw in (output, *more) for word in ("--format", "raw", "--add", raw)),
        *("--memsize", "1536", "--smp", "2"),
        *runs,
        "--selinux-relabel",
    ]


def customize(
    operations: Sequence[Operation],
    *,
    disk: Path,
    output: Path,
    scripts: Path,
    more: Sequence[Path] = (),
    why: str,
    log: Path,
    is_kvm: bool,
    time_factor: float,
    note: Callable[[str], None],
    before: Mapping[str, Callable[[Appliance], None]] | None = None,
) -> None:
    """Run `operations` on `disk` in one start of the appliance; `note` hears which one is at work.

    time_factor: what the operations' time limits are multiplied by. before: what is done to the appliance before an
    operation, by its name. Raises ToolError naming the operation.
    """
    write_scripts(operations, scripts)
    make_output_disk(output)
    limit_s = (_START_TIMEOUT_S + sum(operation.timeout_s for operation in operations)) * time_factor
    follower = _Follower(log, note)
    todo = {_script(it, scripts): (before or {})[it.name] for it in operations if it.name in (before or {})}
    try:
        with pausing(disk, todo) as pauses:

            def watch() -> None:
                follower.poll()
                if pauses is not None:
                    pauses.poll()

            run.run(
                argv(operations, disk=disk, output=output, scripts=scripts, more=more),
                why=why,
                timeout_s=limit_s,
                log=log,
                # virt-customize hands the proxies on to what it runs in the guest.
                env=environment(is_kvm=is_kvm)
                | proxies.for_guest(HOST, with_passwords=True)
                | (pauses.environment if pauses else {}),
                watch=watch,
            )
    except ToolError as error:
        follower.poll()
        if follower.last:
            error.details.insert(0, ("during", follower.last))
        raise


def make_output_disk(path: Path) -> None:
    """A sparse raw disk for files from the guest; marked, so that the guest finds it whatever its name is there."""
    with path.open("wb") as stream:
        stream.write(_OUTPUT_MAGIC.encode())
        stream.truncate(OUTPUT_BYTES)


def output_disk_command(path: Path) -> str:
    """What `make_output_disk` does, as a line for a shell."""
    quoted = shlex.quote(str(path))
    return f"printf {_OUTPUT_MAGIC} > {quoted} && truncate --size={OUTPUT_BYTES} {quoted}"


def save_to_output_disk(folder: str) -> str:
    """Shell lines for the guest that put `folder`'s files on the output disk; read them with `read_output_disk`."""
    return f"""\
output=
for device in /dev/sd[a-z] /dev/vd[a-z]; do
    [ -b "$device" ] || continue
    [ "$(head -c {len(_OUTPUT_MAGIC)} "$device" | tr -d '\\0')" = {_OUTPUT_MAGIC} ] && output=$device
done
[ -n "$output" ] || {{ echo "golden: the output disk is not there" >&2; exit 1; }}
tar -cf "$output" -C {folder} .
"""


def read_output_disk(path: Path) -> dict[str, bytes]:
    """The files that the guest left, by name.

    The guest is not trusted: nothing is mounted or unpacked, no file is read beyond 64 MiB, and no more than the disk
    could hold: a sparse file of no size at all may say that it has any.
    Raises VerifyError if the guest left none.
    """
    files: dict[str, bytes] = {}
    left = OUTPUT_BYTES
    try:
        with tarfile.open(path, mode="r:") as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isreg() and left > 0 else None
                if stream is not None:
                    files[member.name.removeprefix("./")] = found = stream.read(min(_LARGEST_FILE, left))
                    left -= len(found)
    # What a header says may be no number, or one that is too large, or not be there.
    except (tarfile.TarError, ValueError, OverflowError, EOFError, OSError, RecursionError) as error:
        raise VerifyError(f"the guest left nothing readable on its output disk: {error}", log=path) from error
    return files


def printed(log: str) -> dict[str, str]:
    """What `copy_printed` saved, by operation; without those that printed nothing."""
    parts = re.split(rf"^{_HEADING}([A-Za-z0-9-]+)\n", log, flags=re.MULTILINE)
    return {name: text for name, text in zip(parts[1::2], parts[2::2], strict=True) if text.strip()}


def _script(operation: Operation, folder: Path) -> Path:
    return folder / f"{operation.name}.sh"


class _Follower:
    """Passes on what virt-customize says it is doing. last: the last such line."""

    def __init__(self, log: Path, note: Callable[[str], None]) -> None:
        self._log = log
        self._note = note
        self._offset = log.stat().st_size if log.exists() else 0
        self.last = ""

    def poll(self) -> None:
        if not self._log.exists():
            return
        with self._log.open("rb") as stream:
            stream.seek(self._offset)
            data = stream.read()
        complete = data[: data.rfind(b"\n") + 1]
        self._offset += len(complete)
        for line in io.StringIO(complete.decode(errors="replace")):
            match = _RUNNING.match(line.strip())
            if match:
                self.last = match[1]
                self._note(self.last)

"""qemu-img: makes, looks into, checks and converts qcow2 files; first `qcow2` reads their headers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from builder import run
from builder.errors import ToolError, VerifyError
from builder.tools import qcow2

# As measured: smallest on a disk and fastest to install. 2 MiB clusters undo compression.
_COMPRESSION = "compression_type=zstd,cluster_size=64k"


class Info(qcow2.Link):
    """What qemu-img says of one file. virtual_bytes: the disk that a guest sees. actual_bytes: taken on this disk."""

    virtual_bytes: int
    actual_bytes: int
    cluster_bytes: int
    compression: str


def info(path: Path) -> Info:
    """One file's facts; its backing file is not opened. Works while a machine has it open.

    Raises VerifyError if it is no qcow2 or keeps its data in another file.
    """
    qcow2.refuse_foreign(path)
    answer = run.query(
        ["qemu-img", "info", "--force-share", "-f", "qcow2", "--output=json", path.absolute()],
        why=f"look into '{path.name}'",
    )
    found: dict[str, Any] = json.loads(answer)
    return Info(
        path=path.absolute(),
        virtual_bytes=found["virtual-size"],
        actual_bytes=found["actual-size"],
        cluster_bytes=found["cluster-size"],
        compression=found["format-specific"]["data"]["compression-type"],
        backing_name=found.get("backing-filename"),
        backing_format=found.get("backing-filename-format"),
    )


def create_argv(path: Path, size_bytes: int) -> run.Argv:
    return ["qemu-img", "create", "-q", "-f", "qcow2", path, str(size_bytes)]


def create(path: Path, size_bytes: int) -> None:
    """A new, empty qcow2."""
    run.query(create_argv(path, size_bytes), why=f"create the disk '{path.name}'")


def overlay_argv(path: Path, backing: Path) -> run.Argv:
    return ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", backing.absolute(), path]


def create_overlay(path: Path, backing: Path) -> None:
    """A new file that reads from `backing` until it is written to; it names `backing` by its absolute path.

    Raises ToolError, or VerifyError if its header does not name `backing` afterwards.
    """
    run.query(overlay_argv(path, backing), why=f"create an overlay of '{backing.name}'")
    if qcow2.link(path).backing != backing.absolute():
        raise qcow2.unfit(path, f"it was to stand on {backing}")


def rebase_argv(overlay: Path, backing: Path, *, is_safe: bool = False) -> run.Argv:
    return ["qemu-img", "rebase", *([] if is_safe else ["-u"]), "-f", "qcow2", "-F", "qcow2", "-b", backing, overlay]


def rebase(overlay: Path, backing: Path, *, is_safe: bool = False, timeout_s: float = 60) -> None:
    """Point `overlay` at `backing` by rewriting its header; no data is copied.

    Both backing files must hold the same bytes, unless is_safe: then what differs is copied into the overlay first.
    Raises ToolError. Source: qemu-img(1), "rebase", -u.
    """
    run.query(rebase_argv(overlay, backing, is_safe=is_safe), why=f"rebase {overlay.name}", timeout_s=timeout_s)


def check(path: Path) -> None:
    """Check one file's inner tables; backing files are not looked at. Raises VerifyError on corruption and on leaks.

    Source: qemu-img(1), "check": 2 is corruption, 3 leaked clusters; both come with the JSON report.
    """
    qcow2.refuse_foreign(path)
    _check(path)


def _check(path: Path) -> None:
    answer = run.query(
        check_argv(path),
        why=f"check '{path.name}'",
        timeout_s=600,
        ok=(0, 2, 3),
    )
    report: dict[str, Any] = json.loads(answer)
    faults = {name: report[name] for name in ("check-errors", "corruptions", "leaks") if report.get(name)}
    if faults:
        raise qcow2.unfit(path, ", ".join(f"{count} {name}" for name, count in faults.items()))


def check_argv(path: Path) -> run.Argv:
    return ["qemu-img", "check", "-f", "qcow2", "--output=json", path.absolute()]


def check_alone(path: Path) -> None:
    """As `check`, for a qcow2 made by others. Raises VerifyError; also if it is cut short."""
    qcow2.alone(path)
    _check(path)


def copy_argv(source: Path, target: Path) -> run.Argv:
    return ["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", source, target]


def copy(source: Path, target: Path, *, log: Path, timeout_s: float) -> None:
    """Write what a guest sees of `source`, which the caller has looked into, to a new qcow2 without a backing file.

    Not a copy of the file: so nothing of its header, its snapshots or its old version comes along.
    timeout_s: seconds. Raises ToolError.
    """
    run.run(copy_argv(source, target), why=f"copy '{source.name}'", timeout_s=timeout_s, log=log)


def resize_argv(path: Path, size_bytes: int) -> run.Argv:
    return ["qemu-img", "resize", "-q", "-f", "qcow2", path, str(size_bytes)]


def resize(path: Path, size_bytes: int) -> None:
    """Make the disk that the guest sees larger. Raises ToolError, VerifyError if it has another size afterwards."""
    run.query(resize_argv(path, size_bytes), why=f"resize '{path.name}'")
    if info(path).virtual_bytes != size_bytes:
        raise qcow2.unfit(path, f"its virtual size was to be {size_bytes} bytes")


def compress_argv(source: Path, target: Path, *, backing: str | None) -> run.Argv:
    argv: list[str | Path] = ["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", "-c", "-o", _COMPRESSION, "-W"]
    if backing is not None:
        argv += ["-B", backing, "-F", "qcow2"]
    return [*argv, source, target]


def convert_compressed(source: Path, target: Path, *, backing: str | None, log: Path, timeout_s: float) -> None:
    """Write `source` compressed to `target`; of an overlay of `backing` only what lies in the overlay itself.

    backing: a file name in the folder of `target`; it is written as it is, as the two will lie side by side wherever
    they are installed. timeout_s: seconds. Raises ToolError, or VerifyError if the target does not name `backing`.
    """
    argv = compress_argv(source, target, backing=backing)
    run.run(argv, why=f"compress '{source.name}'", timeout_s=timeout_s, log=log)
    if info(target).backing_name != backing:
        raise qcow2.unfit(target, f"its backing file was to be named {backing}")


def commit_argv(top: Path, base: Path) -> run.Argv:
    return ["qemu-img", "commit", "-q", "-f", "qcow2", "-b", base.absolute(), top]


def merge(top: Path, base: Path, *, log: Path, timeout_s: float) -> None:
    """Write what lies in `top` and in the overlays between into `base`, which then shows the same disk.

    To be done before `convert_compressed`: of an overlay it takes what lies in that one file, and none of those between
    it and the backing file that the target is to have (QEMU 7.2, convert_iteration_sectors). Raises ToolError.
    """
    run.run(commit_argv(top, base), why=f"merge '{top.name}' into '{base.name}'", timeout_s=timeout_s, log=log)


def convert_argv(source: Path, target: Path, *, format: str, options: Sequence[str], is_compressed: bool) -> run.Argv:
    words: list[str | Path] = ["qemu-img", "convert", "-p", "-f", "qcow2", "-O", format]
    if is_compressed:
        words.append("-c")
    for option in options:
        words += ["-o", option]
    return [*words, source, target]


def convert(
    source: Path,
    target: Path,
    *,
    format: str,
    options: Sequence[str] = (),
    is_compressed: bool = False,
    log: Path,
    timeout_s: float,
    note: Callable[[str], None],
) -> None:
    """Write what a guest sees of `source` and the chain below it to one file of another format.

    format, options: qemu-img's own words. timeout_s: seconds. note: hears how far it is. Raises ToolError.
    """
    qcow2.chain(source)  # refuses what would reach outside of the chain
    argv = convert_argv(source, target, format=format, options=options, is_compressed=is_compressed)
    watch = _Progress(log, note)
    run.run(argv, why=f"convert '{source.name}' to {format}", timeout_s=timeout_s, log=log, watch=watch)


def flatten_options() -> list[str]:
    return [_COMPRESSION]


def compare_argv(a: Path, b: Path, *, format: str) -> run.Argv:
    return ["qemu-img", "compare", "-p", "-f", "qcow2", "-F", format, a, b]


def compare(a: Path, b: Path, *, format: str, log: Path, timeout_s: float, note: Callable[[str], None]) -> None:
    """Read a qcow2 and the chain below it, and another file, and see whether a guest would see the same disk.

    format: of `b`. timeout_s: seconds. Raises VerifyError where they differ, ToolError if one cannot be read.
    Source: qemu-img(1), "compare": 1 is a difference; a rest of zeros in the longer one is none.
    """
    try:
        run.run(
            compare_argv(a, b, format=format),
            why=f"compare '{b.name}' with '{a.name}'",
            timeout_s=timeout_s,
            log=log,
            watch=_Progress(log, note),
        )
    except ToolError as error:
        found = dict(error.details)
        if found["end"] != "exit 1":
            raise
        raise VerifyError(
            f"'{b.name}' does not hold the disk of '{a.name}'",
            details=[("command", found["command"]), ("output", found["output"])],
            log=log,
        ) from error


class _Progress:
    """Passes on the percentages that `-p` prints; they end in a carriage return, and the last one counts."""

    _PERCENT = re.compile(rb"\(([0-9.]+)/100%\)")

    def __init__(self, log: Path, note: Callable[[str], None]) -> None:
        self._log = log
        self._note = note
        self._said = ""

    def __call__(self) -> None:
        with self._log.open("rb") as stream:
            stream.seek(max(0, self._log.stat().st_size - 200))
            found = self._PERCENT.findall(stream.read())
        if found and (text := f"{float(found[-1]):.0f} %") != self._said:
            self._said = text
            self._note(text)

"""Image files held under living clones, whatever a package manager does to the names that they are installed under.

An overlay's backing file is never the installed file itself but a hard link to it, below STATE/clones/.bases/. A link
takes no room and no time; a file goes when its last name does. So `dnf upgrade`, `dnf autoremove` and `golden`'s own
collectors may remove an image under its clones, and the clones do not notice: rpm writes files aside and renames
them, so what a link leads to never changes. A `%preun` that refuses would make every later transaction of the host
fail, and `dnf mark` is for root alone.

All files of a chain lie in one folder, named by the SHA-256 of the uppermost, because each names its parent by a bare
file name. Where no link can be made (another file system, another user's file) the overlay names the image itself,
and the user is told.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from builder import locks, store
from builder.clones.leases import Lease, Pin, whole_leases
from builder.errors import VerifyError
from builder.faults import place as come_to
from builder.model import Frozen, ImageId


def folder(state: Path) -> Path:
    return state / "clones" / ".bases"


def locked(state: Path) -> contextlib.AbstractContextManager[None]:
    """Held from the making of links until the lease that needs them is written, and while unused ones are removed."""
    return locks.lock(
        state / "clones" / ".locks" / ".bases", what="the files of clones' images", waiting=lambda _holder: None
    )


def hold(files: Sequence[Path], ids: Sequence[ImageId], *, state: Path, note: Callable[[str], None]) -> tuple[Pin, ...]:
    """Links to `files`, the image's own first, the base last; made where they are missing.

    ids: what each file is. note: hears that there can be no links. The caller holds `locked`.
    """
    place = folder(state) / ids[0].sha256
    place.mkdir(parents=True, exist_ok=True)
    try:
        for file in files:
            _link(file, place / file.name)
    except OSError as error:
        # Two names of one file need one file system; and the kernel may refuse links to what one cannot write.
        # Source: link(2), EXDEV, EPERM, EMLINK; proc_sys_fs(5), "protected_hardlinks".
        _remove_if_empty(place)
        note(
            f"{files[0].name} cannot be held under its clones ({error.strerror}): while they exist, keep its package "
            f"with: dnf mark install $(rpm -qf {files[0]})    # dnf 5: dnf mark user …"
        )
        return tuple(_pin(file, file, id) for file, id in zip(files, ids, strict=True))
    return tuple(_pin(place / file.name, file, id) for file, id in zip(files, ids, strict=True))


def hold_facts(pins: Iterable[Pin]) -> None:
    """What is known of files that are held, beside their links: who opens them later finds no installed image.

    The caller holds `locked`.
    """
    for pin in pins:
        for ending in (".json", ".packages") if pin.is_held else ():
            original = pin.original.with_suffix(ending)
            if original.exists():
                _link(original, pin.path.with_suffix(ending))


def _link(file: Path, name: Path) -> None:
    """`name` is `file` afterwards; a link to an older file of that name gives way, as its bytes are the same."""
    if name.exists() and name.samefile(file):
        return
    aside = name.with_name(f".{name.name}.part")
    aside.unlink(missing_ok=True)
    os.link(file, aside)
    aside.replace(name)
    come_to("clone.linked")


def _pin(path: Path, original: Path, id: ImageId) -> Pin:
    status = path.stat()
    return Pin(
        path=path,
        original=original,
        sha256=id.sha256,
        size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        inode=status.st_ino,
    )


def check(pins: Iterable[Pin], *, what: str, is_full: bool) -> None:
    """Whether the files are what they were: by size, modification time and inode, which takes no time.

    is_full: read them all, which finds what a bad disk did. A file that only looks changed, one that was installed
    anew, is read too. what: "the clone 'web1'". Raises VerifyError with how to repair it.
    """
    for pin in pins:
        fault = find_fault(pin, is_full=is_full)
        if fault:
            raise VerifyError(
                f"{what} stands on an image file that {fault}",
                details=[("file", str(pin.path)), ("expected", f"sha256 {pin.sha256}")],
                try_next="golden doctor, which says how to repair it",
            )


def find_fault(pin: Pin, *, is_full: bool) -> str | None:
    """ "is gone" or "was changed"; None if the file is what it was."""
    try:
        status = pin.path.stat()
    except FileNotFoundError:
        return "is gone"
    if status.st_size != pin.size_bytes:
        return "was changed"
    if not is_full and (status.st_mtime_ns, status.st_ino) == (pin.mtime_ns, pin.inode):
        return None
    return None if store.sha256(pin.path) == pin.sha256 else "was changed"


def remedy(pin: Pin, lease: Lease) -> str:
    """What makes the clones of this file whole again."""
    if pin.original.exists() and store.sha256(pin.original) == pin.sha256:
        return f"golden clone repair {lease.name}"
    if lease.origin == "built":
        return f"golden clone destroy {lease.name}; a build cannot be had again byte by byte"
    # Source: docs/architecture.md, "RPMs": golden-rocky9-upgrade-image-20261121.1.
    image, _, version = pin.original.stem.rpartition("-")
    package = f"golden-{image}-image-{version}"
    verb = "reinstall" if pin.original.exists() else "install"
    return f"dnf {verb} {package} && golden clone repair {lease.name}"


class Fault(Frozen):
    """A clone that cannot start. found: in the user's words. remedy: what to type."""

    clone: str
    found: str
    remedy: str


def faults(state: Path) -> list[Fault]:
    """Of all clones whose image files are gone or changed, as far as that is to be seen without reading them all."""
    found = []
    for lease in whole_leases(state):
        for pin in lease.pins:
            if (fault := find_fault(pin, is_full=False)) is not None:
                found.append(Fault(clone=lease.name, found=f"{pin.path} {fault}", remedy=remedy(pin, lease)))
                break
    return found


def repair(lease: Lease, *, state: Path) -> list[Path]:
    """Link what is gone or changed anew, from where the image is installed now; returns what was repaired.

    Raises VerifyError if there is no such file, or it has other bytes.
    """
    repaired = []
    with locked(state):
        for pin in lease.pins:
            if find_fault(pin, is_full=False) is None:
                continue
            if not pin.original.exists() or store.sha256(pin.original) != pin.sha256:
                raise VerifyError(
                    f"'{pin.original.name}' is not to be had: {pin.original} is gone or has other bytes",
                    details=[("expected", f"sha256 {pin.sha256}")],
                    try_next=remedy(pin, lease),
                )
            if pin.is_held:
                pin.path.parent.mkdir(parents=True, exist_ok=True)
                _link(pin.original, pin.path)
            repaired.append(pin.path)
    return repaired


def release(state: Path, *, in_use: Iterable[Path], is_thorough: bool = False) -> list[Path]:
    """Remove folders of links that nobody stands on; returns them. The caller holds `locked`.

    Links to files that are still installed cost nothing, and stay until is_thorough: to remove one changes the file's
    ctime, and its SHA-256 would be computed anew before the next clone. in_use: files of leases and saved memories.
    """
    used = {path.parent for path in in_use}
    removed = []
    for place in sorted(folder(state).glob("*")) if folder(state).is_dir() else []:
        if place not in used and (is_thorough or any(file.stat().st_nlink == 1 for file in place.iterdir())):
            shutil.rmtree(place)
            removed.append(place)
    return removed


def used_by_clones(state: Path) -> Iterator[Path]:
    for lease in whole_leases(state):
        yield from (pin.path for pin in lease.pins)


def _remove_if_empty(place: Path) -> None:
    for left in place.glob(".*.part"):
        left.unlink()
    with contextlib.suppress(OSError):
        place.rmdir()

"""Initial RAM disks: a static busybox, a few kernel modules in loading order, an init script. No host tool needed."""

from __future__ import annotations

import gzip
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from builder.errors import VerifyError
from builder.sandbox.definition import DATA
from builder.sandbox.stage import dependencies

# For the installer: every disk and CD-ROM drive that virt-install may pick (i440fx with IDE when it does not know
# the operating system), and what the installer image needs.
INSTALLER_MODULES = (
    # First: libcrc32c, which xfs needs, asks the crypto layer for it by a name that depmod knows nothing of.
    "crc32c_generic",
    "virtio_pci",
    "virtio_blk",
    "virtio_scsi",
    "ahci",
    "ata_piix",
    "sd_mod",
    "sr_mod",
    "cdrom",
    "isofs",
    "loop",
    "squashfs",
    "overlay",
    "dm_mod",
    "ext4",
    "xfs",
    "vfat",
    # Names on it, as the kernel has them by default.
    "nls_cp437",
    "nls_ascii",
    "virtio-rng",
)


def loading_order(names: Iterable[str], base: Path) -> list[str]:
    """The modules and what they need, each after what it needs; paths below `base` (lib/modules/RELEASE).

    Modules built into the kernel are left out. Raises VerifyError for a name the kernel does not have.
    """
    needs = dependencies(base)
    by_name = {_bare(path): path for path in needs}
    built_in = {_bare(line) for line in (base / "modules.builtin").read_text().split()}
    order: list[str] = []
    for name in names:
        key = name.replace("-", "_")
        if key in by_name:
            path = by_name[key]
            # depmod lists the nearest dependency first; the farthest has to be loaded first.
            order += [module for module in (*reversed(needs[path]), path) if module not in order]
        elif key not in built_in:
            raise VerifyError(f"the kernel in {base} has no module {name}")
    return order


def _bare(path: str) -> str:
    return Path(path).name.removesuffix(".ko").replace("-", "_")


def build(target: Path, *, init: str, busybox: Path, modules: Iterable[str], base: Path) -> None:
    """Write an initrd. init: name of the script below `data/`. base: lib/modules/RELEASE of its kernel."""
    order = loading_order(modules, base)
    archive = Archive()
    for folder in ("bin", "dev", "modules"):
        archive.folder(folder)
    # Until the init script has mounted devtmpfs it has no other console.
    archive.console()
    archive.file("bin/busybox", busybox.read_bytes(), mode=0o755)
    archive.file("init", (DATA / init).read_bytes(), mode=0o755)
    for path in order:
        archive.file(f"modules/{Path(path).name}", (base / path).read_bytes())
    archive.file("modules/order", "".join(f"{Path(path).name}\n" for path in order).encode())
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(archive.finish(), compresslevel=6, mtime=0))


def build_of_files(target: Path, *, files: Iterable[str], staged: Path) -> None:
    """Write an initrd that is put behind another one: programs and libraries of the guest.

    files: below `usr/` of one of the packages, which are the folders in `staged`. There, and here below `/`, they lie
    where the loader looks for them. Raises VerifyError for a file that no package has.
    """
    archive, folders = Archive(), set()
    for name in files:
        found = _staged(name, staged)
        for folder in reversed(Path(name).parents[:-1]):
            if folder not in folders:
                archive.folder(folder.as_posix())
                folders.add(folder)
        archive.file(name, found.read_bytes(), mode=0o755)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(archive.finish(), compresslevel=6, mtime=0))


def _staged(name: str, staged: Path) -> Path:
    """The guest's file /usr/NAME. An absolute link leads to another file of the guest, never to one of this host."""
    places = (folder / "usr" / name for folder in sorted(staged.iterdir()))
    found = next((path for path in places if os.path.lexists(path)), None)
    if found is None:
        raise VerifyError(f"no package of the sandbox has /usr/{name}, which its initrd needs")
    if found.is_symlink() and (target := found.readlink()).is_absolute():
        return _staged(target.relative_to("/").as_posix().removeprefix("usr/"), staged)
    return found


class Archive:
    """A cpio archive in the `newc` format, in memory. Source: cpio(5), "New ASCII Format"."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._inode = 0

    def folder(self, name: str) -> None:
        self._add(name, mode=stat.S_IFDIR | 0o755)

    def file(self, name: str, content: bytes, *, mode: int = 0o644) -> None:
        self._add(name, mode=stat.S_IFREG | mode, content=content)

    def console(self) -> None:
        self._add("dev/console", mode=stat.S_IFCHR | 0o600, device=(5, 1))

    def finish(self) -> bytes:
        self._add("TRAILER!!!", mode=0)
        return bytes(self._bytes)

    def _add(self, name: str, *, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        raw = name.encode() + b"\0"
        fields = [self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(raw), 0]
        self._bytes += b"070701" + b"".join(b"%08X" % value for value in fields) + raw
        self._pad()
        self._bytes += content
        self._pad()

    def _pad(self) -> None:
        self._bytes += b"\0" * (-len(self._bytes) % 4)

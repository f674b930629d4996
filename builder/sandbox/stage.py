"""The files of one RPM in a folder: Debian packages unpacked, merged into usr/, thinned, golden's own files added."""

from __future__ import annotations

import fnmatch
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from builder import run
from builder.errors import VerifyError
from builder.sandbox import debian
from builder.sandbox.definition import DATA, Package

# Debian's archive still carries /bin, /lib, …; an EL root has them as links into usr/.
_MERGED = ("bin", "lib", "lib64", "sbin")

# Debian's own Python compiles for Debian's own Python: host and guest get both from the same package sources.
_PYTHON = Path("/usr/bin/python3")


def stage(package: Package, debs: Iterable[debian.Deb], *, cache: Path, root: Path, log: Path) -> None:
    """Fill the new folder `root` with what the RPM `package` carries."""
    root.mkdir(parents=True)
    for deb in debs:
        debian.extract(cache / deb.file, into=root, log=log)
    merge_usr(root)
    thin(root, package.unwanted)
    if package.overlay and (DATA / package.overlay).is_dir():
        add_overlay(DATA / package.overlay, root)
    for link, target in package.links:
        path = root / link.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(target)
    if package.modules:
        keep_modules(root, package.modules, log=log)
    compile_python(root, log=log)


def merge_usr(root: Path) -> None:
    """Move /bin, /lib, /lib64 and /sbin into usr/. The links that replace them are files of the package `setup`."""
    for name in _MERGED:
        old = root / name
        if old.is_dir() and not old.is_symlink():
            _merge(old, root / "usr" / name)


def _merge(old: Path, new: Path) -> None:
    new.mkdir(parents=True, exist_ok=True)
    for entry in list(old.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            _merge(entry, new / entry.name)
        else:
            entry.rename(new / entry.name)
    old.rmdir()


def add_overlay(overlay: Path, root: Path) -> None:
    """Copy golden's own files over `root`: scripts executable, everything owned by root.

    A file `NAME.link` holds the target of a symbolic link NAME: neither wheels nor zip archives carry links.
    """
    for source in sorted(overlay.rglob("*")):
        target = root / source.relative_to(overlay)
        if source.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        elif source.suffix == ".link":
            target = target.with_suffix("")
            if target.is_dir() and not target.is_symlink():
                target.rmdir()
            target.unlink(missing_ok=True)
            target.symlink_to(source.read_text().strip())
        elif source.name != ".keep":
            # Not over what is there: it may be a hard link to a file of another tree.
            target.unlink(missing_ok=True)
            shutil.copyfile(source, target)
            target.chmod(0o755 if source.read_bytes().startswith(b"#!") else 0o644)


def thin(root: Path, unwanted: Iterable[str]) -> None:
    """Remove what matches, then the folders that this emptied; folders that came empty stay."""
    patterns = list(unwanted)
    for path in list(walk(root)):
        name = path.relative_to(root).as_posix()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns) and (path.is_symlink() or path.exists()):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
            _remove_empty(path.parent, below=root)


def _remove_empty(folder: Path, *, below: Path) -> None:
    while folder != below and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def walk(root: Path) -> Iterator[Path]:
    """Everything below `root`, folders before their content, in a fixed order; links are not followed."""
    for folder, folders, files in os.walk(root):
        folders.sort()
        yield from (Path(folder) / name for name in sorted([*folders, *files]))


def keep_modules(root: Path, wanted: Iterable[str], *, log: Path) -> None:
    """Keep the kernel modules `wanted` and what they depend on; rebuild depmod's indexes.

    wanted: files and folders below `lib/modules/RELEASE/kernel`. Raises VerifyError if one of them is not there.
    """
    release = kernel_release(root)
    base = root / "usr/lib/modules" / release
    keep: set[Path] = set()
    # depmod looks below lib/modules, not below usr/.
    (root / "lib").symlink_to("usr/lib")
    depmod(root, release, log=log)
    needs = dependencies(base)
    for name in wanted:
        path = base / "kernel" / name
        matches = [path] if path.is_file() else sorted(path.rglob("*.ko"))
        if not matches:
            raise VerifyError(f"the kernel {release} has no module {name}")
        for module in matches:
            keep |= {module, *(base / other for other in needs[module.relative_to(base).as_posix()])}
    for module in base.rglob("*.ko"):
        if module not in keep:
            module.unlink()
    for folder in sorted((p for p in base.rglob("*") if p.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    depmod(root, release, log=log)
    (root / "lib").unlink()


def kernel_release(root: Path) -> str:
    """The one kernel below `root`. Raises VerifyError if there is none, or more than one."""
    releases = [path.name for path in (root / "usr/lib/modules").iterdir()]
    if len(releases) != 1:
        raise VerifyError(f"one kernel was expected in {root}, found: {', '.join(releases) or 'none'}")
    return releases[0]


def depmod(root: Path, release: str, *, log: Path) -> None:
    run.run(["depmod", "-b", root, release], why=f"index the modules of {release}", timeout_s=60, log=log)


def dependencies(base: Path) -> dict[str, list[str]]:
    """depmod's `modules.dep`: module -> the modules it needs, nearest first, all as paths below `base`."""
    lines = (line.split(":", 1) for line in (base / "modules.dep").read_text().splitlines())
    return {module: needs.split() for module, needs in lines}


def compile_python(root: Path, *, log: Path) -> None:
    """Compile Python modules ahead: under TCG the first `dnf` of every guest would spend a minute on it.

    unchecked-hash: a .pyc that holds no time stamp survives being packed and unpacked.
    """
    folders = [root / "usr/lib/python3.11", root / "usr/lib/python3/dist-packages"]
    present = [folder for folder in folders if folder.is_dir()]
    if present:
        argv: list[str | Path] = [_PYTHON, "-m", "compileall", "-q", "-s", root, "-p", "/"]
        argv += ["--invalidation-mode", "unchecked-hash"]
        run.run([*argv, *present], why="compile Python modules", timeout_s=300, log=log)

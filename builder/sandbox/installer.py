"""`images/install.img`: the root the stand-in for Anaconda runs in."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from builder import run
from builder.errors import HostError
from builder.sandbox.definition import DATA
from builder.sandbox.stage import add_overlay, compile_python, walk

# The stand-in's own dependency and what that imports; pure Python, copied from where golden runs.
PYTHON_PACKAGES = ("pykickstart", "requests", "urllib3", "idna", "certifi", "charset_normalizer")
STAND_IN = Path(__file__).parent / "stand_in"


def build(target: Path, *, staged: Iterable[Path], root: Path, log: Path) -> None:
    """Merge the staged packages and the stand-in below the new folder `root`, and pack it."""
    root.mkdir(parents=True)
    for folder in staged:
        link_tree(folder, root)
    add_overlay(DATA / "installer", root)
    packages = root / "usr/lib/python3/dist-packages"
    for name in PYTHON_PACKAGES:
        copy_python_package(location(name), packages / name)
    copy_python_package(STAND_IN, packages / "golden_stand_in")
    compile_python(root, log=log)
    for name in ("proc", "sys", "dev", "run", "mnt/sysroot", "tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    argv: list[str | Path] = ["mksquashfs", root, target, "-comp", "zstd", "-Xcompression-level", "3", "-noappend"]
    run.run([*argv, "-no-progress", "-quiet"], why="pack the installer's image", timeout_s=300, log=log)


def link_tree(source: Path, target: Path) -> None:
    """Copy a tree by hard links, as packages are laid over each other: folders merge, later files win."""
    for path in walk(source):
        place = target / path.relative_to(source)
        if path.is_dir() and not path.is_symlink():
            place.mkdir(exist_ok=True)
            shutil.copystat(path, place)
            continue
        place.unlink(missing_ok=True)
        os.link(path, place, follow_symlinks=False)


def copy_python_package(source: Path, target: Path) -> None:
    """Python files and data alone: compiled modules of another interpreter have no place in the installer."""
    skip = shutil.ignore_patterns("__pycache__", "*.so", "*.mo", "*.po", "locale")
    shutil.copytree(source, target, ignore=skip, dirs_exist_ok=True)


def location(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise HostError(f"the Python package '{name}' is not there", try_next="pip install pykickstart")
    return Path(found.submodule_search_locations[0])

"""What a sandbox was made from, kept beside it: a second `create` with the same inputs has nothing to do."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from builder import run

_NAME = ".stamp.json"
_HERE = Path(__file__).parent
_PARTS = ("sandbox.iso", "updates/repodata/repomd.xml", "golden.toml", "keys/id_ed25519")


@dataclass(frozen=True)
class Stamp:
    """quick: digest of golden's files and the state of apt's lists. full: of golden's files and apt's answer.

    parts: path -> size in bytes of what was made. The rest are numbers of RPMs.
    """

    quick: str
    full: str
    parts: dict[str, int]
    base_packages: int
    update_packages: int


def quick() -> str:
    """As long as apt's lists are the same, its answer is the same; asking it would take 2 seconds."""
    lists = Path(
        shlex.split(run.query(["apt-config", "shell", "X", "Dir::State::lists/d"], why="find apt's lists"))[0][2:]
    )
    entries = sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in lists.iterdir() if p.is_file())
    return _digest(entries)


def full(files: Mapping[str, str]) -> str:
    """files: Debian package -> file name, as apt resolved them."""
    return _digest(sorted(files.values()))


def _digest(value: object) -> str:
    digest = hashlib.sha256(json.dumps(value).encode())
    digest.update(importlib.metadata.version("pykickstart").encode())
    for path in sorted(_HERE.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(_HERE)}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def matches(folder: Path, *, quick: str | None = None, full: str | None = None) -> Stamp | None:
    """The stamp of `folder` if it was made from these inputs and everything is still there, else None."""
    found = read(folder)
    if found is None or (quick not in (None, found.quick)) or (full not in (None, found.full)):
        return None
    is_whole = all(
        (folder / part).is_file() and (folder / part).stat().st_size == size for part, size in found.parts.items()
    )
    return found if is_whole else None


def read(folder: Path) -> Stamp | None:
    """None if there is no stamp, or one that was damaged or written by another version of golden."""
    try:
        return Stamp(**json.loads((folder / _NAME).read_text()))
    except (OSError, TypeError, ValueError):
        return None


def measure(folder: Path) -> dict[str, int]:
    """The sizes of the parts, as `matches` will look for them."""
    return {part: (folder / part).stat().st_size for part in _PARTS}


def write(folder: Path, stamp: Stamp) -> None:
    aside = folder / f"{_NAME}.part"
    aside.write_text(json.dumps(asdict(stamp), indent=2))
    aside.rename(folder / _NAME)


def remove(folder: Path) -> None:
    (folder / _NAME).unlink(missing_ok=True)

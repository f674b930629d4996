"""SHA-256 of large files, remembered by what the file system says of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from builder.model import Build
from builder.store import Store, sha256, write_atomically


def remembered_sha256(path: Path, *, state: Path) -> str:
    """Hex SHA-256 of a file that rarely changes (a DVD); read again only when inode, size, mtime or ctime differ.

    Not for the images of a chain: those are read in full before anything is built on them.
    """
    status = path.stat()
    identity = [str(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    memory = state / "host" / "digests.json"
    known: dict[str, str] = _read(memory)
    key = json.dumps(identity)
    if key not in known:
        others = {name: digest for name, digest in known.items() if json.loads(name)[0] != str(path)}
        known = {**others, key: sha256(path)}
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(memory, json.dumps(known, indent=1))
    return known[key]


class Artifacts:
    """Whether the image files of a store's builds are the ones that were built, at the cost of a look at each.

    A file is read once, and again only when its inode, size or mtime differ from what they were then; not its ctime,
    which the hard links of packages change. A change that a file system does not show is found by `Store.verify`.
    """

    def __init__(self, store: Store, *, note: Callable[[str], None] | None = None) -> None:
        """note: hears which file has to be read, which may take a while."""
        self._store = store
        self._note = note
        self._memory = store.root / "artifacts.json"
        self._known: dict[str, list[Any]] = _read(self._memory)
        self._is_new = False

    def fault(self, build: Build) -> str:
        """Why the build does not count, in words; empty if its file is the one that was built."""
        path = self._store.qcow2(build)
        try:
            status = path.stat()
        except FileNotFoundError:
            return f"the file of {build.version} is gone"
        changed = f"the file of {build.version} was changed after it was built"
        if status.st_size != build.size_bytes:
            return changed
        seen = [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]
        known = self._known.get(path.name)
        if known is None or known[:-1] != seen:
            if self._note is not None:
                self._note(f"reading {path.name}: it is not known by its inode and times")
            known = [*seen, sha256(path)]
            self._known[path.name] = known
            self._is_new = True
        return "" if known[-1] == build.id.sha256 else changed

    def remember(self, build: Build) -> None:
        """The file was just written and read: `build.id` has its digest."""
        status = self._store.qcow2(build).stat()
        seen = [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]
        self._known[self._store.qcow2(build).name] = [*seen, build.id.sha256]
        self._is_new = True
        self.save()

    def save(self) -> None:
        """Keep what was learnt. Two goldens at once may lose some of it, which costs reading again."""
        if not self._is_new or not self._store.root.is_dir():
            return
        there = {name: known for name, known in self._known.items() if (self._store.images / name).exists()}
        write_atomically(self._memory, json.dumps(there))
        self._is_new = False


def _read(memory: Path) -> dict[str, Any]:
    try:
        found = json.loads(memory.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}

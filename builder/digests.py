"""SHA-256 of large files, remembered by what the file system says of them."""

from __future__ import annotations

import json
from pathlib import Path

from builder.store import sha256, write_atomically


def remembered_sha256(path: Path, *, state: Path) -> str:
    """Hex SHA-256 of a file that rarely changes (a DVD); read again only when inode, size, mtime or ctime differ.

    Not for the images of a chain: those are read in full before anything is built on them.
    """
    status = path.stat()
    identity = [str(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    memory = state / "host" / "digests.json"
    try:
        known: dict[str, str] = json.loads(memory.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        known = {}
    key = json.dumps(identity)
    if key not in known:
        others = {name: digest for name, digest in known.items() if json.loads(name)[0] != str(path)}
        known = {**others, key: sha256(path)}
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(memory, json.dumps(known, indent=1))
    return known[key]

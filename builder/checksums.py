"""Checksum files as distributions publish them: which SHA-256 a file should have."""

from __future__ import annotations

import re

# `HEX  name`, `HEX *name` (binary); a leading backslash says that the name is escaped. Source: sha256sum(1).
_GNU = re.compile(r"\\?(?P<digest>[0-9A-Fa-f]{64}) [ *](?P<name>.+)")
# `SHA256 (name) = HEX`. Source: sha256sum(1), --tag; BSD's sha256(1).
_BSD = re.compile(r"SHA256 ?\((?P<name>.+)\) ?= ?(?P<digest>[0-9A-Fa-f]{64})")
# A file that is about one other alone.
_BARE = re.compile(r"[0-9A-Fa-f]{64}")


def sha256_of(name: str, text: str) -> str:
    """The hex SHA-256 that `text` gives for the file `name`; folders in front of names do not count.

    Other lines (comments, other kinds of digests) are passed over. Raises ValueError, for people, if none names the
    file or two of them differ.
    """
    listed: dict[str, set[str]] = {}
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        if match := _BSD.fullmatch(line) or _GNU.fullmatch(line):
            listed.setdefault(match["name"].rpartition("/")[2], set()).add(match["digest"].lower())
    if not listed and len(lines) == 1 and _BARE.fullmatch(lines[0]):
        return lines[0].lower()
    found = listed.get(name, set())
    if len(found) > 1:
        raise ValueError(f"it gives {len(found)} different SHA-256 for '{name}'")
    if not found:
        some = ", ".join(sorted(listed)[:5])
        raise ValueError(f"it gives no SHA-256 for '{name}'" + (f"; it has {some}" if some else ""))
    return found.pop()

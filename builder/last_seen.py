"""What package repositories held when they last answered, so that planning does without a network.

STATE/cache/repositories/KEY.json       KEY is the SHA-256 of the address
"""

from __future__ import annotations

import contextlib
import hashlib
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from builder.frozen import Frozen
from builder.store import write_atomically


class Seen(Frozen):
    """repomd: the text of repomd.xml, which holds the digests of all the rest. asked: UTC, "2026-11-21 10:00"."""

    repomd: str
    asked: str


def remember(address: str, repomd: str, *, state: Path) -> None:
    """Keep what the repository at `address` holds now. Who may not write to the state is none the worse for it."""
    with contextlib.suppress(OSError):
        path = _path(address, state)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, Seen(repomd=repomd, asked=f"{datetime.now(UTC):%Y-%m-%d %H:%M}").model_dump_json())


def last_seen(address: str, *, state: Path) -> Seen | None:
    """None if it was never asked, or what was kept cannot be read."""
    try:
        return Seen.model_validate_json(_path(address, state).read_bytes())
    except (OSError, ValidationError):
        return None


def _path(address: str, state: Path) -> Path:
    return state / "cache" / "repositories" / f"{hashlib.sha256(address.encode()).hexdigest()}.json"

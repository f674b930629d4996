"""What is known of an image beside its builds: that it was built again, and nothing new came of it.

STATE/PROJECT/checked/IMAGE.json     the newest such check of each image
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from builder.frozen import Frozen
from builder.model import ImageId
from builder.store import Store, write_atomically


class Check(Frozen):
    """That a build with other inputs came out as `build`, which therefore stands. at: UTC, ISO 8601."""

    format: int = 1
    build: ImageId
    key: str
    inputs: dict[str, str]
    texts: dict[str, str]
    reason: str
    at: str


def checks(store: Store) -> dict[str, Check]:
    """Image -> its newest check. What cannot be read costs another build and nothing else."""
    found = {}
    for path in _folder(store).glob("[!.]*.json"):
        try:
            found[path.stem] = Check.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            continue
    return found


def write(store: Store, check: Check) -> None:
    """The caller holds the store's lock."""
    folder = _folder(store)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{check.build.image}.json", check.model_dump_json(indent=2) + "\n")


def _folder(store: Store) -> Path:
    return store.root / "checked"

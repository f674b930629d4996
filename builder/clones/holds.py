"""Image files held for what a failed test left: as long as the folder with its disks is there.

STATE/clones/.holds/ID.json     one for each such folder and image

The disks of a bundle stand on images as a clone's do, and are to be opened again days later. So they have links of
their own to the image files, beside the facts of each, and the record here is to them what a lease is to a clone.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from builder import store
from builder.clones import pins
from builder.clones.leases import Lease, Pin
from builder.clones.sources import Source
from builder.model import Frozen, ImageId


class Hold(Frozen):
    """place: the folder of disks; without it nothing is held. image, files, pins, origin: as in a lease."""

    format: Literal[1] = 1
    place: Path
    image: ImageId
    files: tuple[Path, ...]
    pins: tuple[Pin, ...]
    origin: Literal["installed", "built"]

    @property
    def is_over(self) -> bool:
        return not self.place.is_dir()

    @property
    def bundle(self) -> Path:
        return self.place.parent


def folder(state: Path) -> Path:
    return state / "clones" / ".holds"


def hold(lease: Lease, place: Path, *, state: Path) -> None:
    """From now on the image of a clone is held for the disks in `place`, whatever becomes of the clone."""
    held = lease.pins[1:] if lease.warm else lease.pins
    with pins.locked(state):
        pins.hold_facts(held)
        found = Hold(place=place.absolute(), image=lease.image, files=lease.files, pins=held, origin=lease.origin)
        name = hashlib.sha256(f"{found.place}\0{lease.image.sha256}".encode()).hexdigest()[:16]
        folder(state).mkdir(parents=True, exist_ok=True)
        store.write_atomically(folder(state) / f"{name}.json", found.model_dump_json(indent=2) + "\n")


def holds(state: Path) -> Iterator[Hold]:
    """All that still hold something; one that is damaged, or goes away meanwhile, is passed over."""
    for _, found in _records(state):
        if not found.is_over:
            yield found


def find(state: Path, image: ImageId) -> Source | None:
    """The image as it is held, wherever it was installed from; None if it is not."""
    for found in holds(state):
        file = found.pins[0].path
        facts = file.with_suffix(".json")
        if found.image == image and file.exists() and facts.exists():
            return Source(build=store.read_build(facts), file=file, origin=found.origin)
    return None


def forget(state: Path) -> None:
    """Remove the records of folders that are gone. The caller holds `pins.locked`, and lets go of the files."""
    for path, found in _records(state):
        if found.is_over:
            path.unlink(missing_ok=True)


def _records(state: Path) -> Iterator[tuple[Path, Hold]]:
    for path in sorted(folder(state).glob("*.json")):
        with contextlib.suppress(FileNotFoundError, ValidationError):
            yield path, Hold.model_validate_json(path.read_bytes())

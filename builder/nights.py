"""The record of a night, STATE/PROJECT/nights/VERSION/night.json: what became of each image, and why."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from builder.causes import Cause
from builder.frozen import Frozen
from builder.model import VERSION, version_key
from builder.packages import Change
from builder.store import Store, sync_directory, version_after, write_atomically

FILE = "night.json"

# stands: nothing was to be done. verified: an old build, tested anew. held back: what it stands on is not good.
Outcome = Literal["stands", "built", "verified", "failed", "held back"]


class Attempt(Frozen):
    """One command of the night that failed. step: "build", "verify", …; cause: why it was, or was not, tried again.

    log: relative to the night's record, "" if there is none. exit_code: of golden's, 0 in records that have none yet.
    """

    step: str
    cause: Cause
    error: str
    log: str
    exit_code: int = 0


class Turn(Frozen):
    """One image in one night.

    reason: why it was built, or left alone. version: of the newest build, None if there is none; before: of the one
    that was good until then. changes: packages against `before`. build_s, verify_s: seconds that they took tonight,
    None if there was nothing to do. boot_s, checks, failed: of the verdict on `version`. log: relative to the record.
    """

    image: str
    parent: str | None
    outcome: Outcome
    reason: str
    version: str | None
    before: str | None = None
    size_bytes: int | None = None
    changes: tuple[Change, ...] = ()
    build_s: float | None = None
    verify_s: float | None = None
    boot_s: float | None = None
    checks: int = 0
    failed: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    log: str | None = None

    @property
    def is_good(self) -> bool:
        return self.outcome in ("stands", "built", "verified")


class Publication(Frozen):
    """What clients get. set: image -> version, all that is good. steps: what was done for it; is_new: if anything was.

    is_done: whether clients of `channel` have the set. exit_code: of the step that failed, which may be one after that.
    """

    channel: str
    set: dict[str, str]
    is_new: bool
    steps: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    exit_code: int = 0
    is_done: bool = True


class Night(Frozen):
    """started: UTC, ISO 8601. exit_code: of `golden nightly`. publication: None if nothing could or was to be."""

    format: Literal[1] = 1
    project: str
    version: str
    started: str
    seconds: float
    accelerator: Literal["kvm", "tcg"] | None
    exit_code: int
    turns: tuple[Turn, ...]
    publication: Publication | None

    def turn(self, image: str) -> Turn | None:
        return next((turn for turn in self.turns if turn.image == image), None)


def folder(store: Store) -> Path:
    return store.root / "nights"


def begin(store: Store) -> tuple[str, Path]:
    """A new night's version and its folder, with `logs/` in it."""
    place = folder(store)
    place.mkdir(parents=True, exist_ok=True)
    version = version_after(_versions(store))
    (place / version / "logs").mkdir(parents=True)
    return version, place / version


def write(store: Store, night: Night) -> Path:
    """Write the record down, and let `latest` lead to it. Returns the night's folder."""
    place = folder(store) / night.version
    write_atomically(place / FILE, night.model_dump_json(indent=1) + "\n")
    link = folder(store) / ".latest"
    link.unlink(missing_ok=True)
    link.symlink_to(night.version)
    link.rename(folder(store) / "latest")
    sync_directory(folder(store))
    return place


def history(store: Store, *, most: int) -> list[Night]:
    """The last nights, oldest first. One that was cut off has no record and does not count."""
    found: list[Night] = []
    for version in sorted(_versions(store), key=version_key, reverse=True):
        if len(found) == most:
            break
        with contextlib.suppress(OSError, ValidationError):
            found.append(Night.model_validate_json((folder(store) / version / FILE).read_bytes()))
    return found[::-1]


def copy(place: Path, target: Path) -> None:
    """What a web server or a CI server shows of a night: the page, junit.xml and the record, each whole at any time."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("index.html", "junit.xml", FILE):
        write_atomically(target / name, (place / name).read_text(encoding="utf-8"))


def forget(store: Store, *, keep: int) -> None:
    """Remove all but the newest `keep` nights, with their logs."""
    for version in sorted(_versions(store), key=version_key)[: -max(keep, 1)]:
        shutil.rmtree(folder(store) / version)


def _versions(store: Store) -> list[str]:
    return [path.name for path in folder(store).glob("*") if VERSION.fullmatch(path.name)]

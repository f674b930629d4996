"""What verifying a build found, kept in STATE/PROJECT/verified/IMAGE-VERSION.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from builder.frozen import Frozen
from builder.model import Build, version_key
from builder.packages import Change, compare
from builder.store import Store, write_atomically


class Check(Frozen):
    """One thing that was looked at. message: what was found instead, or why it was not looked at."""

    name: str
    result: Literal["passed", "failed", "skipped"]
    seconds: float = 0
    message: str = ""


class Verdict(Frozen):
    """sha256: of the image file that was looked at; of no other is this a verdict. at: UTC, ISO 8601.

    seconds: that verifying took. boot_s: from the kernel's start to default.target, None if it never got there.
    promises: digest of what was asked for.
    """

    format: Literal[1] = 1
    image: str
    version: str
    sha256: str
    passed: bool
    at: str
    seconds: float
    boot_s: float | None
    accelerator: Literal["kvm", "tcg"]
    promises: str
    tests: tuple[Check, ...]

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.tests if check.result == "failed"]


def place(store: Store, build: Build) -> Path:
    return store.root / "verified" / f"{build.stem}.json"


def write(store: Store, verdict: Verdict, build: Build) -> None:
    path = place(store, build)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, verdict.model_dump_json(indent=2) + "\n")


def read(store: Store, build: Build) -> Verdict | None:
    """None if there is none on this very file, or only a damaged one: it is looked at again then."""
    try:
        found = Verdict.model_validate_json(place(store, build).read_bytes())
    except (OSError, ValidationError, json.JSONDecodeError):
        return None
    return found if found.sha256 == build.id.sha256 else None


def last_good(store: Store, build: Build) -> tuple[Build, Verdict] | None:
    """The newest build of the same image before `build` that passed, and is still there."""
    age = version_key(build.version)
    for other in reversed([it for it in store.builds(build.image) if version_key(it.version) < age]):
        verdict = read(store, other)
        if verdict is not None and verdict.passed and store.is_present(other):
            return other, verdict
    return None


def package_changes(store: Store, before: Build, after: Build) -> list[Change]:
    """How the packages of `after` differ from those of `before`."""
    lists = [store.package_list(build).read_text(encoding="utf-8").split() for build in (before, after)]
    return compare(*lists)

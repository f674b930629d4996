"""How files lie in the cache: each in a folder named by its SHA-256, with facts beside it, and what addresses had."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from builder.model import Frozen
from builder.tools.download import Validators, shown


class Cached(Frozen):
    """One file of the cache. size_bytes: with all beside it. verified: against what.

    distribution: the one it was downloaded for.
    """

    name: str
    sha256: str
    size_bytes: int
    address: str
    distribution: str
    verified: str
    fetched: str


class Address(Frozen):
    """What an address had when it was last asked. verified: by whose word, as of `Cached`."""

    address: str
    distribution: str
    sha256: str | None = None
    verified: str = ""
    validators: Validators = Validators()


def file_facts(folder: Path) -> Path:
    """Of the file in `folder`. Its mtime is the time at which the file was used last."""
    return folder / ".facts.json"


def key(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()


def read_facts(root: Path, digest: str) -> Cached | None:
    """Of the file with that digest; None if there is none. root: of the cache."""
    try:
        return Cached.model_validate_json(file_facts(root / "files" / digest).read_bytes())
    except (OSError, ValidationError):
        return None


def address_facts(root: Path, name: str) -> Path:
    """name: the key of an address."""
    return root / "addresses" / f"{name}.json"


def read_address(root: Path, name: str, *, url: str) -> Address:
    try:
        return Address.model_validate_json(address_facts(root, name).read_bytes())
    except (OSError, ValidationError):  # all that it costs is asking again
        return Address(address=shown(url), distribution="")


@contextlib.contextmanager
def locked(root: Path, name: str, how: int) -> Iterator[bool]:
    """Hold the lock while the block runs; False if it cannot be had without waiting, and `how` does not wait."""
    path = root / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, how)
        except BlockingIOError:
            yield False
        else:
            yield True

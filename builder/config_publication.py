"""The parts of golden.toml on packages: [signing], [publish] and [retention]."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from builder.catalogue import Raw
from builder.config_values import Duration
from builder.publication import Retention, Rule, Signing

KEY_FILE = "keys/signing.asc"

_FINGERPRINT = re.compile(r"[0-9A-F]{40}([0-9A-F]{24})?")
# An address of rsync's, one of ssh's as rsync and scp write it, or a folder.
_TARGET = re.compile(r"rsync://[^\s/]+/[^\s/][^\s]*|([A-Za-z0-9_.-]+@)?[A-Za-z0-9_.-]+:/(?!/)[^\s]+|[^\s:]+")


def _fingerprint(value: object) -> str:
    text = str(value).replace(" ", "").upper().removeprefix("0X")
    if not _FINGERPRINT.fullmatch(text):
        raise ValueError(f"{str(value)!r} is not a fingerprint: 40 hex digits, as gpg --list-secret-keys shows them")
    return text


def _target(value: object) -> str:
    text = str(value).rstrip("/")
    if not _TARGET.fullmatch(text) or text.startswith("-"):
        raise ValueError(f"{str(value)!r} is no target; one looks like /srv/golden, rsync://HOST/MODULE or HOST:/PATH")
    return text


class RawSigning(Raw):
    file: str = KEY_FILE
    key: Annotated[str, BeforeValidator(_fingerprint)] | None = None
    homedir: str | None = None
    unsigned: bool = False

    @model_validator(mode="after")
    def _is_one_way(self) -> RawSigning:
        said = [name for name in ("file", "key", "unsigned") if name in self.model_fields_set and getattr(self, name)]
        if len(said) > 1:
            raise ValueError(f"says {' and '.join(said)}; they exclude each other")
        if self.homedir is not None and self.key is None:
            raise ValueError("homedir is where gpg has the key of that fingerprint; say 'key', too")
        return self

    def resolved(self, folder: Path) -> Signing | None:
        if self.unsigned:
            return None
        if self.key is None:
            return Signing(file=folder / self.file)
        return Signing(key=self.key, homedir=folder / Path(self.homedir).expanduser() if self.homedir else None)


class RawPublish(Raw):
    target: Annotated[str, BeforeValidator(_target)] | None = None

    def resolved(self, folder: Path) -> str | None:
        """A folder becomes an absolute one."""
        return self.target if self.target is None or ":" in self.target else str(folder / self.target)


class RawRule(Raw):
    keep: Annotated[int, Field(ge=1)] | None = None
    age: Duration | None = None


class RawRetention(Raw):
    keep: Annotated[int, Field(ge=1)] = Rule().keep
    age: Duration = Rule().age_s
    composes: Annotated[int, Field(ge=1)] = Retention().composes
    channel: dict[str, RawRule] = Field(default={})

    def resolved(self) -> Retention:
        return Retention(
            rule=Rule(keep=self.keep, age_s=self.age),
            own={
                name: Rule(keep=own.keep or self.keep, age_s=own.age or self.age) for name, own in self.channel.items()
            },
            composes=self.composes,
        )

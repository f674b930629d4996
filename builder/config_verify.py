"""The `verify` table of an image: what is promised of it, and how large and slow it may become."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from builder.catalogue import Raw
from builder.config_values import Duration, Size
from builder.model import FileCheck, Verify

_PERCENT = re.compile(r"([1-9][0-9]{0,3}) ?%")


def _parse_percent(value: object) -> int:
    match = _PERCENT.fullmatch(str(value))
    if match is None:
        raise ValueError(f"{value!r} is not a growth; write a whole number and a percent sign, such as '20%'")
    return int(match[1])


def _parse_mode(value: object) -> int:
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3,4}", value):
        raise ValueError(f"{value!r} is not a mode; write it as text in octal, such as '0644'")
    return int(value, 8)


def _parse_files(value: object) -> object:
    """A list of paths is a table of paths of which nothing else is asked."""
    return {str(path): {} for path in value} if isinstance(value, list) else value


def _check_path(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError(f"{value!r} is no path in the guest; those begin with '/'")
    return value


class _RawFile(Raw):
    mode: Annotated[int, BeforeValidator(_parse_mode)] | None = None
    owner: str | None = None
    contains: str | None = None


class RawVerify(Raw):
    inherit: bool = True
    packages: list[str] = Field(default=[])
    services: list[str] = Field(default=[])
    files: Annotated[dict[Annotated[str, BeforeValidator(_check_path)], _RawFile], BeforeValidator(_parse_files)] = (
        Field(default={})
    )
    commands: list[str] = Field(default=[])
    tests: list[str] = Field(default=[])
    boot_within: Duration | None = None
    size_below: Size | None = None
    growth: Annotated[int, BeforeValidator(_parse_percent)] | None = None

    def resolved(self) -> Verify:
        given: dict[str, Any] = {
            key: tuple(getattr(self, key)) for key in ("packages", "services", "commands", "tests")
        }
        return Verify(
            **given,
            inherit=self.inherit,
            files={path: FileCheck(**file.model_dump()) for path, file in self.files.items()},
            boot_within_s=self.boot_within,
            size_below_bytes=self.size_below,
            growth_percent=self.growth,
        )

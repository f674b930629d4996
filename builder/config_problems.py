"""What is wrong in golden.toml, collected while it is read: all of it is told at once, each with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from builder import private
from builder.config_messages import message
from builder.errors import ConfigError, Problem
from builder.model import NAME
from builder.toml_lines import line_of

M = TypeVar("M", bound=BaseModel)
Place = tuple[str | int, ...]
Lines = dict[Place, int]


class Problems:
    """Those of one file, and of the golden.private.toml over it. lines, own_lines: where the keys of the two stand.

    origin: image -> the name that its definition has in the file, where that is another one.
    """

    def __init__(self, file: Path, lines: Lines, *, own_lines: Lines) -> None:
        self._file = file
        self._lines = lines
        self._own_lines = own_lines
        self._found: list[Problem] = []
        self.origin: dict[str, str] = {}

    def add(self, place: Place, what: str) -> None:
        if place[0] == "image" and len(place) > 1:
            place = ("image", self.origin.get(str(place[1]), place[1]), *place[2:])
        where = ".".join(str(part) for part in place)
        line = line_of(self._lines, place)
        if place in self._own_lines or (place not in self._lines and place[:2] in self._own_lines):
            where, line = f"{private.FILE}: {where}", line_of(self._own_lines, place)
        self._found.append(Problem(where, what, line))

    def checked(self, model: type[M], data: object, *, at: Place) -> M | None:
        """The table as a model; None, and its problems, if it is not one."""
        try:
            return model.model_validate(data)
        except ValidationError as error:
            for detail in error.errors():
                self.add((*at, *detail["loc"]), message(detail, model))
            return None

    def check_name(self, name: str, place: Place) -> None:
        if not NAME.fullmatch(name):
            self.add(place, f"'{name}' is not a name; use a-z, 0-9, and single '-' or '.' between them")

    def tables(self, data: dict[str, Any], section: str) -> dict[str, dict[str, Any]]:
        """The tables [section.NAME]; a problem for each that is no table."""
        tables = data.get(section, {})
        if not isinstance(tables, dict):
            self.add((section,), f"is not a table; write [{section}.NAME]")
            return {}
        for name, value in tables.items():
            if not isinstance(value, dict):
                self.add((section, name), f"is not a table; write [{section}.{name}]")
        return {name: value for name, value in tables.items() if isinstance(value, dict)}

    def need_none(self) -> None:
        """Raises ConfigError with every problem, in the order of the file."""
        if self._found:
            found = sorted(set(self._found), key=lambda problem: (problem.line or 0, problem.where))
            count = "a problem" if len(found) == 1 else f"{len(found)} problems"
            raise ConfigError(f"{self._file.name} has {count}", problems=found)

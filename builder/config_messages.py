"""What pydantic found wrong in golden.toml, in the words of golden.toml."""

from __future__ import annotations

from typing import get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from builder.errors import did_you_mean


def message(detail: ErrorDetails, model: type[BaseModel]) -> str:
    """One problem for a person. model: of the whole table that was read."""
    kind = detail["type"]
    if kind == "extra_forbidden":
        key = str(detail["loc"][-1])
        return f"unknown key{did_you_mean(key, _keys_at(model, detail['loc'][:-1]))}"
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    message = detail["msg"]
    return f"{message[0].lower()}{message[1:]}, not {detail['input']!r}"


def _keys_at(model: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    """The keys that the table at `path` may have."""
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None:  # the free name of a table, [image.NAME]
            continue
        for candidate in (field.annotation, *get_args(field.annotation)):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
    return list(model.model_fields)

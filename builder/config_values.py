"""The parts of values in golden.toml: texts, tables, paths of the project and of the guest, modes and owners.

Each raises ValueError with the message for the user.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import BeforeValidator

from builder.errors import did_you_mean
from builder.units import parse_duration, parse_size

OWNER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?")

Options = Mapping[str, Any]

Size = Annotated[int, BeforeValidator(lambda value: parse_size(str(value)))]
Duration = Annotated[int, BeforeValidator(lambda value: parse_duration(str(value)))]


def need_true(kind: str, value: object) -> dict[str, Any]:
    if value is not True:
        raise ValueError(f"'{kind}' can only be true")
    return {}


def parse_texts(value: object, key: str) -> list[str]:
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not words or not all(isinstance(word, str) and word.strip() for word in words):
        raise ValueError(f"'{key}' takes one text or a list of texts, none of them empty")
    return words


def without_dash(words: list[str]) -> list[str]:
    for word in words:
        if word.startswith("-") or has_control(word):
            raise ValueError(f"{word!r} would be read as an option by dnf, not as a name")
    return words


def parse_table(value: object, kind: str, example: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        raise ValueError(f"'{kind}' takes a table, such as {example}")
    return value


def need_known_keys(table: Mapping[str, object], kind: str, known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            raise ValueError(f"'{kind}' has no '{key}'{did_you_mean(key, known)}; it has {', '.join(known)}")


def parse_lists(value: object, kind: str, keys: tuple[str, ...]) -> dict[str, list[str]]:
    table = parse_table(value, kind, f"{{ {keys[0]} = [...] }}")
    need_known_keys(table, kind, keys)
    return {key: parse_texts(table[key], key) for key in keys if key in table}


def parse_file_options(options: Options) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if "mode" in options:
        mode = options["mode"]
        if not isinstance(mode, str) or not re.fullmatch(r"0?[0-7]{3,4}", mode):
            raise ValueError(f'{mode!r} is no mode; write its octal digits as a text, such as "0644"')
        fields["mode"] = int(mode, 8)
    if "owner" in options:
        owner = options["owner"]
        if not isinstance(owner, str) or not OWNER.fullmatch(owner):
            raise ValueError(f"{owner!r} is no owner; write USER or USER:GROUP")
        fields["owner"] = owner if ":" in owner else f"{owner}:{owner}"
    return fields


def project_path(value: object) -> str:
    """A path below the folder of golden.toml, without `.` and `..`."""
    if not isinstance(value, str) or not value.strip() or has_control(value):
        raise ValueError(f"{value!r} is no path of the project")
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or path == PurePosixPath("."):
        raise ValueError(f"'{value}' is not below the folder of golden.toml; recipes take nothing from elsewhere")
    return str(path)


def guest_path(value: object) -> str:
    """An absolute path in the guest; a slash at its end is kept, it means "into this folder"."""
    if not isinstance(value, str) or not value.startswith("/") or has_control(value):
        raise ValueError(f"{value!r} is no path in the guest; one begins with '/'")
    if ".." in PurePosixPath(value).parts:
        raise ValueError(f"'{value}' has a '..' in it")
    path = "/" + "/".join(part for part in value.split("/") if part not in ("", "."))
    return f"{path}/" if value.endswith("/") and path != "/" else path


def has_control(text: str) -> bool:
    return any(not character.isprintable() for character in text)

"""Where each key of a TOML document stands, by tree-sitter's grammar: Python's own parser does not tell."""

from __future__ import annotations

import pathlib
import tomllib
from typing import Any

import tree_sitter
import tree_sitter_toml

Path = tuple[str | int, ...]


def read(file: pathlib.Path) -> tuple[dict[str, Any], dict[Path, int]]:
    """A TOML file, and the line of each key in it. Raises OSError, and ValueError with what is wrong with it."""
    text = file.read_text(encoding="utf-8")
    try:
        return tomllib.loads(text), key_lines(text)
    except RecursionError as error:  # both go down with it
        raise ValueError("its values are nested too deeply") from error


def key_lines(text: str) -> dict[Path, int]:
    """Path of every key and array element -> its line, 1-based. `text` must be valid TOML.

    `steps` of `[image.a]` is ("image", "a", "steps"), its second element ("image", "a", "steps", 1).
    """
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_toml.language()))
    lines: dict[Path, int] = {}
    _visit(parser.parse(text.encode()).root_node, (), lines)
    return lines


def line_of(lines: dict[Path, int], path: Path) -> int | None:
    """The line of `path`, or of the nearest thing around it that has one."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return None


def _visit(node: tree_sitter.Node, path: Path, lines: dict[Path, int]) -> None:
    elements = 0
    for child in node.named_children:
        line = child.start_point[0] + 1
        if child.type in ("pair", "table", "table_array_element"):
            key, *rest = child.named_children
            inner = path + tuple(_key(key))
            if child.type == "table_array_element":
                count = sum(1 for known in lines if len(known) == len(inner) + 1 and known[:-1] == inner)
                inner += (count,)
            for length in range(len(path) + 1, len(inner) + 1):
                lines.setdefault(inner[:length], line)
            if child.type == "pair":
                _visit(rest[0], inner, lines)
            else:
                _visit(child, inner, lines)
        elif node.type == "array" and child.type != "comment":
            lines[(*path, elements)] = line
            _visit(child, (*path, elements), lines)
            elements += 1


def _key(node: tree_sitter.Node) -> list[str]:
    if node.type == "dotted_key":
        return [part for child in node.named_children for part in _key(child)]
    text = (node.text or b"").decode()
    return list(tomllib.loads(f"{text} = 0")) if node.type == "quoted_key" else [text]

"""Writes the reference beside this file out of golden's own code: `make reference`. A test says when it is old."""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import click
from pydantic import BaseModel

from builder import (
    config,
    config_distributions,
    config_images,
    config_publication,
    config_steps,
    config_values,
    sources,
)
from builder.cli import golden
from builder.errors import exit_codes
from builder.model import Build, ImageId
from builder.store import OWN_DIGEST
from builder.units import format_seconds

HERE = Path(__file__).parent
_DURATIONS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
_NOTE = "<!-- Made by make.py out of the code; do not edit. -->\n"


def pages() -> dict[str, str]:
    """File name -> text."""
    return {
        "commands.md": f"{_NOTE}# Commands\n\n" + "\n".join(_command(path, it) for path, it in _commands(golden)),
        "golden-toml.md": f"{_NOTE}# Keys of golden.toml\n\n" + "\n".join(_tables()),
        "build-json.md": f"{_NOTE}# build.json\n\n{_build_json()}",
        "build.schema.json": json.dumps(_build_schema(), indent=2) + "\n",
        "exit-codes.md": f"{_NOTE}# Exit codes\n\n{_exit_codes()}",
    }


# --- commands


def _commands(command: click.Command, path: str = "golden") -> Iterator[tuple[str, click.Command]]:
    if not command.hidden:
        yield path, command
        children = command.commands if isinstance(command, click.Group) else {}
        for name in sorted(children):
            yield from _commands(children[name], f"{path} {name}")


def _command(path: str, command: click.Command) -> str:
    arguments = [it for it in command.params if isinstance(it, click.Argument)]
    options = [it for it in command.params if isinstance(it, click.Option) and not it.hidden]
    words = [path, *(["[OPTION]..."] if options else []), *map(_argument, arguments)]
    if isinstance(command, click.Group):
        words.append("COMMAND")
    text = f"## {path}\n\n```\n{' '.join(words)}\n```\n\n{inspect.cleandoc(command.help or '')}\n"
    if options:
        rows = [(_names(it), " ".join((it.help or "").split()), _default(it), _variable(it)) for it in options]
        text += "\n" + _table(("option", "what", "default", "environment"), rows)
    if command.epilog:
        _, _, lines = command.epilog.partition("Examples:\n")
        text += "\n```\n" + "\n".join(line.removeprefix("  ") for line in lines.splitlines()) + "\n```\n"
    return text


def _argument(it: click.Argument) -> str:
    name = (it.metavar or it.name or "").upper()
    if it.metavar:
        return name
    return (name if it.required else f"[{name}]") + ("..." if it.nargs == -1 else "")


def _names(it: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in it.opts)
    if it.is_flag or it.count:
        return names
    if isinstance(it.type, click.Choice):
        return f"{names} {' or '.join(f'`{choice}`' for choice in it.type.choices)}"
    return f"{names} {it.metavar or it.type.name.upper()}"


def _default(it: click.Option) -> str:
    return f"`{it.default}`" if it.show_default and it.default is not None else ""


def _variable(it: click.Option) -> str:
    return f"`{it.envvar}`" if it.envvar else ""


# --- golden.toml


def _tables() -> Iterator[str]:
    yield "What they mean is in [golden.toml](../golden-toml.md); here is what each takes, and what it is without it.\n"
    yield _model("[project]", config._Project)
    yield _model("[signing]", config_publication.RawSigning)
    yield _model("[publish]", config_publication.RawPublish)
    yield _model("[retention]", config_publication.RawRetention)
    yield _model("[retention.channel.NAME]", config_publication.RawRule)
    yield _model("[distribution.NAME]", config_distributions.RawDistribution)
    yield _model("source of a distribution", sources.RawSource)
    yield _model("limits of a distribution", config_distributions.RawLimits)
    yield _model("[image.DISTRIBUTION-LAYER]", config_images.RawImage)
    models: dict[str, Any] = dict(config_steps._MODELS)
    yield "## steps of an image\n\n" + _table(
        ("step", "runs", "options", "`timeout` without it"),
        [
            (
                f"`{kind}`",
                "in the running guest" if model.is_online else "offline",
                ", ".join(f"`{name}`" for name in ("timeout", "only", *options)),
                format_seconds(model.model_fields["timeout_s"].default),
            )
            for kind, (_, options) in config_steps._PARSERS.items()
            for model in [models[kind]]
        ],
    )


def _model(title: str, model: type[BaseModel]) -> str:
    hints = get_type_hints(model, include_extras=True)
    rows = [
        (f"`{name}`", _takes(name, hints[name]), "" if field.is_required() else _plain(field.default, hints[name]))
        for name, field in model.model_fields.items()
    ]
    return f"## {title}\n\n" + _table(("key", "takes", "without it"), rows)


def _takes(name: str, hint: Any) -> str:
    hint = _given(hint)
    for alias, words in (
        (config_values.Size, "a size"),
        (config_values.Duration, "a duration"),
        (config.Hash, "a hash"),
        (config_images.KeptKeys, "a table of paths and files"),
    ):
        if hint == alias:
            return words
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(hint))
    if get_origin(hint) is list:
        return "a list of steps, see below" if name == "steps" else "a list of texts"
    if get_origin(hint) is dict:
        return "tables, see below" if name == "channel" else "a table of texts"
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return "a table, see below"
    return {str: "a text", bool: "`true` or `false`", int: "a whole number"}.get(hint, "a value")


def _given(hint: Any) -> Any:
    """The type of a key that is there."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(it for it in get_args(hint) if it is not type(None))
    return hint


def _plain(default: Any, hint: Any) -> str:
    if default in (None, "", [], {}) or isinstance(default, BaseModel):
        return ""
    if _given(hint) == config_values.Duration:
        unit, seconds = next(it for it in _DURATIONS if default % it[1] == 0)
        return f'`"{default // seconds} {unit}"`'
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


# --- build.json, exit codes


_OWN_DIGEST_TEXT = "digest of all the rest, by which a damaged file is found; golden checks it, and the model lacks it"


def _build_schema() -> dict[str, Any]:
    schema = Build.model_json_schema()
    schema["properties"][OWN_DIGEST] = {"description": _OWN_DIGEST_TEXT, "type": "string"}
    return schema


def _build_json() -> str:
    rows = []
    meanings = {name: text for names, text in _described(Build) for name in names.split(", ")}
    hints = get_type_hints(Build, include_extras=True)
    for name, field in Build.model_fields.items():
        needed = "yes" if field.is_required() else ""
        rows.append((f"`{name}`", _json_kind(hints[name]), needed, meanings.get(name, "")))
    rows.append((f"`{OWN_DIGEST}`", "text", "", _OWN_DIGEST_TEXT))
    return (
        "The facts of a build, IMAGE-VERSION.json beside its qcow2 in the store and in its RPM. They are written last: "
        "what has none is no build. [The same as JSON Schema](build.schema.json).\n\n"
        + _table(("key", "holds", "always there", "what"), rows)
        + "\n`IMAGE` is `{"
        + ", ".join(f'"{name}": {_json_kind(hint)}' for name, hint in get_type_hints(ImageId).items())
        + "}`; the SHA-256 is of the qcow2.\n"
    )


def _described(model: type[BaseModel]) -> list[tuple[str, str]]:
    """Of a docstring's `name, other: what it is.` sentences."""
    text = " ".join(inspect.cleandoc(model.__doc__ or "").partition("\n\n")[2].split())
    parts = re.split(r"(?:^|(?<=\.) )((?:[a-z_]+, )*[a-z_0-9]+): ", text)[1:]
    return [(names, what.rstrip(".")) for names, what in zip(parts[::2], parts[1::2], strict=True)]


def _json_kind(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join("null" if it is type(None) else _json_kind(it) for it in get_args(hint))
    if get_origin(hint) is Annotated:
        return _json_kind(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in get_args(hint))
    if get_origin(hint) is dict:
        return "a table of texts"
    if get_origin(hint) is tuple:
        return {str: "a list of texts"}.get(get_args(hint)[0], "a list of tables")
    return {str: "text", bool: "true or false", int: "whole number", ImageId: "`IMAGE`"}.get(hint, "a table")


def _exit_codes() -> str:
    rows = [(str(code), meaning) for code, meaning in exit_codes().items()]
    return (
        "What `golden` ends with. Commands that hand over to another program (`clone ssh`, `clone exec`, `shell`, "
        "`sparrowdo`) end with its status, `clone exec` with 124 for one that was late; of "
        "several that fit a night, [nights](../nightly.md) say which.\n\n" + _table(("code", "what it means"), rows)
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    kept = [n for n in range(len(head)) if n < 2 or any(row[n] for row in rows)]
    lines = [[head[n] for n in kept], ["---" for _ in kept], *([row[n] for n in kept] for row in rows)]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    for name, text in pages().items():
        (HERE / name).write_text(text, encoding="utf-8")

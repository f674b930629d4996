"""Writes man pages and shell completions out of the commands: `python packaging/manual.py FOLDER`.

They are laid out below FOLDER as below /usr/share, so that a package takes them as they are.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from builder import __version__
from builder.cli import golden
from builder.errors import exit_codes

COMPLETIONS = {
    "bash": "bash-completion/completions/golden",
    "fish": "fish/vendor_completions.d/golden.fish",
    "zsh": "zsh/site-functions/_golden",
}


def files() -> dict[str, str]:
    """Path below /usr/share -> text."""
    pages = {f"man/man1/{context.command_path.replace(' ', '-')}.1": page(context) for context in contexts(golden)}
    return pages | {path: completion(shell) for shell, path in COMPLETIONS.items()}


def completion(shell: str) -> str:
    """click's own script, which asks golden at each Tab what fits."""
    kind = get_completion_class(shell)
    assert kind is not None
    return kind(golden, {}, "golden", "_GOLDEN_COMPLETE").source()


def contexts(command: click.Command, parent: click.Context | None = None) -> Iterator[click.Context]:
    """Of a command and all below it, parents first."""
    name = command.name if parent else "golden"
    context = click.Context(command, parent, info_name=name, **command.context_settings)
    yield context
    for child in _children(command):
        yield from contexts(child, context)


def _children(command: click.Command) -> list[click.Command]:
    below = command.commands if isinstance(command, click.Group) else {}
    return [below[name] for name in sorted(below) if not below[name].hidden]


def page(context: click.Context) -> str:
    """One page in the macros of man(7)."""
    command = context.command
    name = context.command_path.replace(" ", "-")
    options = [it for it in command.get_params(context) if isinstance(it, click.Option)]
    lines = [f'.TH {name.upper()} 1 "" "golden {__version__}" "golden"', ".SH NAME"]
    lines.append(f"{_plain(name)} \\- {_plain(command.get_short_help_str(limit=200).rstrip('.'))}")
    lines += [".SH SYNOPSIS", f"\\fB{_plain(context.command_path)}\\fR"]
    lines += [_plain(piece) for piece in command.collect_usage_pieces(context)]
    lines += [".SH DESCRIPTION", *_paragraphs(command.help or "")]
    if options:
        lines.append(".SH OPTIONS")
        for names, text in filter(None, (option.get_help_record(context) for option in options)):
            lines += [".TP", f"\\fB{_plain(names)}\\fR", _plain(" ".join(text.split()))]
    children = _children(command)
    if children:
        lines.append(".SH COMMANDS")
        for child in children:
            lines += [".TP", f"\\fB{_plain(f'{name}-{child.name}')}\\fR(1)"]
            lines.append(_plain(child.get_short_help_str(limit=200)))
    if command.epilog:
        _, _, shown = command.epilog.partition("Examples:\n")
        lines += [".SH EXAMPLES", ".nf", *map(_plain, inspect.cleandoc(shown).splitlines()), ".fi"]
    if context.parent is None:
        lines.append(".SH EXIT STATUS")
        for code, meaning in exit_codes().items():
            lines += [".TP", f"\\fB{code}\\fR", _plain(meaning)]
    else:
        lines += [".SH SEE ALSO", f"\\fB{_plain(context.parent.command_path.replace(' ', '-'))}\\fR(1)"]
    return "\n".join(lines) + "\n"


def _paragraphs(text: str) -> Iterator[str]:
    for n, paragraph in enumerate(re.split(r"\n\s*\n", inspect.cleandoc(text))):
        if n:
            yield ".PP"
        # What follows \b is kept as it is typed.
        if paragraph.startswith("\b"):
            yield from (".nf", *map(_plain, paragraph.splitlines()[1:]), ".fi")
        else:
            yield _plain(" ".join(paragraph.split()))


def _plain(text: str) -> str:
    """Text that roff prints as it is: groff_char(7) for the characters that it would turn into others."""
    special = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "~": "\\(ti", "^": "\\(ha"}
    text = "".join(special.get(letter, letter) for letter in text)
    return f"\\&{text}" if text.startswith(".") else text


if __name__ == "__main__":
    for path, text in files().items():
        file = Path(sys.argv[1]) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

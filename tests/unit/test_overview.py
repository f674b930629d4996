"""`golden --help` and that of its groups."""

from __future__ import annotations

import re

import click
import pytest
from click.testing import CliRunner

from builder.cli import golden, overview


def groups() -> list[tuple[str, ...]]:
    return [(), *((name,) for name, it in golden.commands.items() if isinstance(it, click.Group))]


@pytest.mark.parametrize("words", groups(), ids=lambda words: " ".join(("golden", *words)))
@pytest.mark.parametrize("width", [60, 110])
def test_each_command_is_listed_with_its_whole_first_sentence(words: tuple[str, ...], width: int) -> None:
    ended = CliRunner().invoke(golden, [*words, "--help"], terminal_width=width, max_content_width=width)
    assert ended.exit_code == 0
    command: click.Command = golden.commands[words[0]] if words else golden
    assert isinstance(command, overview.Overview)
    said = " ".join(ended.output.split())
    for name, child in command.commands.items():
        assert f" {name} {child.get_short_help_str(1000)}" in said
    shown, _, _ = ended.output.partition("Examples:")
    assert all(len(line) <= width for line in shown.splitlines())


def test_golden_lists_each_command_once_where_it_belongs() -> None:
    ended = CliRunner().invoke(golden, ["--help"])
    titles = re.findall(r"^(\w[\w ]*):$", ended.output, flags=re.MULTILINE)
    assert titles[:6] == ["Options", *overview.SECTIONS]
    listed = [name for names in overview.SECTIONS.values() for name in names]
    assert len(listed) == len(set(listed))
    assert set(listed) <= set(golden.commands)


def test_every_command_of_clone_but_one_that_becomes_another_program_has_json() -> None:
    group = golden.commands["clone"]
    assert isinstance(group, click.Group)
    without = {name for name, it in group.commands.items() if "as_json" not in {option.name for option in it.params}}
    assert without == {"ssh"}

"""The documentation speaks of what there is."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

from builder import config
from builder.cli import golden

TOP = Path(__file__).parents[2]
PAGES = [TOP / "README.md", *sorted((TOP / "docs").glob("*.md"))]


@pytest.mark.parametrize("model", [config._Project, config._Distribution, config._Image], ids=lambda m: m.__name__)
def test_every_key_of_golden_toml_is_described(model: type[BaseModel]) -> None:
    text = (TOP / "docs/golden-toml.md").read_text(encoding="utf-8")
    for key in model.model_fields:
        assert re.search(rf"`{key}`", text), f"{key} is missing in docs/golden-toml.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_shown_exist(page: Path) -> None:
    for language, block in re.findall(r"```(\w*)\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        if language:
            continue
        for words in re.findall(r"\bgolden ((?:[a-z-]+ ?)+)", block):
            command: click.Command = golden
            for word in words.split():
                if not isinstance(command, click.Group) or word not in command.commands:
                    break
                command = command.commands[word]
            assert command is not golden, f"there is no 'golden {words}'"


def commands(command: click.Command, path: str = "golden") -> list[tuple[str, click.Command]]:
    below = command.commands.items() if isinstance(command, click.Group) else ()
    return [(path, command)] + [found for name, child in below for found in commands(child, f"{path} {name}")]


@pytest.mark.parametrize(
    ("path", "command"), commands(golden), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_command_has_help_with_an_example(path: str, command: click.Command) -> None:
    assert command.help, path
    if not isinstance(command, click.Group):
        assert path in (command.epilog or ""), f"{path} --help shows no example"


def test_the_distributions_listed_are_those_of_the_catalogue(tmp_path: Path) -> None:
    text = (TOP / "docs/distributions.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([a-z0-9-]+)` \| ([^|]+) \| ([A-Z0-9]+) \| ([a-z ]+) \|$", text, flags=re.MULTILINE)
    known = config.without_file(tmp_path / "golden.toml").distributions.values()
    assert listed == [
        (it.name, it.title, it.kickstart_version, "network tree" if it.source else "yours") for it in known
    ]

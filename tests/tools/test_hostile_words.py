"""Whatever is typed where a command takes a text: the answer is a declared one, and nothing outside changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from builder.cli import golden
from builder.store import Store
from builder.tools import ssh
from tests.builds import add_chain

TOP = Path(__file__).parents[2]
PROJECT = """
[project]
name = "demo"
ssh_key = "id"
[signing]
unsigned = true
[distribution.sandbox]
inherits = "el9"
source = { dvd = "sandbox.iso" }
[image.sandbox-base]
distribution = "sandbox"
disk = "4 GiB"
[image.sandbox-upgrade]
parent = "sandbox-base"
"""

# `touch` in each way that a shell, a macro, a template or Python would run it; names that lead out of a folder.
NASTY = [
    "",
    "-rf",
    "../../../outside/file",
    "{outside}/file",
    "sandbox-upgrade@../../../../outside/file",
    "a b\n;touch {outside}/made",
    "$(touch {outside}/made)`touch {outside}/made`",
    "'\"; touch {outside}/made; '",
    "%(touch {outside}/made)%{{lua:io.open('{outside}/made','w')}}",
    "{{{{ 7*7 }}}}<x y='&'>]]>",
    "ü\u202e\U0001f4a9" + "x" * 300,
]

# What a command is told besides the text in question.
GOOD = {
    **dict.fromkeys(("image", "a", "--image"), "sandbox-upgrade"),
    **dict.fromkeys(("name", "names", "--name"), "web1"),
    **dict.fromkeys(("channel", "--channel", "--from", "--to"), "candidate"),
    **{"snapshot_name": "one", "sources": "web1:/etc/passwd", "destination": "copied", "words": "web1"},
    **{"bundle": "bundle", "folder": "folder", "--sparrowfile": "main.raku"},
}

# What says which file to write: it may be any, and what is typed for it leads nowhere else.
WRITTEN = {"-o"}


def commands(command: click.Command, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from commands(child, *path, name)
    else:
        yield path, command


def texts(command: click.Command) -> list[click.Parameter]:
    """The parameters of a command that take whatever is typed."""
    return [
        it
        for it in command.params
        if not (isinstance(it, click.Option) and (it.is_flag or it.count))
        and not isinstance(it.type, (click.Choice, click.types.IntParamType))
    ]


def words(command: click.Command, aside: click.Parameter, text: str) -> list[str]:
    """The command's words with `text` for one parameter, all that it needs, and as little done as it can."""
    options, arguments = [], []
    for it in command.params:
        value = text if it is aside else GOOD.get(it.opts[0]) if it.required else None
        if isinstance(it, click.Argument):
            arguments += [value] if value is not None else []
        elif value is not None:
            options += [f"{it.opts[0]}={value}"] if it.opts[0].startswith("--") else [it.opts[0], value]
        elif it.opts[0] in ("--dry-run", "--no-start"):
            options.append(it.opts[0])
        elif it.opts[0] == "--port":
            options.append("--port=0")
    return [*options, "--", *arguments]


# In one process: Python and the libraries are started once. What serves until it is ended is ended at once, and what
# makes a distribution out of downloads finds no program to begin with.
RUN = """
import json, os, signal, sys
from builder import cli
def end():
    raise KeyboardInterrupt
signal.pause = end
programs = os.environ["PATH"]
answers = []
for line in json.load(sys.stdin):
    sys.argv = ["golden", *line]
    os.environ["PATH"] = "/nowhere" if line[0] == "sandbox" else programs
    try:
        print("==", line, file=sys.stderr)
        cli.main()
    except SystemExit as end:
        answers.append([line, end.code])
json.dump(answers, open("answers.json", "w"))
"""


def test_no_text_does_more_than_it_says(tmp_path: Path) -> None:
    outside, project, state = tmp_path / "outside", tmp_path / "a/b/project", tmp_path / "a/b/state"
    outside.mkdir()
    (outside / "file").write_text("kept")
    project.mkdir(parents=True)
    (project / "golden.toml").write_text(PROJECT)
    (project / "main.raku").touch()
    ssh.make_key(project / "id", comment="test")
    add_chain(Store(state, "demo"), "sandbox-base", "sandbox-upgrade")
    lines = [
        [*path, *words(command, it, text.format(outside=outside))]
        for path, command in commands(golden)
        for it in texts(command)
        for text in NASTY
        if it.opts[0] not in WRITTEN or ("outside}/file" not in text and "/outside" not in text)
    ]
    assert {("repo", "serve"), ("sandbox", "create")} <= {tuple(line[:2]) for line in lines}
    assert any(word == "-o" or word.startswith("-o") for line in lines for word in line)
    assert len(lines) > 1000
    ended = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(lines),
        env={**os.environ, "GOLDEN_STATE": str(state), "GOLDEN_PROGRESS": "quiet", "PYTHONPATH": str(TOP)},
        cwd=project,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    print(ended.stderr)
    answers = json.loads((project / "answers.json").read_text())
    assert [line for line, _ in answers] == lines
    assert [it for it in answers if it[1] not in (0, 2, 3, 4, 5)] == []
    # A text alone makes nothing anywhere: what says where to write has written, and nothing else.
    assert sorted(it.name for it in outside.iterdir()) == ["file"]
    assert (outside / "file").read_text() == "kept"
    assert sorted(it.name for it in tmp_path.iterdir()) == ["a", "outside"]
    assert sorted(it.name for it in (tmp_path / "a/b").iterdir()) == ["project", "state"]

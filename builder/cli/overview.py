"""`golden --help`: what each command is for, whole sentences, ordered by what one wants to do; and where each is."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, MutableMapping

import click

# MODULE.ATTRIBUTE of each command, below builder.cli.
SECTIONS = {
    "Begin": {
        "init": "init.init",
        "sandbox": "sandbox.sandbox",
        "doctor": "doctor.doctor",
        "distributions": "distributions.distributions",
        "cache": "cache.cache",
    },
    "Build": {
        "plan": "build.plan",
        "why": "why.why",
        "build": "build.build",
        "resume": "resume.resume",
        "shell": "resume.shell",
        "flatten": "flatten.flatten",
        "reproduce": "reproduce.reproduce",
    },
    "Look": {
        "list": "inspect.list_images",
        "show": "inspect.show",
        "diff": "inspect.diff",
        "verify": "verify.verify_images",
        "bisect": "bisect.bisect",
    },
    "Hand out": {
        "package": "package.package",
        "publish": "publish.publish",
        "promote": "publish.promote",
        "rollback": "publish.rollback",
        "repo": "publish.repo",
        "nightly": "nightly.nightly",
        "step": "step.step",
        "accept": "step.accept",
        "collect": "collect.collect",
        "export": "export.export",
    },
    "Use": {
        "clone": "clone.clone",
        "test": "test.test",
        "sparrowdo": "sparrowdo.sparrowdo",
        "validate": "sparrowdo.validate",
        "status": "status.status",
        "harness": "harness.harness",
    },
}

# Letters of the first sentence of a command's help; more than any has.
_LIMIT = 400


class Lazy(MutableMapping[str, click.Command]):
    """Commands by their names; each is imported when it is asked for. All together they take most of a second."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._found: dict[str, str | click.Command] = dict(places)

    def __getitem__(self, name: str) -> click.Command:
        found = self._found[name]
        if isinstance(found, str):
            module, _, attribute = found.partition(".")
            command: click.Command = getattr(importlib.import_module(f"builder.cli.{module}"), attribute)
            self._found[name] = found = command
        return found

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._found[name] = command

    def __delitem__(self, name: str) -> None:
        del self._found[name]

    def __contains__(self, name: object) -> bool:
        return name in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


class Overview(click.Group):
    """A group whose help has sections, and cuts no sentence off."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        found = {name: command for name in self.list_commands(ctx) if (command := self.get_command(ctx, name))}
        shown = {name: it.get_short_help_str(_LIMIT) for name, it in found.items() if not it.hidden}
        # The names mean golden's own commands, not those of `golden clone` and the like.
        wanted = SECTIONS if ctx.parent is None else {}
        sections = {title: [name for name in names if name in shown] for title, names in wanted.items()}
        rest = [name for name in shown if not any(name in names for names in sections.values())]
        for title, names in (*sections.items(), ("Commands" if not sections else "More", rest)):
            if names:
                with formatter.section(title):
                    formatter.write_dl([(name, shown[name]) for name in names])

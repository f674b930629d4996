"""`golden --help`: what each command is for, whole sentences, ordered by what one wants to do."""

from __future__ import annotations

import click

# What is in none of them is listed last.
_SECTIONS = {
    "Begin": ("init", "sandbox", "doctor", "distributions", "cache"),
    "Build": ("plan", "why", "build", "resume", "shell", "flatten", "reproduce"),
    "Look": ("list", "show", "diff", "verify", "bisect"),
    "Hand out": ("package", "publish", "promote", "rollback", "repo", "nightly", "step", "accept", "collect", "export"),
    "Use": ("clone", "test", "sparrowdo", "validate", "status", "harness"),
}
# Letters of the first sentence of a command's help; more than any has.
_LIMIT = 400


class Overview(click.Group):
    """A group whose help has sections, and cuts no sentence off."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        found = {name: command for name in self.list_commands(ctx) if (command := self.get_command(ctx, name))}
        shown = {name: it.get_short_help_str(_LIMIT) for name, it in found.items() if not it.hidden}
        # The names mean golden's own commands, not those of `golden clone` and the like.
        wanted = _SECTIONS if ctx.parent is None else {}
        sections = {title: [name for name in names if name in shown] for title, names in wanted.items()}
        rest = [name for name in shown if not any(name in names for names in sections.values())]
        for title, names in (*sections.items(), ("Commands" if not sections else "More", rest)):
            if names:
                with formatter.section(title):
                    formatter.write_dl([(name, shown[name]) for name in names])

"""What comes of a good night: its images in a channel, and what nobody needs any more removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from builder.night_steps import Steps
from builder.nights import Attempt, Publication


def publish(
    good: dict[str, str], *, channel: str, done: Publication | None, steps: Steps, note: Callable[[str], None]
) -> Publication | None:
    """All that is good, or none; nothing is started if that is there already.

    good: image -> version. done: what the night before came to.
    """
    if not good:
        return None
    if done is not None and done.is_done and done.set == good and done.channel == channel:
        return done.model_copy(update={"is_new": False, "steps": (), "attempts": (), "exit_code": 0})
    attempts: list[Attempt] = []
    gone_well: list[str] = []
    code = 0
    for step, words in _commands(channel, list(good)):
        note(f"{step} …")

        def do(log: Path, words: Sequence[str] = words, step: str = step) -> None:
            steps.golden(words, why=f"{step} the night", log=log)

        code = steps.repeatedly(step, step, do, attempts)
        if code:
            break
        gone_well.append(step)
    return Publication(
        channel=channel,
        set=good,
        is_new=True,
        steps=tuple(gone_well),
        attempts=tuple(attempts),
        exit_code=code,
        is_done=("publish" if channel == "candidate" else "promote") in gone_well,
    )


def _commands(channel: str, images: list[str]) -> list[tuple[str, list[str]]]:
    """The commands that let clients have `images`, in order, and then remove what nobody needs any more."""
    commands = [("package", ["package", *images]), ("publish", ["publish", *images])]
    if channel != "candidate":
        commands.append(("promote", ["promote", "--to", channel, *images]))
    return [*commands, ("collect", ["collect"])]

"""What shells complete: names of clones, snapshots, images with their versions, tests."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, split_arg_string

from builder import clones, config
from builder.clones import snapshots
from builder.errors import GoldenError
from builder.harness import declaration
from builder.store import Store, default_state

_BREAKS = "@:"

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _quietly(complete: Complete) -> Complete:
    """What is damaged, or may not be read, is said by the command; at the prompt it is in the way."""

    @functools.wraps(complete)
    def found(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
        try:
            return complete(context, parameter, begun)
        except (GoldenError, OSError, ValueError):
            return []

    return found


@_quietly
def complete_name(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """A clone; of several words each once."""
    given = context.params.get("names") or ()
    return _items((name for name in clones.names(_state(context)) if name not in given), begun)


@_quietly
def complete_exec(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Of NAME... -- COMMAND..., the clones; the command is the guest's."""
    known, given = clones.names(_state(context)), context.params.get("words") or ()
    return _items((name for name in known if name not in given), begun) if set(given) <= set(known) else []


@_quietly
def complete_place(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """A clone, with the colon before a path in it, or else a file of this host."""
    found = _items((f"{name}:" for name in clones.names(_state(context))), begun) if begun else []
    return found or [CompletionItem(begun, type="file")]


@_quietly
def complete_snapshot(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """One of the clone that was named before."""
    name = context.params.get("name")
    known = snapshots.snapshots(_state(context), name) if name in clones.names(_state(context)) else []
    return _items((it.name for it in known), begun)


@_quietly
def complete_clonable(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """IMAGE, installed or built, and after the @ a version of it."""
    images, builds = _images(context), _store(context)
    image, at, _ = begun.partition("@")
    if not at:
        return _items(clones.image_names(images=images, builds=builds), begun)
    files = (file.stem for file in images.glob(f"{image}-*.qcow2") if not file.is_symlink())
    versions = {stem.removeprefix(f"{image}-") for stem in files if stem.rpartition("-")[0] == image}
    versions |= {build.version for build in builds.builds(image)} if builds else set()
    return _items((f"{image}@{version}" for version in versions), begun)


@_quietly
def complete_built(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """IMAGE as golden.toml defines it, and after the @ a version that was built."""
    image, at, _ = begun.partition("@")
    builds = _store(context)
    if at and builds is not None:
        return _items((f"{image}@{build.version}" for build in builds.builds(image)), begun)
    return _items(config.load(_file(context)).images, begun)


@_quietly
def complete_test(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """The name of a test below the folder that `golden test` would look into."""
    folder = context.params.get("folder") or _file(context).parent
    return _items((test.name for test in declaration.find(Path(folder).absolute(), ())), begun)


def _items(words: Iterable[str], begun: str) -> list[CompletionItem]:
    return [CompletionItem(word) for word in sorted(words) if word.startswith(begun)]


def _state(context: click.Context) -> Path:
    return Path(context.find_root().params.get("state") or default_state()).absolute()


def _file(context: click.Context) -> Path:
    return Path(context.find_root().params.get("file") or "golden.toml").absolute()


def _images(context: click.Context) -> Path:
    return Path(context.params.get("installed") or os.environ.get("GOLDEN_IMAGES_DIR") or clones.INSTALLED_IMAGES)


def _store(context: click.Context) -> Store | None:
    try:
        return Store(_state(context), config.load(_file(context)).name)
    except GoldenError:
        return None


class Bash(BashComplete):
    """bash takes IMAGE@VERSION and NAME:PATH for several words, and replaces only the last of them.

    Source: bash(1), COMP_WORDBREAKS, which has @ as long as host names are completed.
    """

    _kept = 0

    def get_completion_args(self) -> tuple[list[str], str]:
        words, at = split_arg_string(os.environ["COMP_WORDS"]), int(os.environ["COMP_CWORD"])
        current = words[at] if at < len(words) else ""
        joined: list[str] = []
        is_open = False
        for word in [*words[:at], current]:
            is_break = bool(word) and not word.strip(_BREAKS)
            if joined and (is_break or (is_open and word)):
                joined[-1] += word
            else:
                joined.append(word)
            is_open = is_break
        last = joined[-1]
        # What stands before the part that bash replaces; after a break that is nothing yet.
        self._kept = len(last) if is_open else len(last) - len(current)
        return joined[1:-1], last

    def format_completion(self, item: CompletionItem) -> str:
        return f"{item.type},{item.value[self._kept :]}"


add_completion_class(Bash)

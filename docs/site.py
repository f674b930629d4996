"""Hooks of mkdocs, for what docs/ is besides a site: pages of a repository, which others add to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"\[([^]]+)\]\(((?:\.\./)[^)#]*)(?:#[^)]*)?\)")


def on_config(config: Any) -> Any:
    """A page that the menu in mkdocs.yml does not name yet comes last in it."""
    named = str(config["nav"])
    pages = sorted(page.name for page in Path(config["docs_dir"]).glob("*.md"))
    config["nav"] += [page for page in pages if f"'{page}'" not in named]
    return config


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """A link to a file of the repository outside docs/ is text on the site, which has only docs/."""
    docs = Path(config["docs_dir"]).resolve()

    def text_alone(link: re.Match[str]) -> str:
        target = Path(page.file.abs_src_path).parent.joinpath(link[2]).resolve()
        # What does not exist stays a link, and fails the build.
        return link[0] if target.is_relative_to(docs) or not target.exists() else link[1]

    return _LINK.sub(text_alone, markdown)

"""A hook of mkdocs: a link to a file of the repository outside docs/ is text on the site, which has only docs/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
_LINK = re.compile(r"\[([^]]+)\]\(((?:\.\./)[^)#]*)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    def text_alone(link: re.Match[str]) -> str:
        target = (DOCS / page.file.src_uri).parent.joinpath(link[2]).resolve()
        # What does not exist stays a link, and fails the build.
        return link[0] if target.is_relative_to(DOCS) or not target.exists() else link[1]

    return _LINK.sub(text_alone, markdown)

"""The documentation as a site: the real mkdocs finds no broken link, and nothing is loaded from elsewhere."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from builder.errors import ToolError
from builder.run import query

TOP = Path(__file__).parents[2]


def build(config: Path, site: Path) -> None:
    argv = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", config, "--site-dir", site]
    query(argv, why="build the site", timeout_s=300, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})


def test_the_site_has_no_broken_link_and_has_every_page(tmp_path: Path) -> None:
    build(TOP / "mkdocs.yml", tmp_path / "site")
    pages = [page.relative_to(TOP / "docs") for page in (TOP / "docs").rglob("*.md")]
    assert Path("reference/commands.md") in pages
    home = (tmp_path / "site/index.html").read_text(encoding="utf-8")
    for page in pages:
        folder = page.parent if page.stem == "index" else page.with_suffix("")
        assert f'href="{prefix(folder)}"' in home, f"{page} is not in the menu"
        html = (tmp_path / "site" / folder / "index.html").read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://', html), f"{page} loads from elsewhere"


def prefix(folder: Path) -> str:
    """How the home page leads to a page's folder."""
    return "." if folder == Path() else f"{folder}/"


@pytest.mark.parametrize("target", ["clone.md", "../repo/golden-nihgtly.cron"])
def test_a_broken_link_fails_the_build(tmp_path: Path, target: str) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text(f"# Home\n\n[clones]({target})\n")
    config = tmp_path / "mkdocs.yml"
    text = (TOP / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[0]
    text = text.replace("hooks: [docs/site.py]", f"hooks: [{TOP}/docs/site.py]")
    config.write_text(text + "\nnav: [index.md]\n", encoding="utf-8")
    with pytest.raises(ToolError) as caught:
        build(config, tmp_path / "site")
    assert f"'{target}', but the target is not found" in dict(caught.value.details)["output"]

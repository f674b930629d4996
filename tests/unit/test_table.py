"""Tables in a narrow and a wide terminal, in a log, with NO_COLOR."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from builder.cli.table import folded, laid_out, print_table
from builder.progress import Reporter

COLUMNS = ["IMAGE", "PARENT", "", "REASON"]
ROWS = [
    ["sandbox-base", "", "reuse", "nothing changed since 20261121.1"],
    ["sandbox-tools-installed", "sandbox-upgrade", "build", "the package repository updates changed on Friday night"],
]


def shown(width: int, *, columns: list[str] = COLUMNS, rows: list[list[str]] = ROWS) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False, markup=False)
    return laid_out(columns, rows, console=console)


def test_where_there_is_room_a_row_is_a_line() -> None:
    assert shown(160) == (
        "IMAGE                    PARENT                  REASON\n"
        "sandbox-base                              reuse  nothing changed since 20261121.1\n"
        "sandbox-tools-installed  sandbox-upgrade  build  the package repository updates changed on Friday night"
    )


def test_in_less_room_sentences_are_folded_and_names_are_not() -> None:
    assert shown(80) == (
        "IMAGE                    PARENT                  REASON\n"
        "sandbox-base                              reuse  nothing changed since\n"
        "                                                 20261121.1\n"
        "sandbox-tools-installed  sandbox-upgrade  build  the package repository updates\n"
        "                                                 changed on Friday night"
    )


def test_in_a_narrow_terminal_a_row_is_a_block() -> None:
    assert shown(40) == (
        "sandbox-base  reuse\n"
        "  reason  nothing changed since\n"
        "          20261121.1\n"
        "sandbox-tools-installed  build\n"
        "  parent  sandbox-upgrade\n"
        "  reason  the package repository updates\n"
        "          changed on Friday night"
    )


@given(
    width=st.integers(1, 200),
    rows=st.lists(
        st.lists(st.text("abc-./ü", min_size=1, max_size=60), min_size=3, max_size=3), min_size=1, max_size=5
    ),
)
def test_every_name_can_be_copied_whole(width: int, rows: list[list[str]]) -> None:
    """Whatever the width: a cell without a blank stands in one line, and no line is longer for anything but that."""
    text = shown(width, columns=["NAME", "WHERE", "WHY"], rows=rows)
    for row in rows:
        for cell in row:
            assert cell in text
    longest = max(len(cell) for row in rows for cell in row)
    assert all(len(line) <= max(width, longest + len("  where  ")) for line in text.splitlines())


def test_facts_are_folded_between_words_below_their_text() -> None:
    text = "qemu-img version 7.2.22 (Debian 1:7.2+dfsg-7)"
    assert folded("tool:  ", text, width=30) == "tool:  qemu-img version 7.2.22\n       (Debian 1:7.2+dfsg-7)"
    assert folded("tool:  ", text, width=None) == f"tool:  {text}"
    # To be copied whole: the terminal breaks it, and knows that it is one line.
    assert folded("file:  ", f"/{'x' * 40}", width=30) == f"file:  /{'x' * 40}"
    assert folded("key:   ", "", width=3) == "key:   "


def test_in_a_log_each_row_is_a_line_without_colour(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    print_table(COLUMNS, ROWS, empty="nothing")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(ROWS)
    assert not any("\x1b" in line or line.endswith(" ") for line in lines)


def test_a_table_without_rows_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, [], empty="no clones")
    assert capsys.readouterr().out == "no clones\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "has_escapes", "has_colour"),
    [({}, True, True), ({"NO_COLOR": "1"}, True, False), ({"TERM": "dumb"}, False, False)],
    ids=["terminal", "NO_COLOR", "dumb"],
)
def test_progress_is_as_the_terminal_can_show_it(
    environment: dict[str, str], has_escapes: bool, has_colour: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = Terminal()
    with Reporter(stream=stream).step("publish"):
        pass
    text = stream.getvalue()
    assert "publish" in text
    assert ("\x1b" in text) is has_escapes
    assert bool(re.search(r"\x1b\[3[0-9]m", text)) is has_colour


def test_progress_in_a_log_is_a_line_for_each_event() -> None:
    stream = io.StringIO()
    with Reporter(stream=stream).step("publish"):
        pass
    begin, end = stream.getvalue().splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d publish …", begin)
    assert re.fullmatch(r"\d\d:\d\d:\d\d publish: done in \d+\.\d s", end)

"""Tables without a frame: a line for each row where there is room; a name is never broken in two where there is not."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence

import click
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

_GAP = 2
# A column of sentences is folded between words, but not narrower than this.
_SENTENCE = 24


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    """On a terminal as wide as that is, into a pipe or a file as wide as it has to be: there, each row is one line.

    `empty` is printed when there are no rows. A column without a name holds a word on the row.
    """
    if not rows:
        click.echo(empty)
        return
    # rich asks the terminal, and heeds NO_COLOR.
    console = Console(highlight=False, markup=False)
    click.echo(laid_out(columns, rows, console=console, is_bounded=sys.stdout.isatty()))


def print_facts(rows: Sequence[Sequence[str]], *, label_width: int) -> None:
    """Label and text in each line; on a terminal, what is longer is folded between words, below the text."""
    width = Console().width if sys.stdout.isatty() else None
    for label, text in rows:
        click.echo(folded(f"{label + ':':<{label_width}} ", text, width=width))


def folded(lead: str, text: str, *, width: int | None) -> str:
    """`text` behind `lead`, in lines of `width` letters at most, unless a word is longer; None: in one line."""
    if not text or width is None or cell_len(lead) + cell_len(text) <= width:
        return lead + text
    # What is longer than a line, such as a path, is left to the terminal, so that it can be copied whole.
    lines = textwrap.wrap(text, max(width - len(lead), 1), break_long_words=False, break_on_hyphens=False)
    return f"\n{' ' * len(lead)}".join([lead + lines[0], *lines[1:]])


def laid_out(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, console: Console, is_bounded: bool = True
) -> str:
    """The text for a console of this width; of any width, if it is not bounded."""
    widths = [max(cell_len(row[n]) for row in (columns, *rows)) for n in range(len(columns))]
    if not is_bounded:
        console.width = _total(widths)
    narrowest = [_narrowest([row[n] for row in rows], column) for n, column in enumerate(columns)]
    with console.capture() as captured:
        if _total(narrowest) <= console.width:
            console.print(_table(columns, rows, widths=widths, narrowest=narrowest))
        else:
            _print_records(console, columns, rows)
    # rich fills each line up with blanks, which a log would keep.
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _narrowest(cells: Sequence[str], column: str) -> int:
    """Letters that a column needs: all of a name, of sentences some, but the longest word."""
    widest = max(cell_len(text) for text in (column, *cells))
    if widest <= _SENTENCE:
        return widest
    return max(_SENTENCE, *(cell_len(word) for text in (column, *cells) for word in text.split()))


def _table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, widths: Sequence[int], narrowest: Sequence[int]
) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for column, width, least in zip(columns, widths, narrowest, strict=True):
        table.add_column(column, no_wrap=least == width, min_width=least, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _print_records(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A block for each row: what it is about, and below that a line for each column that says something."""
    title = next(n for n, column in enumerate(columns) if column)
    label = max(len(column) for column in columns)
    for row in rows:
        words = [text for n, text in enumerate(row) if text and (n == title or not columns[n])]
        console.print("  ".join(words), style="bold", soft_wrap=True)
        for n, text in enumerate(row):
            if not text or n == title or not columns[n]:
                continue
            lead = f"  {columns[n].lower():<{label}}  "
            console.print(folded(lead, text, width=console.width), soft_wrap=True)

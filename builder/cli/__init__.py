"""The `golden` command: flags to calls, results to text. The only place that exits."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import traceback
from collections import ChainMap
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import click
from rich.console import Console

from builder import __version__, interrupts
from builder.cli.overview import SECTIONS, Lazy, Overview
from builder.cli.session import Session, examples
from builder.cli.table import folded
from builder.errors import INTERRUPTED_EXIT_CODE, GoldenError, Interrupted, host_error
from builder.progress import Reporter, Style
from builder.store import default_state


@click.group(
    cls=Overview,
    commands=Lazy(dict(ChainMap(*SECTIONS.values()))),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog=examples(
        "golden sandbox create /var/tmp/sandbox    # a tiny distribution to try everything with",
        "golden build sandbox-bootstrapped         # the image and all it stands on",
        "golden clone create web1 --image sandbox-bootstrapped",
    ),
)
@click.version_option(__version__, prog_name="golden")
@click.option(
    "-f",
    "--file",
    type=click.Path(path_type=Path),
    default=Path("golden.toml"),
    envvar="GOLDEN_FILE",
    show_envvar=True,
    show_default=True,
    help="The project's definitions.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="GOLDEN_STATE",
    show_envvar=True,
    help="Where builds, clones and channels are kept.  [default: /var/lib/golden, or ~/.local/state/golden]",
)
@click.option(
    "--progress",
    type=click.Choice(["auto", "terminal", "plain", "json", "quiet"]),
    default="auto",
    envvar="GOLDEN_PROGRESS",
    show_envvar=True,
    help="How progress is shown on standard error.",
)
@click.pass_context
def golden(context: click.Context, file: Path, state: Path | None, progress: Style) -> None:
    """Build VM images as a chain of qcow2 layers, package them as RPMs, publish them, run clones of them."""
    context.obj = Session(
        file=file.absolute(),
        state=(state or default_state()).absolute(),
        reporter=Reporter(progress),
    )


if "_GOLDEN_COMPLETE" in os.environ:
    # bash's words are put together there.
    importlib.import_module("builder.cli.completion")


def main() -> None:
    """Run the command line and exit: 0, or the code of the error's kind (builder.errors), 130 when interrupted."""
    with _signals_as_exceptions():
        try:
            # click hands the code of an Exit over as the result.
            result = golden.main(standalone_mode=False)
            code = result if isinstance(result, int) else 0
        except click.exceptions.Exit as end:
            code = end.exit_code
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except GoldenError as error:
            print_error(error)
            code = error.exit_code
        except (KeyboardInterrupt, click.Abort):
            click.echo("golden: interrupted; what was finished stays, and the next run goes on from there", err=True)
            code = INTERRUPTED_EXIT_CODE
        except BrokenPipeError:
            # The reader of our output went away (`golden list | head`): not an error of ours or theirs.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 141
        except OSError as error:
            told = host_error(error)
            code = told.exit_code if told else _report_bug()
            if told:
                print_error(told)
        except Exception:
            code = _report_bug()
    sys.exit(code)


def _report_bug() -> int:
    """Print the exception that is being handled; returns the exit code."""
    traceback.print_exc()
    click.echo(f"golden: this is a bug in golden {__version__}; please report it with the lines above", err=True)
    return 1


def print_error(error: GoldenError) -> None:
    """The headline, then aligned rows; several lines in a row are indented under its label.

    On a terminal the headline is folded between words. The rows are not: commands and paths are there to be copied.
    """
    width = Console(stderr=True).width if sys.stderr.isatty() and "\n" not in error.what else None
    click.echo(folded("golden: error: ", _shown(error.what), width=width), err=True)
    rows = [(label, _shown(text)) for label, text in error.rows()]
    width = max((len(label) for label, _ in rows if label), default=0)
    for label, text in rows:
        first, *rest = text.splitlines() or [""]
        lead = f"  {label + ':':<{width + 1}} " if label else "  "
        click.echo(f"{lead}{first}", err=True)
        for line in rest:
            click.echo(f"{' ' * len(lead)}{line}", err=True)


def _shown(text: str) -> str:
    """What a guest or a server said may be in it: nothing of that moves a terminal's cursor."""
    return "".join(
        c if c.isprintable() or c in "\t\n" else "\N{REPLACEMENT CHARACTER}" for c in text.replace("\r\n", "\n")
    )


@contextlib.contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """SIGTERM and SIGHUP end golden as Ctrl-C does: by an exception, so that every clean-up on the way up runs.

    Only the first signal counts; a second one must not cut the clean-up short.
    """

    def interrupt(number: int, _frame: FrameType | None) -> None:
        for other in interrupts.SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        raise Interrupted(signal.Signals(number).name)

    before = {number: signal.signal(number, interrupt) for number in interrupts.SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

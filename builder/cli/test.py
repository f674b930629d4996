"""`golden test`: a project's tests, each on fresh machines."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import cast, get_args

import click

from builder.cli.clone_options import host_memory_option
from builder.cli.completion import complete_clonable, complete_test
from builder.cli.session import (
    Session,
    duration,
    examples,
    images_option,
    json_option,
    pass_session,
    print_json,
    print_table,
)
from builder.clones import removal
from builder.errors import HostError, VerifyError
from builder.harness import declaration, schedule, suite
from builder.harness.attempt import Attempts, Keep
from builder.harness.declaration import Test
from builder.harness.evidence import KINDS, Kind
from builder.harness.lab import Lab, open_lab
from builder.harness.suite import Summary
from builder.progress import Notes
from builder.units import format_seconds


def _kinds(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[Kind, ...]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if words in (["all"], ["none"]):
        return KINDS if words == ["all"] else ()
    for word in words:
        if word not in get_args(Kind):
            raise click.BadParameter(f"'{word}' is none of {', '.join(KINDS)}, all, none")
    return cast(tuple[Kind, ...], tuple(words))


@click.command(
    epilog=examples(
        "golden test --image rocky9-engine-installed",
        "golden test 'network/*' --image rocky9-base --image rocky9-upgrade --jobs 4 --retries 2",
        "golden test --list",
        "golden test --json | jq -r '.results[] | select(.verdict == \"flaky\").test'",
    )
)
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...", shell_complete=complete_test)
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="IMAGE[@VERSION]",
    shell_complete=complete_clonable,
    help="Run on it, whatever tests declare.",
)
@click.option(
    "--jobs", type=click.IntRange(min=1), help="Tests at once, as memory allows.  [default: CPUs of the host]"
)
@click.option("--retries", type=click.IntRange(min=0), default=0, show_default=True, help="Run failed tests again.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Look for tests below it.  [default: the project's folder]",
)
@click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    help="Put reports and what is kept there.  [default: a folder in STATE/tests]",
)
@click.option("--keep-pass", callback=_kinds, default="boot,logs,collect", show_default=True, help="Keep if it passed.")
@click.option("--keep-fail", callback=_kinds, default="all", show_default=True, help="Keep if it failed.")
@click.option(
    "--keep-for", "keep_s", callback=duration, default="14 d", show_default=True, help="Then results are removed."
)
@click.option(
    "--warm/--cold",
    "is_warm",
    default=True,
    envvar="GOLDEN_WARM",
    help="Save an image's memory when its first machine is wanted / boot all.  [default: warm]",
)
@host_memory_option
@click.option(
    "--wait-memory",
    "wait_s",
    callback=duration,
    default="30 min",
    show_default=True,
    metavar="DURATION",
    help="How long a test waits for other machines of this host to go.",
)
@click.option("--list", "is_list", is_flag=True, help="Print what would run, and run nothing.")
@click.option("--dry-run", is_flag=True, help="The same, with machines and memory.")
@images_option
@json_option
@pass_session
def test(
    session: Session,
    patterns: tuple[str, ...],
    images: tuple[str, ...],
    jobs: int | None,
    retries: int,
    folder: Path | None,
    results: Path | None,
    keep_pass: tuple[Kind, ...],
    keep_fail: tuple[Kind, ...],
    keep_s: int,
    is_warm: bool,
    host_mib: int | None,
    wait_s: int,
    is_list: bool,
    dry_run: bool,
    installed: Path,
    as_json: bool,
) -> None:
    """Run tests on clones: each gets fresh machines, those that fail are run again, the console is watched.

    A test is a folder with a golden-test.toml. Ends with 0 if every test passed at least once or is known to fail,
    with 5 if one failed, and with 3 if none did but this host could not run them all.
    """
    top = (folder or session.file.parent).absolute()
    tests = declaration.find(top, patterns)
    if is_list:
        _print_list(tests, as_json=as_json)
        return
    lab = open_lab(
        file=session.file,
        state=session.state,
        images=installed,
        reporter=Notes(session.reporter.note),
        is_warm=is_warm,
        host_mib=host_mib,
        memory_wait_s=wait_s,
    )
    planned = suite.jobs(tests, images=images, lab=lab)
    if dry_run:
        _print_plan(planned, as_json=as_json)
        return
    lab = _with_accelerator(lab, session)
    parent = session.state / "tests" / (session.project.name if session.has_project else "none")
    place = results.absolute() if results else suite.new_folder(parent, keep_s=keep_s)
    place.mkdir(parents=True, exist_ok=True)
    for old in suite.expire(parent, keep_s=keep_s):
        session.reporter.note(f"removed the results of {old.name}")
    removal.release(session.state)
    stop = threading.Event()
    execute = Attempts(
        lab,
        folder=place,
        keep=Keep(on_pass=keep_pass, on_fail=keep_fail),
        stop=stop,
        note=session.reporter.note,
    )
    with session.reporter.step(f"test, with results in {place}"):
        summary = suite.carry_out(
            planned,
            execute,
            folder=place,
            retries=retries,
            most=jobs or os.cpu_count() or 1,
            memory_mib=lab.capacity().total_mib,
            stop=stop,
            note=session.reporter.note,
        )
    if as_json:
        print_json(summary.model_dump(mode="json") | {"folder": str(place)})
    else:
        _print_summary(summary, place)
    _need_green(summary, place)


def _with_accelerator(lab: Lab, session: Session) -> Lab:
    lab.accelerator = session.accelerator()
    return lab


def _print_list(tests: list[Test], *, as_json: bool) -> None:
    if as_json:
        print_json([test.model_dump(mode="json") for test in tests])
        return
    print_table(
        ["TEST", "IMAGES", "MACHINES", "RUNS", "KNOWN TO FAIL"],
        [
            [
                test.name,
                ", ".join(test.images) or "-",
                ", ".join(test.roles),
                test.file or ", ".join(script.run for script in test.scripts),
                f"{test.bug}{f' until {test.until}' if test.until else ''}" if test.bug else "",
            ]
            for test in tests
        ],
        empty="no tests",
    )


def _print_plan(planned: list[schedule.Job], *, as_json: bool) -> None:
    if as_json:
        print_json([job.model_dump(mode="json") for job in planned])
        return
    print_table(
        ["IMAGE", "TESTS", "MACHINES", "MEMORY"],
        [
            [
                job.image,
                ", ".join(test.name for test in job.tests),
                ", ".join(job.tests[0].roles),
                f"{job.memory_mib} MiB",
            ]
            for job in planned
        ],
        empty="nothing to run",
    )


def _print_summary(summary: Summary, place: Path) -> None:
    print_table(
        ["VERDICT", "IMAGE", "TEST", "RUNS", "TIME", "NOTE"],
        [
            [it.verdict, it.image, it.test, str(len(it.outcomes)), format_seconds(it.last.seconds), it.note]
            for it in summary.results
        ],
        empty="no tests",
    )
    counts = {verdict: len(summary.of(verdict)) for verdict in ("passed", "flaky", "known", "fixed", "failed", "host")}
    words = {"host": "not run by this host"}
    said = ", ".join(f"{count} {words.get(verdict, verdict)}" for verdict, count in counts.items() if count)
    click.echo(f"{said} in {format_seconds(summary.seconds)}; reports: {place}/merged.tap, merged.xml")


def _need_green(summary: Summary, place: Path) -> None:
    failed = summary.of("failed")
    if failed:
        bundle = next((it.last.bundle for it in failed if it.last.bundle), None)
        raise VerifyError(
            f"{len(failed)} of {len(summary.results)} tests failed",
            details=[("", f"{it.test} on {it.image}: {it.note}") for it in failed],
            try_next=f"golden clone revive {bundle}" if bundle else f"look into {place}",
        )
    unrun = summary.of("host")
    if unrun:
        raise HostError(
            f"this host could not run {len(unrun)} of {len(summary.results)} tests; no test failed",
            details=[("", f"{it.test} on {it.image}: {it.note}") for it in unrun],
            try_next=f"golden doctor, and look into {place}",
        )

"""What a test does on its machines: scripts over SSH, a sparrowfile, or pytest on this host."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from junitparser import Error, Failure, JUnitXml
from pydantic import TypeAdapter

from builder import run
from builder.errors import ToolError
from builder.frozen import Frozen
from builder.harness.declaration import FILE, Test
from builder.harness.guest import Address, Guest
from builder.harness.outcome import Cause
from builder.harness.watch import Watch
from builder.tools import scp, ssh
from builder.tools.sparrowdo import command

_LATE = "ended by golden"

# How ssh ends when its connection breaks, or the script ends with 255 itself. Source: ssh(1), "EXIT STATUS".
_SSH_LOST = "exit 255"
_LAST_WORDS_S = 5.0


class Failed(Exception):
    """A test that did not pass. why: one line."""

    def __init__(self, why: str, cause: Cause = "test") -> None:
        super().__init__(why)
        self.why = why
        self.cause = cause


class Context(Frozen):
    """What every payload needs to know. deadline: of time.monotonic(). logs, collect: folders of the attempt."""

    test: Test
    run: int
    deadline: float
    logs: Path
    collect: Path
    boot_limit_s: float

    @property
    def slug(self) -> str:
        return "".join(c if c.isalnum() or c in "-_." else "_" for c in self.test.name)

    @property
    def left_s(self) -> float:
        return max(1.0, self.deadline - time.monotonic())


def carry_out(context: Context, guests: Mapping[str, Guest], watch: Watch) -> None:
    """Run the test's payload. Raises Failed if it does not pass, and whatever `watch` raises."""
    if context.test.payload == "pytest":
        _pytest(context, guests, watch)
    elif context.test.payload == "sparrowfile":
        _sparrowfile(context, guests[context.test.main], watch)
    else:
        _scripts(context, guests, watch)


# --- scripts ----------------------------------------------------------------------------------------------------


def environment(context: Context, guests: Mapping[str, Guest], *, role: str) -> dict[str, str]:
    """What a script finds: the test's own variables, and where the other machines are."""
    found = {
        "GOLDEN_TEST": context.test.name,
        "GOLDEN_RUN": str(context.run),
        "GOLDEN_MACHINE": role,
        "GOLDEN_RESULTS": f"/var/tmp/golden-results-{context.slug}",
    }
    for name, guest in guests.items():
        word = name.upper().replace("-", "_").replace(".", "_")
        host, ssh_port = guest.place_of(22)
        found |= {f"GOLDEN_HOST_{word}": host, f"GOLDEN_PORT_{word}": str(ssh_port)}
        found |= {f"GOLDEN_PORT_{word}_{port}": str(guest.place_of(port)[1]) for port in guest.address.forwards}
    return found | context.test.environment


def _scripts(context: Context, guests: Mapping[str, Guest], watch: Watch) -> None:
    folder = f"/var/tmp/golden-test-{context.slug}"
    users = {script.on for script in context.test.scripts}
    try:
        with staged(context.test) as stage:
            for role in users:
                _ask(context, guests[role], watch, "mkdir", "-p", f"/var/tmp/golden-results-{context.slug}")
                scp.send(guests[role].errands, stage, folder)
        for number, script in enumerate(context.test.scripts, start=1):
            guest = guests[script.on]
            log = context.logs / f"{number}-{Path(script.run).name}-{script.on}.log"
            variables = environment(context, guests, role=script.on)
            _script(context, guest, script.run, folder=folder, variables=variables, log=log, watch=watch)
    finally:
        for role in users:
            _collect(context, guests[role])


def script_line(file: str, *, folder: str, variables: Mapping[str, str]) -> str:
    """A line for the guest's shell: a program is started as one, all else by sh."""
    words = shlex.join(["env", *(f"{name}={text}" for name, text in variables.items())])
    path = shlex.quote(f"./{file}")
    return f"cd {shlex.quote(folder)} && if [ -x {path} ]; then exec {words} {path}; else exec {words} sh {path}; fi"


def _script(
    context: Context,
    guest: Guest,
    file: str,
    *,
    folder: str,
    variables: Mapping[str, str],
    log: Path,
    watch: Watch,
) -> None:
    boot = ssh.boot_id(guest.target) if context.test.may_reboot else None
    argv = ssh.command(guest.target, "sh", "-c", script_line(file, folder=folder, variables=variables))
    try:
        run.run(argv, why=f"run {file}", timeout_s=context.left_s, log=log, watch=watch)
    except ToolError as error:
        if boot is None and dict(error.details).get("end") == _SSH_LOST:
            watch.look_closely(_LAST_WORDS_S)
        end, last = dict(error.details).get("end", ""), last_line(dict(error.details).get("output", ""))
        if end.startswith(_LATE):
            limit = f"{file} on {guest.name}: still running at the test's limit; its last line: {last}"
            raise Failed(limit, "limit") from error
        if boot is None or end != _SSH_LOST:
            raise Failed(f"{file} on {guest.name}: {end}: {last}") from error

    def is_alive() -> bool:
        watch()
        return True

    if boot is not None and not _is_same_boot(guest, boot):
        ssh.wait_until_answers(
            guest.target,
            timeout_s=min(context.boot_limit_s, context.left_s),
            is_alive=is_alive,
            note=lambda _: None,
            but_not_boot=boot,
            login=guest.login,
        )


def _is_same_boot(guest: Guest, boot: str) -> bool:
    """A machine on its way down still answers for a moment."""
    try:
        state = guest.run("sh", "-c", "systemctl is-system-running || true", timeout_s=30).strip()
        return state != "stopping" and ssh.boot_id(guest.target, timeout_s=30) == boot
    except ToolError:
        return False


def _ask(context: Context, guest: Guest, watch: Watch, *words: str) -> None:
    log = context.logs / "prepare.log"
    run.run(ssh.command(guest.errands, *words), why="prepare the test", timeout_s=context.left_s, log=log, watch=watch)


def _collect(context: Context, guest: Guest) -> None:
    """What the test left in its folder of results; a guest that is gone has none."""
    try:
        scp.fetch(guest.errands, f"/var/tmp/golden-results-{context.slug}", context.collect / guest.name)
    except ToolError as error:
        (context.logs / "collect.log").write_text(f"{error.what}\n", encoding="utf-8")


@contextlib.contextmanager
def staged(test: Test) -> Iterator[Path]:
    """What goes into the guest, in a folder of its own: all of the test's folder, or the files that it names."""
    with tempfile.TemporaryDirectory(prefix="golden-test-") as place:
        stage = Path(place) / "test"
        if (test.folder / FILE).exists():
            shutil.copytree(test.folder, stage, symlinks=True, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        for script in test.scripts:
            target = stage / script.run
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(test.folder / script.run, target)
        yield stage


def last_line(output: str) -> str:
    return next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "(it said nothing)")


# --- a sparrowfile ------------------------------------------------------------------------------------------------


def _sparrowfile(context: Context, guest: Guest, watch: Watch) -> None:
    """Tasks, files, … beside the sparrowfile go along; plugins come from nowhere but the image's own cache."""
    test = context.test
    command.program()
    file = test.folder / (test.file or "")
    job = command.Job(
        title=f"the sparrowfile {test.file}",
        text=file.read_text(encoding="utf-8"),
        project=test.folder,
        folder=".",
    )
    log = context.logs / "sparrowdo.log"
    ended = command.carry_out(
        job,
        guest.target,
        retries=2,
        deadline=context.deadline,
        log=log,
        watch=watch,
        note=lambda _: None,
        is_test=True,
    )
    watch()
    if ended.failure is not None:
        cause: Cause = "limit" if ended.failure.status is None and context.left_s <= 1 else "test"
        raise Failed(f"{test.file} on {guest.name}: {ended.failure.cause}", cause)


# --- pytest -----------------------------------------------------------------------------------------------------


def _pytest(context: Context, guests: Mapping[str, Guest], watch: Watch) -> None:
    """Its fixtures golden_clone and golden_cluster are the test's machines; it runs in the test's folder."""
    machines, junit = context.logs / "machines.json", context.logs / "junit.xml"
    addresses = [guest.address for guest in guests.values()]
    machines.write_bytes(TypeAdapter(list[Address]).dump_json(addresses, indent=2))
    argv: list[str | Path] = [sys.executable, "-m", "pytest", "-p", "builder.pytest_golden", "-p", "no:cacheprovider"]
    argv += ["--color=no", f"--junitxml={junit}", context.test.file or ""]
    variables = environment(context, guests, role=context.test.main)
    variables |= {"GOLDEN_TEST_MACHINES": str(machines), "GOLDEN_RESULTS": str(context.collect)}
    variables |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": os.pathsep.join([*sys.path])}
    try:
        run.run(
            argv,
            why=f"run pytest on {context.test.file}",
            timeout_s=context.left_s,
            log=context.logs / "pytest.log",
            env=variables,
            cwd=context.test.folder,
            watch=watch,
        )
    except ToolError as error:
        watch()
        end = dict(error.details).get("end", "")
        if end.startswith(_LATE):
            raise Failed(f"pytest was still running at the test's limit of {context.test.run_s} s", "limit") from error
        raise Failed(_first_failure(junit) or f"pytest: {end}: {_why(end)}") from error


def _why(end: str) -> str:
    """Source: pytest.ExitCode."""
    known = {"exit 2": "it was interrupted, or a test could not be read", "exit 4": "it was used wrongly"}
    return known.get(end, "it found no test" if end == "exit 5" else "see its log")


def _first_failure(junit: Path) -> str | None:
    """The first test that failed, and the first line of why."""
    if not junit.exists():
        return None
    for suite in JUnitXml.fromfile(str(junit)):
        for case in suite:
            for result in case.result:
                if isinstance(result, (Failure, Error)):
                    return f"{case.name}: {_reason(result)}"
    return None


def _reason(result: Failure | Error) -> str:
    """One line. A module that cannot be read says why in its report's last exception, not in its message."""
    said = (result.message or "").splitlines()
    lines = re.findall(r"^E\s+(\S.*)$", result.text or "", flags=re.MULTILINE)
    return lines[-1] if lines and (not said or said[0] == "collection failure") else (said or ["failed"])[0]

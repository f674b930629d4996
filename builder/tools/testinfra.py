"""pytest-testinfra: tests against a running machine, in a process of its own, over one SSH connection."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from junitparser import Error, Failure, Skipped, TestCase

from builder import run
from builder.errors import HostError, ToolError
from builder.tools import junit, ssh
from builder.verdicts import Check

# pytest's exit codes that say what became of the tests; all others say that it could not run them.
# Source: pytest.ExitCode: all passed, some failed.
_RAN = (0, 1)

# Its name for the machine: an alias in the ssh configuration that is written for it.
_HOST = "clone"

# The file of generated tests, less its suffix.
GENERATED = "golden_promises"

# In a failed test's report, the lines of the exception.
_REASON = re.compile(r"^E {3}(.*)$", flags=re.MULTILINE)


def need() -> None:
    """Raises HostError with what to install if pytest-testinfra is not there."""
    if importlib.util.find_spec("testinfra") is None or importlib.util.find_spec("pytest") is None:
        raise HostError(
            "could not verify an image: pytest-testinfra is not on this machine",
            try_next=f"{sys.executable} -m pip install 'golden[verify]'",
        )


def argv(tests: Sequence[Path], *, work: Path, project: Path) -> list[str | Path]:
    """The command. work: where the configuration of pytest and ssh is, and junit.xml will be.

    project: what the names of its own tests are relative to. Neither a configuration of the project's for pytest nor
    a user's for ssh counts.
    """
    options: list[str | Path] = [
        "--quiet",
        "--color=no",
        "--tb=short",
        "-p",
        "no:cacheprovider",
        "-c",
        work / "pytest.ini",
        f"--rootdir={project}",
        f"--hosts=ssh://{_HOST}?timeout=60&controlpersist=60",
        f"--ssh-config={work / 'ssh_config'}",
        f"--junitxml={work / 'junit.xml'}",
    ]
    return [sys.executable, "-B", "-m", "pytest", *options, *tests]


def check(
    target: ssh.Target,
    tests: Sequence[Path],
    *,
    work: Path,
    project: Path,
    why: str,
    timeout_s: float,
    watch: Callable[[], None],
) -> tuple[list[Check], dict[str, str]]:
    """Run `tests` against the machine: what each found, and the properties that they recorded.

    work: for configuration, log and junit.xml. watch: as in `run.run`.
    Raises ToolError if pytest could not run them, which has its output.
    """
    with _connection(target, work=work) as config:
        try:
            run.run(
                argv(tests, work=work, project=project),
                why=why,
                timeout_s=timeout_s,
                log=work / "pytest.log",
                ok=_RAN,
                env={"PYTHONDONTWRITEBYTECODE": "1", "PYTEST_ADDOPTS": ""},
                cwd=project,
                watch=watch,
            )
        finally:
            with contextlib.suppress(ToolError):  # there is no connection to end if none was made
                run.query(["ssh", "-F", config, "-O", "exit", _HOST], why="end the connection", timeout_s=30)
    return read(work / "junit.xml")


def read(file: Path) -> tuple[list[Check], dict[str, str]]:
    """What a junit.xml of pytest's says. Raises VerifyError if it is damaged."""
    checks: list[Check] = []
    properties: dict[str, str] = {}
    for suite in junit.read(file):
        checks += [_check(case) for case in suite if not _is_nothing(case)]
        properties |= {entry.name: entry.value for entry in suite.properties()}  # type: ignore[no-untyped-call]
    return checks, properties


def _check(case: TestCase) -> Check:
    """`test_package_is_installed[ssh://clone-jq]` is "package is installed: jq"."""
    name, _, parameters = case.name.partition("[")
    parameters = parameters.removesuffix("]").removeprefix(f"ssh://{_HOST}").removeprefix("-")
    words = name.removeprefix("test_").replace("_", " ")
    file = (case.classname or "").rpartition(".")[2]
    # A file outside the project has no name of its own there: then it is the generated one.
    owner = "" if file in ("", GENERATED) else f"{file}: "
    broken = [it for it in case.result if isinstance(it, (Failure, Error))]
    skipped = [it for it in case.result if isinstance(it, Skipped)]
    return Check(
        name=owner + words + (f": {parameters}" if parameters else ""),
        result="failed" if broken else "skipped" if skipped else "passed",
        seconds=case.time or 0,
        message=_reason(broken[0]) if broken else (skipped[0].message or "") if skipped else "",
    )


def _is_nothing(case: TestCase) -> bool:
    """pytest's stand-in for a parametrized test that has no parameter: nothing of this kind is promised."""
    return any(
        isinstance(it, Skipped) and (it.message or "").startswith("got empty parameter set") for it in case.result
    )


def _reason(result: Failure | Error) -> str:
    """What the assertion said; of pytest's own account of it only what there is if it said nothing."""
    lines = _REASON.findall(result.text or "") or (result.message or "failed").splitlines()
    said = [lines[0].removeprefix("AssertionError: ")]
    for line in lines[1:]:
        if line.startswith("assert "):  # further lines of what it said are indented
            break
        said.append(line.removeprefix("  "))
    return "\n".join(said).strip()


@contextlib.contextmanager
def _connection(target: ssh.Target, *, work: Path) -> Iterator[Path]:
    """Configuration files in `work`; the tests' ssh processes share one connection, whose socket's path is short."""
    work.mkdir(parents=True, exist_ok=True)
    sockets = Path(tempfile.mkdtemp(prefix="golden-ssh-"))
    config = work / "ssh_config"
    lines = [
        f"Host {_HOST}",
        f"  HostName {target.host}",
        f"  Port {target.port}",
        f"  User {target.user}",
        f'  IdentityFile "{ssh.quoted(target.key)}"',
        f'  ControlPath "{sockets}/s"',
        *(f"  {option.replace('=', ' ', 1)}" for option in ssh.OPTIONS),
    ]
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (work / "pytest.ini").write_text("[pytest]\njunit_family = xunit2\n", encoding="utf-8")
    try:
        yield config
    finally:
        shutil.rmtree(sockets, ignore_errors=True)

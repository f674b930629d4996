"""The contract of `builder.run`, with programs that misbehave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from builder import run
from builder.errors import HostError, ToolError
from tests.fake.conftest import Fake, Family


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "1-step.log"


def details(error: ToolError) -> dict[str, str]:
    return dict(error.details)


# --- run -------------------------------------------------------------------------------------------------------


def test_output_of_both_streams_goes_to_the_log_below_the_command(fake: Fake, log: Path) -> None:
    fake("tool", "echo out; echo err >&2")
    run.run(["tool", "a b"], why="do it", timeout_s=10, log=log)
    run.run(["tool"], why="do it again", timeout_s=10, log=log)
    assert log.read_text() == "$ tool 'a b'\nout\nerr\n$ tool\nout\nerr\n"


def test_a_failure_says_what_could_not_be_done_and_quotes_the_end_of_the_output(fake: Fake, log: Path) -> None:
    fake("tool", "seq 1 50; printf '\\033[31mdisk is full\\033[0m\\r\\n'; exit 7")
    with pytest.raises(ToolError, match="could not create the overlay for 'x'") as caught:
        run.run(["tool", "--to", "a b"], why="create the overlay for 'x'", timeout_s=10, log=log)
    found = details(caught.value)
    assert found["command"] == "tool --to 'a b'"
    assert found["end"] == "exit 7"
    assert len(found["output"].splitlines()) == run.TAIL_LINES
    assert "\x1b" not in found["output"]
    assert "disk is full" in found["output"].splitlines()[-1]
    assert caught.value.log == log


def test_the_output_of_an_earlier_command_is_not_quoted(fake: Fake, log: Path) -> None:
    fake("good", "echo all is well")
    fake("bad", "exit 1")
    run.run(["good"], why="begin", timeout_s=10, log=log)
    with pytest.raises(ToolError) as caught:
        run.run(["bad"], why="go on", timeout_s=10, log=log)
    assert details(caught.value)["output"] == "(none)"


def test_a_status_that_is_said_to_be_fine_is_fine(fake: Fake, log: Path) -> None:
    fake("tool", "exit 3")
    run.run(["tool"], why="do it", timeout_s=10, log=log, ok=(0, 3))
    with pytest.raises(ToolError):
        run.run(["tool"], why="do it", timeout_s=10, log=log)


def test_a_missing_program_is_a_lack_of_this_machine(log: Path) -> None:
    with pytest.raises(HostError, match="could not do it: the program 'no-such-tool' is not on this machine") as caught:
        run.run(["no-such-tool"], why="do it", timeout_s=10, log=log)
    assert "install no-such-tool" in (caught.value.try_next or "")
    assert not log.exists()


def test_a_program_that_is_no_program_is_a_lack_of_this_machine(fake: Fake, log: Path) -> None:
    fake("tool", "").write_text("#!/no/such/interpreter\n")
    with pytest.raises(HostError, match=r"could not do it: '.*tool' did not start: No such file or directory"):
        run.run(["tool"], why="do it", timeout_s=10, log=log)


@pytest.mark.parametrize("body", ["sleep 60", "while :; do echo busy; sleep 0.01; done"], ids=["silent", "chatty"])
def test_one_that_is_late_is_ended(fake: Fake, family: Family, log: Path, body: str) -> None:
    fake("tool", f"{family.join}; {body}")
    with pytest.raises(ToolError, match="could not do it") as caught:
        run.run(["tool"], why="do it", timeout_s=0.5, log=log)
    assert details(caught.value)["end"] == "ended by golden: still running after 0 s"
    assert family.has_ended()


def test_one_that_does_not_heed_term_is_killed(
    fake: Fake, family: Family, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_GRACE_S", 0.3)
    fake("tool", f"{family.join}; trap '' TERM; while :; do sleep 0.1; done")
    with pytest.raises(ToolError, match="could not do it"):
        run.run(["tool"], why="do it", timeout_s=0.5, log=log)
    assert family.has_ended()


def test_one_that_is_killed_says_by_what(fake: Fake, log: Path) -> None:
    fake("tool", "kill -SEGV $$")
    with pytest.raises(ToolError) as caught:
        run.run(["tool"], why="do it", timeout_s=10, log=log)
    assert details(caught.value)["end"] == "killed by SIGSEGV"


@pytest.mark.parametrize("status", [0, 1])
def test_children_that_a_program_leaves_are_ended_with_it(fake: Fake, family: Family, log: Path, status: int) -> None:
    fake("tool", f"{family.join}; sleep 60 & exit {status}")
    run.run(["tool"], why="do it", timeout_s=10, log=log, ok=(0, 1))
    assert family.has_ended()


def test_it_is_given_no_input_and_a_fixed_language(fake: Fake, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    fake("tool", 'read line || echo "no input, $LC_ALL, $MORE"')
    run.run(["tool"], why="do it", timeout_s=10, log=log, env={"MORE": "more"})
    assert log.read_text().splitlines()[-1] == "no input, C.UTF-8, more"


def test_a_script_has_the_python_that_it_was_installed_with(
    fake: Fake, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where golden's own environment comes first on PATH; Debian 13's virt-install is such a script."""
    fake("virt-install", "")
    fake("python3", "echo the one beside $1")
    script = Path(os.environ["PATH"].split(os.pathsep)[0], "virt-install")
    script.write_text("#!/usr/bin/env python3\n")
    other = tmp_path / "venv"
    other.mkdir()
    (other / "python3").write_text("#!/bin/sh\necho another\n")
    (other / "python3").chmod(0o755)
    monkeypatch.setenv("PATH", f"{other}{os.pathsep}{os.environ['PATH']}")
    assert run.query(["virt-install"], why="try") == f"the one beside {script}\n"
    assert run.query(["sh", "-c", "python3"], why="try") == "another\n"


def test_what_the_watcher_raises_ends_the_program_and_goes_up(fake: Fake, family: Family, log: Path) -> None:
    fake("tool", f"{family.join}; sleep 60")

    def watch() -> None:
        if log.read_text() and family.has_started():
            raise ToolError("the guest died")

    with pytest.raises(ToolError, match="the guest died"):
        run.run(["tool"], why="do it", timeout_s=30, log=log, watch=watch)
    assert family.has_ended()


def test_the_limit_holds_for_a_watched_program_too(fake: Fake, log: Path) -> None:
    fake("tool", "sleep 60")
    calls: list[None] = []
    with pytest.raises(ToolError, match="could not do it"):
        run.run(["tool"], why="do it", timeout_s=0.5, log=log, watch=lambda: calls.append(None))
    assert len(calls) >= 2


# --- query -----------------------------------------------------------------------------------------------------


def test_a_query_returns_standard_output_alone(fake: Fake) -> None:
    fake("tool", "echo '{}'; echo warning >&2")
    assert run.query(["tool"], why="ask") == "{}\n"


def test_a_failed_query_quotes_standard_error(fake: Fake) -> None:
    fake("tool", "echo '{'; echo no such disk >&2; exit 2")
    with pytest.raises(ToolError, match="could not ask") as caught:
        run.query(["tool"], why="ask")
    assert details(caught.value)["output"] == "no such disk"


def test_a_late_query_is_ended(fake: Fake, family: Family) -> None:
    fake("tool", f"{family.join}; echo thinking >&2; sleep 60")
    with pytest.raises(ToolError, match="could not ask") as caught:
        run.query(["tool"], why="ask", timeout_s=1)
    assert details(caught.value)["end"] == "ended by golden: still running after 1 s"
    assert details(caught.value)["output"] == "thinking"
    assert family.has_ended()


# --- a golden that is interrupted ---------------------------------------------------------------------------------

_GOLDEN = """
import sys
import time
from pathlib import Path
from builder import cli, run

@cli.golden.command()
def hang():
    run.run(["tool"], why="hang", timeout_s=60, log=Path(sys.argv[0]))

cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_an_interrupted_golden_ends_what_it_started(
    fake: Fake, family: Family, tmp_path: Path, number: signal.Signals
) -> None:
    fake("tool", f"{family.join}; sleep 60 & sleep 60")
    script = tmp_path / "hang.py"
    script.write_text(_GOLDEN.replace("sys.argv[0]", repr(str(tmp_path / "log"))))
    with subprocess.Popen([sys.executable, script, "hang"], stderr=subprocess.PIPE, text=True) as golden:
        assert family.has_started()
        golden.send_signal(number)
        _, stderr = golden.communicate(timeout=30)
    assert golden.returncode == 130
    assert stderr.strip() == "golden: interrupted; what was finished stays, and the next run goes on from there"
    assert family.has_ended()


def test_a_signal_while_a_program_is_being_started_ends_it(
    fake: Fake, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine the program is at work before Popen has returned."""
    fake("tool", f"{family.join}; sleep 60 & sleep 60")
    popen = subprocess.Popen

    def slow(*args: Any, **options: Any) -> Any:
        child = popen(*args, **options)
        assert family.has_started()
        signal.raise_signal(signal.SIGINT)
        return child

    monkeypatch.setattr(subprocess, "Popen", slow)
    with pytest.raises(KeyboardInterrupt):
        run.run(["tool"], why="start", timeout_s=60, log=tmp_path / "log")
    assert family.has_ended()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_program_ends_with_a_golden_that_was_killed(fake: Fake, family: Family, tmp_path: Path) -> None:
    """By SIGKILL golden can end nobody, and what it started would go on writing where the next one begins."""
    fake("tool", f"{family.join}; exec sleep 60")
    script = tmp_path / "hang.py"
    script.write_text(_GOLDEN.replace("sys.argv[0]", repr(str(tmp_path / "log"))))
    with subprocess.Popen([sys.executable, script, "hang"]) as golden:
        assert family.has_started()
        golden.kill()
    assert family.has_ended()


def test_a_program_that_is_left_goes_on_when_golden_has_ended(fake: Fake, tmp_path: Path) -> None:
    """It waits until golden, whose process id it is given, is gone, and only then does its work."""
    fake("tool", 'echo begun; while kill -0 "$1" 2>/dev/null; do sleep 0.1; done; echo done')
    log = tmp_path / "logs" / "left.log"
    script = tmp_path / "leave.py"
    script.write_text(
        "import os\nfrom pathlib import Path\nfrom builder import run\n"
        f"run.leave(['tool', str(os.getpid())], why='do it', log=Path({str(log)!r}))\n"
    )
    subprocess.run([sys.executable, script], check=True)
    deadline = time.monotonic() + 300
    while log.read_text() != "begun\ndone\n":
        assert time.monotonic() < deadline
        time.sleep(0.1)

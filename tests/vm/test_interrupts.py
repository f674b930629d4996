"""Ctrl-C and SIGTERM while an installer, libguestfs or a guest is at work: exit 130 and nothing left."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest

from tests.vm.conftest import Golden, what_is_left

LAYERS = """
[image.sandbox-offline]
parent = "sandbox-upgrade"
steps = [ { run = "echo reached; sleep 600" } ]
[image.sandbox-online]
parent = "sandbox-upgrade"
steps = [ { shell = "sleep 600" } ]
"""


def interrupt(golden: Golden, *words: str, at: str, by: signal.Signals) -> None:
    """Run a command, send it a signal when it or its log says `at`, and see that nothing is left."""
    said: list[str] = []
    with golden.started(*words) as process:
        assert process.stderr is not None
        reader = threading.Thread(target=said.extend, args=(process.stderr,))
        reader.start()
        deadline = time.monotonic() + 900
        while not has_said(golden, said, at):
            assert process.poll() is None and time.monotonic() < deadline, "".join(said)
            time.sleep(0.1)
        process.send_signal(by)
        assert process.wait(timeout=120) == 130, "".join(said)
        reader.join()
    assert "golden: interrupted; what was finished stays, and the next run goes on from there" in said[-1]
    assert what_is_left(golden) == []


def has_said(golden: Golden, said: list[str], text: str) -> bool:
    """On standard error, where a chatty step speaks every few seconds only, or in a log of the build under way."""
    logs = golden.store.glob("work/*/logs/virt-customize.log")
    return any(text in line for line in said) or any(text in log.read_text(errors="replace") for log in logs)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_while_the_installer_runs(bare: Golden, open_folder: Path, by: signal.Signals) -> None:
    golden = bare.with_images(open_folder, '[image.sandbox-other]\ndistribution = "sandbox"\n')
    interrupt(golden, "build", "sandbox-other", at="sandbox-other: install: [", by=by)


@pytest.mark.usefixtures("store_is_untouched")
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_while_libguestfs_is_at_work(golden: Golden, open_folder: Path, by: signal.Signals) -> None:
    golden = golden.with_images(open_folder, LAYERS)
    interrupt(golden, "build", "sandbox-offline", at="Running: ", by=by)


@pytest.mark.usefixtures("store_is_untouched")
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_while_a_guest_runs(golden: Golden, open_folder: Path, by: signal.Signals) -> None:
    golden = golden.with_images(open_folder, LAYERS)
    interrupt(golden, "build", "sandbox-online", at="waiting for SSH", by=by)


def test_the_next_run_goes_on_from_what_was_finished(golden: Golden, open_folder: Path) -> None:
    """The parents that were built before an interrupt are not built again."""
    golden = golden.with_images(open_folder, LAYERS)
    interrupt(golden, "build", "sandbox-online", at="sandbox-online: verify the parent", by=signal.SIGTERM)
    planned = {step["image"]: step["action"] for step in golden("plan", "sandbox-online", "--json").json}
    assert planned == {"sandbox-base": "reuse", "sandbox-upgrade": "reuse", "sandbox-online": "build"}

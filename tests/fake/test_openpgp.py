"""gpg's agent, by a gpgconf that does not end it."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pytest

from builder.tools import openpgp
from tests.fake.conftest import Fake


def test_an_agent_that_does_not_end_when_it_is_told_to_is_ended(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake("gpgconf", "")
    monkeypatch.setattr(openpgp, "_AGENT_ENDS_S", 0.1)
    with tempfile.TemporaryDirectory(prefix="golden-agent-", dir="/tmp") as home:
        subprocess.run(["gpg-connect-agent", "--homedir", home, "/bye"], check=True)
        assert f"--homedir {home}" in _running()
        openpgp.end_agent(Path(home))
        assert f"--homedir {home}" not in _running()


def _running() -> str:
    return subprocess.run(["ps", "-eo", "args"], check=True, capture_output=True, text=True).stdout

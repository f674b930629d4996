"""gpg's agent, by a gpgconf that does not end it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from builder.tools import openpgp
from tests.fake.conftest import Fake


def test_an_agent_that_does_not_end_when_it_is_told_to_is_ended(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told"
    fake("gpgconf", f"echo \"$*\" >'{told}'")
    monkeypatch.setattr(openpgp, "_AGENT_ENDS_S", 0.1)
    openpgp.make_key(tmp_path / "keys/signing.asc", name="golden demo")
    home = told.read_text().split()[1]
    assert home.startswith(("/dev/shm/golden-key-", "/tmp/golden-key-"))
    assert home not in subprocess.run(["ps", "-eo", "stat,args"], check=True, capture_output=True, text=True).stdout

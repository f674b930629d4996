"""The login of a proxy: the offline steps have it, and nobody reads it. virt-customize is a fake one."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.errors import ToolError
from builder.tools import guestfs
from builder.tools.guestfs import Operation
from tests.fake.conftest import Fake


def test_the_login_is_in_the_environment_of_virt_customize_alone(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://me:s3cret@localhost:3128")
    monkeypatch.setenv("no_proxy", "")
    fake(
        "virt-customize",
        "case $https_proxy in http://me:s3cret@169.254.2.2:3128) echo it came;; esac\n"
        'echo "[   1.0] Running: $*"\necho "virt-customize: error: sh: command exited with an error" >&2\nexit 1',
    )
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(ToolError) as caught:
        guestfs.customize(
            [Operation(name="1-install", script="dnf -y install jq\n", timeout_s=1)],
            disk=work / "disk.qcow2",
            output=work / "output.raw",
            scripts=work / "steps",
            why="run install",
            log=work / "log",
            is_kvm=False,
            time_factor=1,
            note=lambda _: None,
        )
    assert "it came" in (work / "log").read_text()
    assert "s3cret" not in f"{caught.value}{caught.value.details}"
    kept = [path for path in work.rglob("*") if path.is_file()]
    assert kept
    assert [path for path in kept if b"s3cret" in path.read_bytes()] == []

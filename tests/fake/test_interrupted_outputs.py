"""Ctrl-C and SIGTERM while an image is flattened or exported: exit 130, and nothing half-made is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from builder.store import Store
from tests.builds import add_chain
from tests.fake.conftest import Fake, Family

TOML = """
[project]
name = "demo"
[distribution.sandbox]
inherits = "el9"
[image.sandbox-base]
distribution = "sandbox"
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["flatten", "export"])
def test_nothing_is_left(tmp_path: Path, fake: Fake, family: Family, command: str, number: signal.Signals) -> None:
    store = Store(tmp_path / "state", "demo")
    add_chain(store, "sandbox-base")
    (tmp_path / "golden.toml").write_text(TOML)
    out = tmp_path / "out"
    out.mkdir()
    before = {path: path.stat().st_mtime_ns for path in store.images.iterdir()}
    real = shutil.which("qemu-img")
    fake(
        "qemu-img",
        f"""[ "$1" = convert ] || exec {real} "$@"
for target in "$@"; do :; done
echo half > "$target"
{family.join}
sleep 600""",
    )
    words = ["export", "sandbox-base", "--format", "raw", "-o", str(out), "--images", "/no/images"]
    with subprocess.Popen(
        [sys.executable, "-m", "builder", *(words if command == "export" else ["flatten", "sandbox-base"])],
        env=os.environ | {"GOLDEN_FILE": str(tmp_path / "golden.toml"), "GOLDEN_STATE": str(store.state)},
        stderr=subprocess.PIPE,
        text=True,
    ) as golden:
        assert family.has_started(within_s=60)
        golden.send_signal(number)
        _, stderr = golden.communicate(timeout=60)
    assert golden.returncode == 130
    assert "golden: interrupted" in stderr
    assert family.has_ended()
    assert list(out.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in store.images.iterdir()} == before
    assert not store.work.exists() or list(store.work.iterdir()) == []

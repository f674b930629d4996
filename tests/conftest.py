"""What tests of several folders share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that libvirt's QEMU may pass through, which runs as another user; pytest's own is closed to it."""
    with tempfile.TemporaryDirectory(prefix="golden-test-", dir="/var/tmp") as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield path

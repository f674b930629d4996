"""What tests of several folders share."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No memory is saved by itself: a test that is about that says so.
os.environ.setdefault("GOLDEN_WARM", "0")

# How long a busy machine takes for an example says nothing of the code.
settings.register_profile("golden", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("golden")

# A program that is in no package mirror, and the tests that need the real one.
REAL = "sparrowdo"
REAL_TESTS = Path(__file__).parent / "vm" / "test_real_sparrowdo.py"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if shutil.which(REAL) is None:
        left_out = [item for item in items if item.get_closest_marker("real_sparrowdo")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Said, not skipped: nobody is to believe that it was run."""
    asked = [Path(str(word).partition("::")[0]).resolve() for word in config.args]
    if shutil.which(REAL) is None and any(path in (REAL_TESTS, *REAL_TESTS.parents) for path in asked):
        terminalreporter.write_sep("=", "not run")
        terminalreporter.write_line(
            f"real_sparrowdo: the tests with the real program '{REAL}' did NOT run: it is not on PATH "
            f"(see {REAL_TESTS.relative_to(config.rootpath)})"
        )


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that libvirt's QEMU may pass through, which runs as another user; pytest's own is closed to it."""
    with tempfile.TemporaryDirectory(prefix="golden-test-", dir="/var/tmp") as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield path

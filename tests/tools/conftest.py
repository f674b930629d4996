"""A store with the sandbox's tree as small real qcow2 files, new for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.model import Build
from builder.progress import Reporter
from builder.store import Store
from tests.builds import add_chain


@pytest.fixture
def store(tmp_path: Path) -> Store:
    # A blank and a percent sign: paths are quoted for shells, macros and URLs, or a test here fails.
    return Store(tmp_path / "state of 100%x", "demo")


@pytest.fixture
def chain(store: Store) -> dict[str, Build]:
    """image -> build; the files of all four lie in `store`."""
    return add_chain(store)


@pytest.fixture
def reporter() -> Reporter:
    return Reporter("quiet")

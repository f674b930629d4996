"""docs/tutorial.md as it stands there: every line that needs no guest is typed, in order, in a fresh project.

The builds are small ones of random data. tests/vm and `ci/demo` do with guests what the other lines do.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.run import query
from builder.store import Store
from builder.tools import openpgp, ssh
from builder.tools.webserver import serving
from tests.builds import add_chain

TOP = Path(__file__).parents[2]
PAGE = TOP / "docs/tutorial.md"

# What starts guests, sets up a machine, goes on until it is ended, or belongs on another machine.
ELSEWHERE = (
    *("./ci/demo", ". .venv/bin/activate", "golden sandbox create", "cd /var/tmp/sandbox", "golden doctor"),
    *("golden build", "golden verify", "golden nightly", "golden repo check --channel nightly", "golden repo serve"),
    *("golden clone create", "golden clone ssh", "golden clone console", "golden clone destroy"),
    "dnf install golden-sandbox-bootstrapped",
)
DRY = ("golden build --dry-run", "golden nightly --dry-run")


def lines() -> list[str]:
    """What is typed, without what follows it in a comment; a block of golden.toml is one line, in its place."""
    found = []
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL):
        if language == "toml":
            found.append(text)
        else:
            found += [line.partition("  #")[0].strip() for line in text.splitlines()]
    return found


def is_typed(line: str) -> bool:
    return line.startswith(DRY) or not line.startswith(ELSEWHERE)


@pytest.fixture
def project(open_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What `golden sandbox create` leaves, with an empty DVD, and the builds that `golden build` makes of it."""
    folder = open_path / "sandbox"
    folder.mkdir()
    (text,) = (TOP / "builder/sandbox").rglob("golden.toml*")
    shutil.copy(text, folder / "golden.toml")
    (folder / "sandbox.iso").write_bytes(bytes(16 * 2048) + b"\1CD001\1" + bytes(2048))
    (folder / "updates").mkdir()
    query(["createrepo_c", "--quiet", folder / "updates"], why="make a repository")
    ssh.make_key(folder / "keys/id_ed25519", comment="test")
    openpgp.make_key(folder / "keys/signing.asc", name=openpgp.owner("sandbox"))
    store = Store(open_path / "state", "sandbox")
    add_chain(store)
    command = open_path / "bin/golden"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m builder "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(TOP))
    monkeypatch.setenv("GOLDEN_STATE", str(store.state))
    monkeypatch.setenv("GOLDEN_PROGRESS", "quiet")
    store.channels.mkdir(parents=True)
    with serving(store.channels) as server:
        monkeypatch.setenv("SERVED", server.url)
        yield folder


def test_what_needs_no_guest_works_as_written(project: Path) -> None:
    typed = [line for line in lines() if is_typed(line)]
    assert len(typed) >= 15
    for line in typed:
        if line.startswith("["):
            with (project / "golden.toml").open("a") as file:
                file.write(f"\n{line}")
            continue
        for there, here in (
            ("http://127.0.0.1:8710", os.environ["SERVED"]),
            ("http://SERVER:8710", os.environ["SERVED"]),
            ("/var/tmp/root", f"{project.parent}/root"),
        ):
            line = line.replace(there, here)
        # dnf asks before it trusts the project's key, as the page says; without a terminal it takes no answer.
        line = re.sub("^dnf ", "dnf -y ", line)
        done = subprocess.run(
            ["bash", "-c", line], cwd=project, capture_output=True, text=True, timeout=300, check=False
        )
        print(line, done.stdout, done.stderr, sep="\n")
        assert done.returncode == 0, line
    names = {it.name for it in (project.parent / "root/usr/share/golden/images").glob("*.qcow2")}
    assert "sandbox-bootstrapped.qcow2" in names and len(names) == 4
    assert {"golden.repo", "golden-nightly.repo"} <= {it.name for it in project.iterdir()}

"""Package, publish and check as somebody who is nobody on this host: no root, no libvirt, no home."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.store import Store
from builder.tools import openpgp
from tests.builds import add_chain

TOP = Path(__file__).parents[2]
PROJECT = """
[project]
name = "demo"
url = "http://mirror.example/golden"
ssh_key = "id"
[signing]
file = "signing.asc"
[distribution.sandbox]
inherits = "el9"
source = { dvd = "sandbox.iso" }
[image.sandbox-base]
distribution = "sandbox"
disk = "4 GiB"
[image.sandbox-upgrade]
parent = "sandbox-base"
"""

# No right of root's but to read: Python itself may lie in a folder that is root's alone.
_READS = "-all,+dac_read_search"
_NOBODY = ["setpriv", "--reuid=nobody", "--clear-groups", "--no-new-privs"]
_NOBODY += [f"--bounding-set={_READS}", f"--inh-caps={_READS}", f"--ambient-caps={_READS}"]

Golden = Callable[..., str]


@pytest.fixture
def place(open_path: Path) -> Path:
    """A project and its store, nobody's."""
    (open_path / "golden.toml").write_text(PROJECT)
    openpgp.make_key(open_path / "signing.asc", name=openpgp.owner("demo"))
    add_chain(Store(open_path / "state", "demo"), "sandbox-base", "sandbox-upgrade")
    nobody = pwd.getpwnam("nobody")
    for path in (open_path, *open_path.rglob("*")):
        os.chown(path, nobody.pw_uid, nobody.pw_gid, follow_symlinks=False)
    return open_path


@pytest.fixture
def golden(place: Path) -> Golden:
    nobody = pwd.getpwnam("nobody")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "PYTHONPATH": str(TOP),
        "PYTHONDONTWRITEBYTECODE": "1",
        "GOLDEN_FILE": str(place / "golden.toml"),
        "GOLDEN_STATE": str(place / "state"),
        "GOLDEN_PROGRESS": "plain",
    }

    def call(*words: str, status: int = 0) -> str:
        argv = [*_NOBODY, f"--regid={nobody.pw_gid}", sys.executable, "-m", "builder", *words]
        ended = subprocess.run(
            argv, env=environment, cwd=place, capture_output=True, text=True, timeout=300, check=False
        )
        assert ended.returncode == status, ended.stderr
        return ended.stdout if status == 0 else ended.stderr

    return call


def test_packages_are_made_published_and_checked_by_nobody(place: Path, golden: Golden) -> None:
    """The real rpmbuild, rpmsign and createrepo_c."""
    golden("package", "sandbox-upgrade")
    golden("publish", "sandbox-upgrade")
    checked = json.loads(golden("repo", "check", "--json"))
    assert (checked["channel"], checked["packages"], bool(checked["key"])) == ("candidate", 4, True)
    golden("collect")
    nobody = pwd.getpwnam("nobody").pw_uid
    made = [path for path in (place / "state").rglob("*") if path.suffix in (".rpm", ".gz", ".asc")]
    assert len(made) >= 8
    assert {path.lstat().st_uid for path in made} == {nobody}


def test_whose_folder_it_is_not_is_told_so(place: Path, golden: Golden) -> None:
    shutil.rmtree(place / "state/demo/rpms", ignore_errors=True)
    os.chown(place / "state/demo", 0, 0)
    said = golden("package", "sandbox-upgrade", status=3)
    assert "Permission denied" in said and f"{place}/state/demo" in said
    assert "try: the right to use it, or another place with --state" in " ".join(said.split())

"""A key pair of the project's own, and that neither it nor a hash of a password is anywhere else."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import starter
from builder.config import load
from builder.errors import ConfigError, HostError
from builder.progress import Reporter
from builder.publication import Signing
from builder.seal import OPERATION
from builder.store import Store
from builder.tools import guestfs, openpgp
from builder.tools.guestfs import Operation
from tests.builds import add_chain

HASH = "$6$saltsaltsalt$" + "aB3./" * 17 + "z"


def golden(folder: Path, *words: str | Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """The command line as a user has it; the state is in the folder."""
    ended = subprocess.run(
        [sys.executable, "-m", "builder", "--file", folder / "golden.toml", "--state", folder / "state", *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"GOLDEN_PROGRESS": "json"},
    )
    assert ended.returncode == expect, ended.stderr
    return ended


class TestInit:
    def test_a_folder_to_start_from(self, tmp_path: Path) -> None:
        made = json.loads(golden(tmp_path, "init", tmp_path / "new", "--json").stdout)
        key = Path(made["key"])
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
        assert Path(made["public_key"]).read_text().startswith("ssh-ed25519 ")
        derived = subprocess.run(["ssh-keygen", "-y", "-f", key], capture_output=True, text=True, check=True).stdout
        assert Path(made["public_key"]).read_text().split()[1] == derived.split()[1]
        assert Path(made["gitignore"]).read_text() == "/keys/\n/golden.private.toml\n/golden.private/\n"

    @pytest.mark.parametrize("distribution", starter.distributions())
    def test_its_golden_toml_is_good(self, tmp_path: Path, distribution: str) -> None:
        started = starter.start(tmp_path / "new", distribution=distribution)
        project = load(started.file)
        names = list(project.images)
        assert names[:3] == [f"{distribution}-{layer}" for layer in ("base", "upgrade", "tools")]
        assert names[3:] in ([], [f"{distribution}-bootstrapped"])  # where packages for Sparrowdo are known
        assert project.ssh_key == started.key
        # What is commented out is good as well.
        text = started.file.read_text().replace("\n# flat = true\n", "\nflat = true\n").replace("# prefer", "prefer")
        text = text.replace("  # { shell", "  { shell").replace(
            '# root_password_hash = "$6$…"', f"root_password_hash = '{HASH}'"
        )
        started.file.write_text(text)
        assert f"{distribution}-tools-flat" in load(started.file).images

    def test_git_sees_neither_the_key_nor_private_work(self, tmp_path: Path) -> None:
        subprocess.run(["git", "init", "-q", tmp_path], check=True)
        (tmp_path / ".gitignore").write_text("*.iso")
        starter.start(tmp_path, distribution="rocky9")
        (tmp_path / "golden.private.toml").touch()
        (tmp_path / "golden.private").mkdir()
        (tmp_path / "golden.private" / "fix.patch").touch()
        seen = subprocess.run(
            ["git", "-C", tmp_path, "status", "--porcelain", "-uall"], capture_output=True, text=True, check=True
        ).stdout
        assert seen == "?? .gitignore\n?? golden.toml\n"
        assert (tmp_path / ".gitignore").read_text() == "*.iso\n/keys/\n/golden.private.toml\n/golden.private/\n"

    @pytest.mark.parametrize("there", ["golden.toml", "keys/id_ed25519", "keys/id_ed25519.pub"])
    def test_nothing_is_overwritten(self, tmp_path: Path, there: str) -> None:
        path = tmp_path / there
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(ConfigError, match="is there already; nothing was written"):
            starter.start(tmp_path, distribution="rocky9")
        assert sorted(tmp_path.rglob("*")) == before
        assert path.read_text() == "mine"

    def test_an_unknown_distribution(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="there is no distribution 'rocky_9', did you mean 'rocky9'"):
            starter.start(tmp_path / "new", distribution="rocky_9")
        assert not (tmp_path / "new").exists()

    def test_a_folder_that_cannot_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(HostError, match=r"could not write to .*/file/new: Not a directory"):
            starter.start(tmp_path / "file" / "new", distribution="rocky9")


@pytest.fixture
def secret_project(tmp_path: Path) -> Path:
    """A project with a key and a hash, and a DVD that is one to look at."""
    folder = tmp_path / "project"
    starter.start(folder, distribution="rocky9")
    (folder / "golden.toml").write_text(
        f"""
[project]
name = "demo"
root_password_hash = "{HASH}"
[distribution.sandbox]
inherits = "el9"
source = {{ dvd = "sandbox.iso" }}
[image.sandbox-base]
distribution = "sandbox"
disk = "4 GiB"
[image.sandbox-upgrade]
parent = "sandbox-base"
[image.sandbox-bootstrapped]
parent = "sandbox-upgrade"
steps = [{{ shell = "true" }}]
"""
    )
    dvd = bytearray(40 * 2048)
    dvd[16 * 2048 : 16 * 2048 + 6] = b"\x01CD001"
    dvd[16 * 2048 + 128 : 16 * 2048 + 130] = (2048).to_bytes(2, "little")
    (folder / "sandbox.iso").write_bytes(dvd)
    return folder


def files_with(text: str, folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and text.encode() in path.read_bytes():
            yield path


def test_no_secret_is_in_anything_that_golden_makes(secret_project: Path, reporter: Reporter) -> None:
    """A dry run, which writes kickstart, scripts and domain, and all that comes after a build."""
    folder = secret_project
    key = (folder / "keys/id_ed25519").read_text()
    add_chain(Store(folder / "state", "demo"), "sandbox-base", "sandbox-upgrade", "sandbox-bootstrapped")
    printed = [
        golden(folder, *words)
        for words in (
            ("build", "--rebuild", "--dry-run"),
            ("build", "--rebuild", "--dry-run", "--json"),
            ("plan", "--json"),
            ("list", "--json"),
            ("show", "sandbox-base", "--json"),
            ("package",),
            ("publish",),
            ("flatten", "sandbox-bootstrapped"),
            ("package", "sandbox-bootstrapped-flat"),
        )
    ]
    output = "".join(ended.stdout + ended.stderr for ended in printed)
    assert "1-root-password.sh" in output  # it was at work
    made = folder / "state"
    assert list(made.rglob("*.ks")) and list(made.rglob("*.rpm"))
    for rpm in made.rglob("*.rpm"):
        with rpm.with_suffix(".tar").open("wb") as archive:
            subprocess.run(["rpm2archive", "-n", rpm], stdout=archive, check=True)
    for line in key.splitlines()[1:-1]:
        assert line not in output
        assert list(files_with(line, made)) == []
    assert HASH not in output
    (script,) = files_with(HASH, made)
    assert (script.name, stat.S_IMODE(script.stat().st_mode)) == ("1-root-password.sh", 0o700)


def test_a_bad_golden_toml_does_not_show_the_hash(secret_project: Path) -> None:
    file = secret_project / "golden.toml"
    file.write_text(file.read_text().replace("root_password_hash", "root_pasword_hash") + "[image.x-y]\nparent = 'z'\n")
    ended = golden(secret_project, "plan", expect=2)
    assert "unknown key, did you mean 'root_password_hash'?" in ended.stderr
    assert HASH not in ended.stderr


def test_no_process_is_given_the_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """virt-customize hears of a script; its arguments and its environment, which others may see, say no more."""
    program = tmp_path / "bin" / "virt-customize"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n{{ echo "$@"; env; }} > "{tmp_path}/seen"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    secret = Operation(name="1-root-password", script=f"echo '{HASH}'\n", timeout_s=1)
    guestfs.customize(
        [secret, OPERATION],
        disk=tmp_path / "disk.qcow2",
        output=tmp_path / "output.raw",
        scripts=tmp_path / "steps",
        why="test",
        log=tmp_path / "log",
        is_kvm=False,
        time_factor=1,
        note=lambda text: None,
    )
    seen = (tmp_path / "seen").read_text()
    assert "1-root-password.sh" in seen
    assert HASH not in seen + (tmp_path / "log").read_text()
    assert stat.S_IMODE((tmp_path / "steps" / "1-root-password.sh").stat().st_mode) == 0o700


def test_a_script_that_others_could_read_before_is_replaced(tmp_path: Path) -> None:
    old = tmp_path / "a.sh"
    old.write_text("old")
    old.chmod(0o644)
    guestfs.write_scripts([Operation(name="a", script="new\n", timeout_s=1)], tmp_path)
    assert stat.S_IMODE(old.stat().st_mode) == 0o700
    assert old.read_text().endswith("new\n")


def test_the_keyring_of_a_golden_that_was_killed_goes_with_the_next(tmp_path: Path, signing: Signing) -> None:
    script = (
        "import os, sys; from pathlib import Path; from builder.publication import Signing; "
        "from builder.tools import openpgp\n"
        "with openpgp.opened(Signing(file=Path(sys.argv[1]))) as signer:\n"
        "    print(signer.home, flush=True); os.kill(os.getpid(), 9)"
    )
    argv = [sys.executable, "-c", script, str(signing.file)]
    killed = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    home = Path(killed.stdout.strip())
    assert (killed.returncode, home.is_dir()) == (-9, True)
    with openpgp.opened(signing) as signer:
        assert signer is not None
    assert not home.exists()

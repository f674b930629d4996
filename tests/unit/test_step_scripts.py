"""What offline steps run in the guest: the real sh, with fake programs that say all is well when it is not."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from builder import customize, parcels
from builder.errors import ConfigError
from builder.media import Repository
from builder.steps import (
    Copy,
    Groups,
    Modules,
    Remove,
    Repos,
    Run,
    Selinux,
    Services,
    SshKeys,
    Step,
    Upgrade,
    Write,
)
from builder.tools import guestfs, input_disk, scratch_disk

UPDATES = Repository(name="updates", location="http://169.254.2.2:8000")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBmhLf6 a comment"

Fake = Callable[[str, str], None]


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)

    def write(name: str, body: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)

    return write


def script_of(step: Step) -> str:
    _begin, operation, _end = customize.operations([(1, step)], repositories=[UPDATES])
    return operation.script


def sh(tmp_path: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script as the guest would, the fakes before all other programs."""
    guestfs.write_scripts([guestfs.Operation(name="step", script=script, timeout_s=1)], tmp_path)
    return subprocess.run(
        ["sh", tmp_path / "step.sh"],
        env={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )


ALL = [
    Upgrade(),
    Remove(packages=("a", "b*")),
    Groups(groups=("core", "@^server")),
    Modules(enable=("a:1",), disable=("b",), install=("c:2/x",)),
    Copy(paths={"a": "/a"}, owner="app:app"),
    Write(texts={"/a": "b"}),
    Run(commands=("true",)),
    Run(script="a"),
    Services(enable=("a",), disable=("b",), mask=("c",)),
    Selinux(mode="permissive", booleans={"a": True}),
    SshKeys(keys=(KEY,)),
    Repos(urls={"a": "https://example.org"}),
    Repos(urls={"a": "rpms"}, is_kept=False),
]


@pytest.mark.parametrize("step", ALL, ids=lambda step: step.kind)
def test_scripts_are_ones_that_a_shell_can_read(tmp_path: Path, step: Step) -> None:
    for number, operation in enumerate(customize.operations([(1, step)], repositories=[UPDATES])):
        path = tmp_path / f"{number}.sh"
        path.write_text(operation.script)
        subprocess.run(["sh", "-n", path], check=True)


def test_dnf_s_cache_is_off_the_guest_s_disk_from_the_first_step_to_the_last() -> None:
    begin, *_, end = customize.operations([(1, Upgrade()), (2, Run(commands=("x",)))], repositories=[UPDATES])
    assert (begin.script, end.script) == (scratch_disk.MOUNT, scratch_disk.UNMOUNT)
    assert customize.operations([], repositories=[UPDATES]) == []


def test_an_extra_repository_does_not_put_the_guest_s_own_aside() -> None:
    extra = Repository(name="extras", location="https://example.org", is_extra=True)
    (_, alone, _) = customize.operations([(1, Upgrade())], repositories=[extra])
    assert (
        alone.script == "dnf -y '--setopt=golden-*.gpgcheck=0' '--setopt=golden-*.timeout=4000' "
        "--repofrompath=golden-extras,https://example.org upgrade\n"
    )
    (_, both, _) = customize.operations([(1, Upgrade())], repositories=[UPDATES, extra])
    assert both.script.startswith("dnf -y '--disablerepo=*' '--enablerepo=golden-*' ")


class TestClaims:
    """Each program ends with 0; the step looks, and does not believe it."""

    def test_removed(self, tmp_path: Path, fake: Fake) -> None:
        fake("dnf", "exit 0")
        fake("rpm", '[ "$3" = left ] && echo left-1-1.noarch; exit 0')
        ended = sh(tmp_path, script_of(Remove(packages=("gone", "left"))))
        assert (ended.returncode, ended.stderr) == (
            1,
            "golden: dnf ended well, and 'left' is still installed: left-1-1.noarch\n",
        )
        assert sh(tmp_path, script_of(Remove(packages=("gone",)))).returncode == 0

    def test_group(self, tmp_path: Path, fake: Fake) -> None:
        fake("dnf", 'case "$*" in *"group list --installed --hidden --ids") echo "   Core (core)" ;; esac')
        assert sh(tmp_path, script_of(Groups(groups=("@core",)))).returncode == 0
        ended = sh(tmp_path, script_of(Groups(groups=("core", "web"))))
        assert (ended.returncode, ended.stderr) == (
            1,
            "golden: dnf ended well, and the group 'web' is not installed\n",
        )

    def test_group_with_dnf5(self, tmp_path: Path, fake: Fake) -> None:
        fake("dnf5", 'case "$*" in *--ids*) exit 2 ;; *"environment list"*) echo "web  Web Server  yes" ;; esac')
        (tmp_path / "bin" / "dnf").symlink_to("dnf5")
        assert sh(tmp_path, script_of(Groups(groups=("@^web",)))).returncode == 0

    def test_module(self, tmp_path: Path, fake: Fake) -> None:
        fake("dnf", 'case "$*" in *"module list --enabled nodejs:18") exit 0 ;; *"module list"*) exit 1 ;; esac')
        assert sh(tmp_path, script_of(Modules(enable=("nodejs:18",)))).returncode == 0
        for step, what in (
            (Modules(enable=("php:8",)), "'php:8' is not enabled"),
            (Modules(disable=("php",)), "'php' is not disabled"),
            (Modules(install=("php:8/minimal",)), "'php:8/minimal' is not installed"),
        ):
            ended = sh(tmp_path, script_of(step))
            assert (ended.returncode, ended.stderr) == (1, f"golden: dnf ended well, and the module {what}\n")

    @pytest.mark.parametrize(
        ("step", "state", "message"),
        [
            (Services(enable=("a",)), "enabled", ""),
            (Services(enable=("a",)), "static", "golden: 'systemctl enable' ended well, and 'a' is 'static'\n"),
            (Services(disable=("a",)), "disabled", ""),
            (Services(disable=("a",)), "enabled", "golden: 'systemctl disable' ended well, and 'a' is 'enabled'\n"),
            (Services(mask=("a",)), "masked", ""),
            (Services(mask=("a",)), "", "golden: 'systemctl mask' ended well, and 'a' is ''\n"),
        ],
    )
    def test_service(self, tmp_path: Path, fake: Fake, step: Services, state: str, message: str) -> None:
        fake("systemctl", f'[ "$1" = is-enabled ] || exit 0; echo {state}; [ {state or "x"} = enabled ]')
        ended = sh(tmp_path, script_of(step))
        assert (ended.returncode, ended.stderr) == (int(bool(message)), message)

    def test_selinux(self, tmp_path: Path, fake: Fake) -> None:
        config, store = tmp_path / "config", tmp_path / "store" / "targeted" / "active"
        store.mkdir(parents=True)
        fake("setsebool", "exit 0")

        def run(step: Selinux) -> tuple[int, str, str]:
            script = script_of(step).replace("/etc/selinux/config", str(config))
            ended = sh(tmp_path, script.replace("/var/lib/selinux", str(tmp_path / "store")))
            # The first line says which operation prints.
            return ended.returncode, ended.stdout.split("\n", 1)[1], ended.stderr

        assert run(Selinux(mode="permissive")) == (0, "golden: the guest has no SELinux; nothing to set\n", "")
        config.write_text("# mode\nSELINUX=enforcing\nSELINUXTYPE=targeted\n")
        assert run(Selinux(mode="permissive")) == (0, "", "")
        assert config.read_text() == "# mode\nSELINUX=permissive\nSELINUXTYPE=targeted\n"
        not_set = "golden: the boolean 'a' is not 1 in the guest's policy store\n"
        assert run(Selinux(booleans={"a": True})) == (1, "", not_set)
        (store / "booleans.local").write_text("a=1\n")
        assert run(Selinux(booleans={"a": True})) == (0, "", "")
        config.write_text("")
        no_line = f"golden: {config} has no line SELINUX= to set\n"
        assert run(Selinux(mode="permissive")) == (1, "", no_line)

    def test_owner_that_the_guest_does_not_have(self, tmp_path: Path) -> None:
        ended = sh(tmp_path, script_of(Write(texts={"/x": ""}, owner="nobody-at-all:root")))
        assert (ended.returncode, ended.stderr) == (1, "golden: there is no user 'nobody-at-all' in the guest\n")


HOSTILE = ["a b", "it's", "-rf", "$(touch x)", "`id`", "é ü", "back\\slash", "a;b", "*"]


def unpacked(tmp_path: Path, *steps: Step, prepare: Callable[[Path], None] = lambda root: None) -> Path:
    """Where the files of copying steps end up, by the guest's own tar."""
    disk, root = tmp_path / "input.raw", tmp_path / "root"
    root.mkdir()
    prepare(root)
    found = parcels.parcels(list(enumerate(steps, 1)), project=tmp_path / "project")
    input_disk.write(disk, found)
    assert disk.stat().st_size % 512 == 0
    for parcel in found:
        ended = sh(tmp_path, f"input={disk}\n{input_disk.unpack(parcel.name, root=str(root))}")
        assert (ended.returncode, ended.stderr) == (0, "")
    return root


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project" / "files"
    folder.mkdir(parents=True)
    (tmp_path / "bin").mkdir(exist_ok=True)
    return folder


def test_any_name_arrives_as_it_is(tmp_path: Path, project: Path) -> None:
    for name in HOSTILE:
        (project / name).write_text(f"text of {name}")
    (project / "run").write_text("x")
    (project / "run").chmod(0o775)
    (project / "link $x").symlink_to("/etc/shadow")
    (project / "empty").mkdir()
    root = unpacked(tmp_path, Copy(paths={"files": "/opt/my app"}), Copy(paths={"files/run": "/usr/bin/"}, mode=0o700))
    app = root / "opt/my app"
    assert {path.name for path in app.iterdir()} == {*HOSTILE, "run", "link $x", "empty"}
    for name in HOSTILE:
        assert (app / name).read_text() == f"text of {name}"
        assert (app / name).stat().st_mode & 0o777 == 0o644
    assert str((app / "link $x").readlink()) == "/etc/shadow"
    assert (app / "run").stat().st_mode & 0o777 == 0o755
    assert (root / "usr/bin/run").stat().st_mode & 0o777 == 0o700


def test_a_folder_over_the_guest_s_keeps_what_the_guest_has(tmp_path: Path, project: Path) -> None:
    def prepare(root: Path) -> None:
        (root / "usr/bin").mkdir(parents=True)
        (root / "bin").symlink_to("usr/bin")
        (root / "secret").mkdir(mode=0o700)

    (project / "bin").mkdir()
    (project / "bin/tool").write_text("x")
    (project / "secret").mkdir()
    (project / "secret/s").write_text("x")
    root = unpacked(tmp_path, Copy(paths={"files": "/"}), prepare=prepare)
    assert (root / "bin").is_symlink()
    assert (root / "usr/bin/tool").read_text() == "x"
    assert (root / "secret").stat().st_mode & 0o777 == 0o700


def test_written_texts(tmp_path: Path, project: Path) -> None:
    texts = {"/etc/a b": "$HOME `id` 'x'\n", "/etc/deep/er/c": ""}
    root = unpacked(tmp_path, Write(texts=texts, mode=0o600))
    assert {f"/{path.relative_to(root)}": path.read_text() for path in root.rglob("*") if path.is_file()} == texts
    assert (root / "etc/a b").stat().st_mode & 0o777 == 0o600


def test_a_kept_repository_is_configured_in_the_guest(tmp_path: Path, project: Path) -> None:
    step = Repos(urls={"extras": "https://example.org/el9"}, gpgkey="https://example.org/key")
    root = unpacked(tmp_path, step)
    assert (root / "etc/yum.repos.d/extras.repo").read_text() == (
        "[extras]\nname=extras\nbaseurl=https://example.org/el9\nenabled=1\ngpgcheck=1\ngpgkey=https://example.org/key\n"
    )
    assert parcels.parcels([(1, Repos(urls={"x": "rpms"}, is_kept=False))], project=project) == []


def test_bytes_that_did_not_arrive_are_an_error_although_tar_ended_well(
    tmp_path: Path, project: Path, fake: Fake
) -> None:
    disk = tmp_path / "input.raw"
    input_disk.write(disk, parcels.parcels([(1, Write(texts={"/etc/x": "text"}))], project=project))
    fake(
        "tar",
        'case "$*" in *--strip-components*) mkdir -p "$4/etc"; echo other > "$4/etc/x" ;; *) /bin/tar "$@" ;; esac',
    )
    ended = sh(tmp_path, f"input={disk}\n{input_disk.unpack('1-write', root=str(tmp_path / 'root'))}")
    assert ended.returncode == 1
    assert "golden: tar ended well, and the files are not there as they were sent" in ended.stderr


def test_a_script_of_the_project_runs_by_its_own_first_line(tmp_path: Path, project: Path) -> None:
    (project / "s.py").write_text(f"#!/usr/bin/env python3\nopen('{tmp_path}/ran', 'w').write('yes')\n")
    disk = tmp_path / "input.raw"
    step = Run(script="files/s.py")
    input_disk.write(disk, parcels.parcels([(1, step)], project=tmp_path / "project"))
    ended = sh(tmp_path, script_of(step).replace(input_disk.find(), f"input={disk}\n"))
    assert (ended.returncode, ended.stderr, (tmp_path / "ran").read_text()) == (0, "", "yes")


def test_keys_are_let_in_once(tmp_path: Path, project: Path, fake: Fake) -> None:
    (project / "other.pub").write_text(f"# ours\n\n{KEY} 2\n")
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/authorized_keys").write_text("ssh-rsa AAAA no newline at the end")
    fake("getent", f"echo app:x:1000:1000::{home}:/bin/sh")
    fake("chown", "exit 0")
    disk = tmp_path / "input.raw"
    step = SshKeys(keys=(KEY, "files/other.pub"), user="app")
    input_disk.write(disk, parcels.parcels([(1, step)], project=tmp_path / "project"))
    script = script_of(step).replace(input_disk.find(), f"input={disk}\n")
    for _ in range(2):
        assert sh(tmp_path, script).returncode == 0
        keys = (home / ".ssh/authorized_keys").read_text()
        assert keys == f"ssh-rsa AAAA no newline at the end\n{KEY}\n{KEY} 2\n"
    fake("getent", "exit 0")
    assert sh(tmp_path, script).stderr == "golden: there is no user 'app' in the guest\n"


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Copy(paths={"files/gone": "/x"}), "'files/gone' is not in the project"),
        (Copy(paths={"files/one": "/"}), "'files/one' is no folder; write where it goes, such as '/one'"),
        (Run(script="files"), "'files' is a folder; a file is needed"),
        (SshKeys(keys=("files/id",)), "'files/id' is a private key; an image takes the public half"),
    ],
)
def test_what_cannot_be_packed(tmp_path: Path, project: Path, step: Step, message: str) -> None:
    (project / "one").write_text("x")
    (project / "id").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    with pytest.raises(ConfigError) as caught:
        parcels.parcels([(1, step)], project=tmp_path / "project")
    assert caught.value.what.startswith(message)

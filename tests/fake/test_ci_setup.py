"""ci/setup on machines that this one is not: fake dnf and rpm, and another /etc/os-release in a mount namespace."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

CI = Path(__file__).parents[2] / "ci"
MODULAR = ["virtnetworkd", "virtnodedevd", "virtnwfilterd", "virtsecretd", "virtstoraged", "virtqemud"]
TOOLS = ("bash", "sh", "sed", "dirname", "uname", "id", "cat", "mount")

OS_RELEASE = {
    "fedora": 'ID=fedora\nVERSION_ID=43\n',
    "rocky9": 'ID="rocky"\nVERSION_ID="9.6"\n',
    "rhel9": 'ID="rhel"\nVERSION_ID="9.6"\n',
    "centos10": 'ID="centos"\nVERSION_ID="10"\n',
}  # fmt: skip


def ran(folder: Path, name: str, *, installed: bool) -> list[list[str]]:
    """The commands that change the system, in their order."""
    programs, log = folder / "bin", folder / "log"
    programs.mkdir()
    for tool in TOOLS:
        (programs / tool).symlink_to(shutil.which(tool) or tool)
    for fake, status in (("dnf", 0), ("subscription-manager", 0), ("rpm", 0 if installed else 1)):
        keep = "" if fake == "rpm" else f'echo "{fake} $*" >>{log}\n'
        (programs / fake).write_text(f"#!{shutil.which('sh')}\n{keep}exit {status}\n")
        (programs / fake).chmod(0o755)
    log.touch()
    (folder / "os-release").write_text(OS_RELEASE[name])
    script = f"mount --bind {folder}/os-release /etc/os-release && . {CI}/setup && install_packages"
    subprocess.run(
        [
            "unshare",
            "--map-root-user",
            "--mount",
            shutil.which("env") or "env",
            f"PATH={programs}",
            "bash",
            "-c",
            script,
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    return [line.split() for line in log.read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "python", "emulates_aarch64"),
    [("fedora", "python3-devel", True), ("rocky9", "python3.11-devel", False), ("centos10", "python3-devel", False)],
)
def test_each_release_gets_the_packages_that_it_has(
    tmp_path: Path, name: str, python: str, emulates_aarch64: bool
) -> None:
    install = ran(tmp_path, name, installed=False)[-1]
    assert install[:4] == ["dnf", "-y", "-q", "install"]
    assert {python, python.removesuffix("-devel"), "guestfs-tools", "libvirt-devel"} <= set(install)
    assert ("qemu-system-aarch64" in install) is emulates_aarch64


@pytest.mark.parametrize(
    ("name", "enabling"),
    [
        ("fedora", None),
        ("rocky9", "dnf config-manager --set-enabled crb"),
        ("rhel9", f"subscription-manager repos --enable codeready-builder-for-rhel-9-{platform.machine()}-rpms"),
    ],
)
def test_the_repository_of_the_devel_packages_is_enabled_first(tmp_path: Path, name: str, enabling: str | None) -> None:
    *before, _ = ran(tmp_path, name, installed=False)
    assert [" ".join(line) for line in before][-1:] == ([enabling] if enabling else [])


def test_nothing_is_done_where_all_is_there(tmp_path: Path) -> None:
    assert ran(tmp_path, "rocky9", installed=True) == []


@pytest.mark.parametrize(("programs", "daemons"), [(["libvirtd", "virtqemud"], ["libvirtd"]), (["virtqemud"], MODULAR)])
def test_libvirt_is_one_daemon_or_several(tmp_path: Path, programs: list[str], daemons: list[str]) -> None:
    for program in programs:
        (tmp_path / program).write_text("")
        (tmp_path / program).chmod(0o755)
    found = subprocess.run(
        [
            shutil.which("bash") or "bash",
            "-c",
            f"PATH={tmp_path}:$(dirname $(command -v dirname)); . {CI}/setup; PATH={tmp_path} libvirt_daemons",
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout.split() == daemons


@pytest.mark.parametrize("script", ["setup", "test", "demo", "../packaging/build"])
def test_shellcheck_finds_nothing(script: str) -> None:
    found = subprocess.run(["shellcheck", "-x", CI / script], capture_output=True, text=True, cwd=CI, check=False)
    assert (found.returncode, found.stdout) == (0, "")

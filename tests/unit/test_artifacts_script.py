"""What a private leaf runs in the guest: the script itself, with rpm and dnf replaced."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from builder import customize
from builder.media import Repository
from builder.steps import ARTIFACTS, Artifact, Artifacts, RootPassword

PACKAGES = (
    Artifact(nevra="a-2:1-1.noarch", nvra="a-1-1.noarch", sha256="0" * 64, header="aaaa"),
    Artifact(nevra="b-1-1.x86_64", nvra="b-1-1.x86_64", sha256="1" * 64, header="bbbb"),
)
REPOSITORIES = (
    Repository(name=ARTIFACTS, location="http://169.254.2.2:1"),
    Repository(name="updates", location="http://169.254.2.2:2"),
)

RPM = """
for package in "$@"; do :; done
grep -s "^$package " "$GUEST" | cut -d' ' -f2 | grep . || { echo "package $package is not installed"; exit 1; }
"""


def script() -> str:
    operation = customize.operation(1, Artifacts(packages=PACKAGES), REPOSITORIES)
    return operation.script


def run(folder: Path, *, installs: str, reinstalls: str = "") -> subprocess.CompletedProcess[str]:
    """installs, reinstalls: the guest's packages and headers after dnf did so."""
    (folder / "bin").mkdir()
    guest = folder / "guest"
    dnf = f"""
case "$*" in
*reinstall*) printf '{reinstalls}' > "$GUEST" ;;
*" install "*) printf '{installs}' > "$GUEST" ;;
esac
echo "dnf $*" >> "$GUEST.dnf"
"""
    for name, body in (("rpm", RPM), ("dnf", dnf)):
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{body}")
        (folder / "bin" / name).chmod(0o755)
    text = script().replace("/var/tmp/golden-wanted", str(folder / "wanted"))
    return subprocess.run(
        ["sh", "-euc", text],
        env=os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "GUEST": str(guest)},
        capture_output=True,
        text=True,
        check=False,
    )


def dnf_calls(folder: Path) -> list[str]:
    return (folder / "guest.dnf").read_text().splitlines()


def test_packages_that_are_installed_as_given(tmp_path: Path) -> None:
    ended = run(tmp_path, installs="a-1-1.noarch aaaa\\nb-1-1.x86_64 bbbb\\n")
    assert (ended.returncode, ended.stderr) == (0, "")
    (call,) = dnf_calls(tmp_path)
    assert call.endswith(" install a-2:1-1.noarch b-1-1.x86_64")
    assert "--setopt=golden-artifacts.priority=1" in call
    assert "--repofrompath=golden-artifacts,http://169.254.2.2:1" in call
    assert "--repofrompath=golden-updates,http://169.254.2.2:2" in call
    assert not (tmp_path / "wanted").exists()


def test_a_namesake_that_was_there_before_is_replaced(tmp_path: Path) -> None:
    ended = run(
        tmp_path,
        installs="a-1-1.noarch other\\nb-1-1.x86_64 bbbb\\n",
        reinstalls="a-1-1.noarch aaaa\\nb-1-1.x86_64 bbbb\\n",
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert dnf_calls(tmp_path)[1].endswith(" reinstall a-2:1-1.noarch")


@pytest.mark.parametrize("there", ["a-1-1.noarch other", ""], ids=["another", "none"])
def test_a_guest_without_the_given_package(tmp_path: Path, there: str) -> None:
    found = f"{there}\\nb-1-1.x86_64 bbbb\\n"
    ended = run(tmp_path, installs=found, reinstalls=found)
    assert ended.returncode == 1
    assert "golden: dnf ended well, and these are not the packages that were given: a-2:1-1.noarch" in ended.stderr


def test_the_hash_of_a_password_goes_to_chpasswd_as_it_is(tmp_path: Path) -> None:
    secret = "$6$sa$`touch x`'\"\\"
    step = RootPassword(hash=secret)  # type: ignore[arg-type]
    operation = customize.operation(1, step, ())
    (tmp_path / "chpasswd").write_text('#!/bin/sh\n[ "$*" = --encrypted ] && cat > "$OUT"\n')
    (tmp_path / "chpasswd").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "OUT": str(tmp_path / "out")}
    subprocess.run(["sh", "-euc", operation.script], env=environment, check=True, cwd=tmp_path)
    assert (tmp_path / "out").read_text() == f"root:{secret}\n"
    assert not (tmp_path / "x").exists()
    assert operation.name == "1-root-password"

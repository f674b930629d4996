"""virt-install that lies, hangs, asks and crashes: a fake one writes the console, all else is real."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from builder import install
from builder.errors import GoldenError, HostError, ToolError, VerifyError
from builder.tools import qemu_img
from builder.tools.virt_install import Installation
from tests.fake.conftest import Fake, Family

# Finds the console's and the disk's file among the arguments, as libvirt would.
FIND_FILES = """
for word in "$@"; do
    case "$word" in
        pty,log.file=*) console=${word#pty,log.file=}; console=${console%%,*} ;;
        path=*) disk=${word#path=}; disk=${disk%%,*} ;;
    esac
done
"""


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    disk = tmp_path / "disk.qcow2"
    qemu_img.create(disk, 1024**3)
    return Installation(
        uri="test:///default",
        domain="golden-build-x",
        osinfo="linux2022",
        location=tmp_path / "x.iso",
        kickstart=tmp_path / "x.ks",
        kernel_arguments="console=ttyS0",
        disk=disk,
        console=tmp_path / "console.log",
        memory_mib=1024,
        cpus=1,
        is_kvm=False,
        timeout_s=30,
    )


def run_install(
    installation: Installation, *, silence_s: float = 30, look: Callable[[], object] = lambda: None
) -> list[str]:
    notes: list[str] = []
    log = installation.disk.with_name("virt-install.log")
    install.install(installation, image="x-base", log=log, silence_s=silence_s, look=look, note=notes.append)
    return notes


def failure(installation: Installation, *, silence_s: float = 30) -> GoldenError:
    with pytest.raises(GoldenError) as caught:
        run_install(installation, silence_s=silence_s)
    return caught.value


def test_an_installation_that_works_tells_what_it_does(fake: Fake, installation: Installation) -> None:
    fake(
        "virt-install",
        FIND_FILES
        + 'echo "Installing bash" > "$console"; dd if=/dev/urandom of="$disk" bs=1M count=80 status=none; sleep 1',
    )
    assert "Installing bash" in run_install(installation)


def test_virt_install_ends_well_and_nothing_is_installed(fake: Fake, installation: Installation) -> None:
    fake("virt-install", FIND_FILES + 'echo "reboot: Power down" > "$console"; exit 0')
    error = failure(installation)
    assert isinstance(error, VerifyError)
    assert error.what.startswith("virt-install ended well, but nothing is installed for 'x-base': the disk holds")
    assert ("console", "reboot: Power down") in error.details


def test_the_installer_fails_and_virt_install_ends_well(fake: Fake, installation: Installation) -> None:
    fake(
        "virt-install",
        FIND_FILES
        + 'printf "There was an error running the kickstart script at line 9\\nboom\\n" > "$console"; exit 0',
    )
    error = failure(installation)
    assert isinstance(error, ToolError)
    assert error.what == "could not install 'x-base': a script of the kickstart failed"
    assert error.details == [("console", "There was an error running the kickstart script at line 9\nboom")]
    assert error.log == installation.console


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("Please make a selection from the above ['c' to continue]: ", "the installer waits for somebody to answer"),
        ("Traceback (most recent call last):\\n  File x\\nValueError: boom\\n", "the installer crashed"),
        ("Kernel panic - not syncing: no init\\n", "the kernel panicked"),
        ("Pane is dead\\n", "the installer crashed"),
        ("No space left on device\\n", "a disk of the guest is full"),
    ],
)
def test_a_fatal_line_ends_the_installation_at_once(
    fake: Fake, family: Family, installation: Installation, line: str, kind: str
) -> None:
    fake("virt-install", f'{family.join}; {FIND_FILES} printf "{line}" > "$console"; sleep 600')
    error = failure(installation)
    assert error.what == f"could not install 'x-base': {kind}"
    assert line.split("\\n")[0].strip() in error.details[0][1]
    assert family.has_ended()


def test_a_silent_installer_is_given_up(fake: Fake, family: Family, installation: Installation) -> None:
    fake("virt-install", f'{family.join}; {FIND_FILES} echo "last word" > "$console"; sleep 600')
    error = failure(installation, silence_s=1)
    assert error.what == "could not install 'x-base': the installer has said nothing for 1 s"
    assert error.details == [("console", "last word")]
    assert family.has_ended()


def test_a_machine_that_stands_still_ends_the_installation(
    fake: Fake, family: Family, installation: Installation
) -> None:
    fake("virt-install", f"{family.join}; {FIND_FILES} sleep 600")

    def look() -> None:
        raise HostError("the machine stands still")

    with pytest.raises(HostError, match="the machine stands still"):
        run_install(installation, silence_s=600, look=look)
    assert family.has_ended()


def test_a_chatty_installer_is_given_up_at_the_limit(fake: Fake, family: Family, installation: Installation) -> None:
    fake("virt-install", f'{family.join}; {FIND_FILES} while :; do echo busy >> "$console"; sleep 0.1; done')
    error = failure(installation.model_copy(update={"timeout_s": 2.0}))
    assert ("end", "ended by golden: still running after 2 s") in error.details
    assert ("console", error.details[-1][1]) == error.details[-1]
    assert "busy" in error.details[-1][1]
    assert family.has_ended()


def test_a_failing_virt_install_is_quoted(fake: Fake, installation: Installation) -> None:
    fake("virt-install", "echo 'ERROR    unsupported configuration'; exit 1")
    error = failure(installation)
    assert error.what == "could not install 'x-base'"
    assert dict(error.details)["output"] == "ERROR    unsupported configuration"
    assert dict(error.details)["console"] == "(it said nothing)"


def test_a_missing_virt_install_is_named(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    error = failure(installation)
    assert error.what == "could not install 'x-base': the program 'virt-install' is not on this machine"
    assert error.exit_code == 3

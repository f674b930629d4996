"""Guests and installers that misbehave, for real: what golden says, and what it leaves."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import Ended
from tests.vm.conftest import Golden, what_is_left

KICKSTART = """\
text
cdrom
lang en_US.UTF-8
keyboard us
timezone UTC --utc
network --bootproto=dhcp
{rootpw}
bootloader --timeout=1 --append="{{{{ kernel_arguments }}}}"
zerombr
clearpart --all --initlabel
part / --fstype=ext4 --size=1024 --grow
poweroff
%packages
{packages}
%end
{scripts}
"""


@pytest.fixture(autouse=True)
def nothing_kept(bare: Golden) -> Iterator[None]:
    """A test that fails leaves what was kept for it to nobody else."""
    yield
    for kept in bare.store.glob("work/*"):
        shutil.rmtree(kept)


def install_with(
    golden: Golden, folder: Path, *, expect: int, rootpw: str = "rootpw --lock", packages: str = "", scripts: str = ""
) -> Ended:
    """Build a base of its own from a kickstart of the test's."""
    golden = golden.with_images(
        folder,
        """
[distribution.bad]
inherits = "el9"
kickstart = "bad.ks.j2"
source = { dvd = "sandbox.iso" }
limits = { silence = "8s" }
[image.bad-base]
distribution = "bad"
disk = "2 GiB"
""",
    )
    text = KICKSTART.format(rootpw=rootpw, packages=packages, scripts=scripts)
    (folder / "bad.ks.j2").write_text(text)
    ended = golden("build", "bad-base", expect=expect)
    (listed,) = [row for row in golden("list", "--json").json if row["image"] == "bad-base"]
    assert (listed["version"], listed["builds"]) == (None, [])
    return ended


def assert_kept(golden: Golden, ended: Ended, image: str, *files: str) -> None:
    """The error names a folder where everything is, and nothing else is left. The folder goes: the store is shared."""
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("  kept:")]
    kept = Path(line.split()[1].rstrip(":"))
    assert kept.parent == golden.store / "work"
    assert kept.name.startswith(f"{image}-")
    for name in ("disk.qcow2", "logs/commands", *files):
        assert (kept / name).stat().st_size > 0
    shutil.rmtree(kept)
    assert what_is_left(golden) == []


def test_the_installer_fails_and_virt_install_says_all_is_well(bare: Golden, open_folder: Path) -> None:
    ended = install_with(
        bare,
        open_folder,
        expect=4,
        scripts="%pre --erroronfail\necho the mirror is gone\nexit 3\n%end",
    )
    assert "golden: error: could not install 'bad-base': a script of the kickstart failed" in ended.stderr
    assert "the mirror is gone" in ended.stderr
    assert_kept(bare, ended, "bad-base", "logs/console.log", "logs/virt-install.log", "bad-base.ks")


def test_the_installer_stops_to_ask(bare: Golden, open_folder: Path) -> None:
    ended = install_with(bare, open_folder, expect=4, rootpw="")
    assert "could not install 'bad-base': the installer waits for somebody to answer" in ended.stderr
    assert_kept(bare, ended, "bad-base", "logs/console.log")


def test_the_installer_is_silent(bare: Golden, open_folder: Path) -> None:
    ended = install_with(bare, open_folder, expect=4, scripts="%pre\nsleep 3000\n%end")
    assert "could not install 'bad-base': the installer has said nothing for 40 s" in ended.stderr
    assert_kept(bare, ended, "bad-base", "logs/console.log")


def test_a_package_that_the_dvd_does_not_have(bare: Golden, open_folder: Path) -> None:
    ended = install_with(bare, open_folder, expect=4, packages="no-such-package")
    assert "golden: error: could not install 'bad-base': " in ended.stderr
    assert "no-such-package" in ended.stderr
    assert_kept(bare, ended, "bad-base", "logs/console.log")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text\nnonsense\n", "line 2, kickstart: Unknown command: nonsense"),
        ("text\nlang {{ langage }}\n", "bad.ks.j2: 'langage' is undefined"),
    ],
)
def test_a_kickstart_that_is_wrong_starts_nothing(bare: Golden, open_folder: Path, text: str, message: str) -> None:
    golden = bare.with_images(
        open_folder,
        '[distribution.bad]\ninherits = "el9"\nkickstart = "bad.ks.j2"\nsource = { dvd = "sandbox.iso" }\n'
        '[image.bad-base]\ndistribution = "bad"\n',
    )
    (open_folder / "bad.ks.j2").write_text(text)
    ended = golden("build", "bad-base", expect=2)
    assert message in ended.stderr
    assert what_is_left(golden) == []


LAYERS = """
[image.sandbox-mute]
parent = "sandbox-upgrade"
steps = [ { run = "systemctl mask sshd.service ssh.service" }, { shell = "true" } ]

[image.sandbox-failing]
parent = "sandbox-upgrade"
steps = [ { shell = ["echo before it fails", "ls /nowhere", "echo never"] } ]

[image.sandbox-restless]
parent = "sandbox-upgrade"
steps = [ { shell = '''
printf '[Service]\\nExecStart=/bin/sleep infinity\\nExecStop=/bin/sleep infinity\\nTimeoutStopSec=infinity\\n' \
    > /etc/systemd/system/restless.service
systemctl start restless.service
''' } ]

[image.sandbox-missing]
parent = "sandbox-upgrade"
steps = [ { install = ["no-such-package"] } ]
"""


@pytest.mark.usefixtures("store_is_untouched")
class TestLayers:
    def test_ssh_never_comes(self, golden: Golden, open_folder: Path) -> None:
        limits = '[distribution.sandbox.limits]\nboot = "10s"\n'
        ended = golden.with_images(open_folder, LAYERS + limits)("build", "sandbox-mute", expect=4)
        assert "cannot be reached over SSH: no answer within 50 s" in ended.stderr
        assert "last seen:" in ended.stderr
        assert "console:" in ended.stderr and "it said nothing" not in ended.stderr
        assert_kept(golden, ended, "sandbox-mute", "logs/console.log")

    def test_a_provisioning_step_fails(self, golden: Golden, open_folder: Path) -> None:
        ended = golden.with_images(open_folder, LAYERS)("build", "sandbox-failing", expect=4)
        assert "could not run step 1 (shell) in the guest" in ended.stderr
        assert "before it fails" in ended.stderr
        assert "/nowhere" in ended.stderr
        assert_kept(golden, ended, "sandbox-failing", "logs/1-shell.log", "logs/console.log")

    def test_the_guest_does_not_shut_down(self, golden: Golden, open_folder: Path) -> None:
        limits = '[distribution.sandbox.limits]\nshutdown = "5s"\n'
        ended = golden.with_images(open_folder, LAYERS + limits)("build", "sandbox-restless", expect=4)
        assert "is still on after 25 s" in ended.stderr
        assert_kept(golden, ended, "sandbox-restless", "logs/console.log")

    def test_a_package_that_is_nowhere(self, golden: Golden, open_folder: Path) -> None:
        ended = golden.with_images(open_folder, LAYERS)("build", "sandbox-missing", expect=4)
        assert "no-such-package" in ended.stderr
        assert "during:" in ended.stderr
        assert "1-install.sh" in ended.stderr
        assert_kept(golden, ended, "sandbox-missing", "logs/virt-customize.log")

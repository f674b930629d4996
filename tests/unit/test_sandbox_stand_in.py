"""The stand-in for Anaconda: what it makes of a kickstart, what it refuses, when it asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.sandbox.stand_in import console, main, plan, storage, system
from builder.sandbox.stand_in.console import InstallError, NeedsInput
from builder.sandbox.stand_in.disks import Partition
from builder.sandbox.stand_in.plan import Plan

KICKSTART = """\
text
cdrom
lang en_US.UTF-8
keyboard us
timezone Europe/Berlin --utc
network --bootproto=dhcp --device=link --hostname=web1
rootpw --lock
user --name=golden --groups=wheel,adm --lock --shell=/bin/sh
sshkey --username=golden "ssh-ed25519 AAAA golden"
selinux --enforcing
services --enabled=sshd --disabled=chronyd
bootloader --timeout=1 --append="console=ttyS0"
zerombr
clearpart --all --initlabel
part /boot --fstype=ext4 --size=512
part / --fstype=xfs --size=1024 --grow
repo --name=extra --baseurl=http://example.com/extra
poweroff
%packages
@core
sudo
-nano
%end
%pre
true
%end
%post --erroronfail --log=/var/log/post.log
false
%end
%post --nochroot --interpreter=/usr/bin/python3
print()
%end
"""


def planned(text: str) -> Plan:
    return plan.make(plan.parse(text))


def without(command: str) -> str:
    return "".join(line for line in KICKSTART.splitlines(keepends=True) if not line.startswith(command))


def test_a_kickstart_becomes_a_plan() -> None:
    wanted = planned(KICKSTART)
    assert wanted.partitions == (
        Partition("/boot", "ext4", 512),
        Partition("/", "xfs", 1024, grow=True),
    )
    assert wanted.root is not None
    assert (wanted.root.is_locked, wanted.root.password) == (True, None)
    [user] = wanted.users
    assert (user.name, user.groups, user.shell, user.is_locked) == ("golden", ("wheel", "adm"), "/bin/sh", True)
    assert wanted.keys == (("golden", "ssh-ed25519 AAAA golden"),)
    assert (wanted.enabled, wanted.disabled) == (("sshd",), ("chronyd",))
    assert (wanted.timezone, wanted.is_utc, wanted.language) == ("Europe/Berlin", True, "en_US.UTF-8")
    assert (wanted.kernel_arguments, wanted.boot_timeout_s) == ("console=ttyS0", 1)
    assert (wanted.hostname, wanted.ending) == ("web1", "poweroff")
    assert wanted.repositories == (("extra", "http://example.com/extra"),)
    assert (wanted.packages.groups, wanted.packages.names, wanted.packages.excluded) == (
        ("core",),
        ("sudo",),
        ("nano",),
    )
    assert plan.missing(wanted) == []


def test_scripts_keep_their_place_and_their_options() -> None:
    wanted = planned(KICKSTART)
    [before] = wanted.scripts_of("pre")
    assert not before.in_chroot
    first, second = wanted.scripts_of("post")
    assert (first.text, first.error_on_fail, first.in_chroot, first.log) == ("false\n", True, True, "/var/log/post.log")
    assert (second.interpreter, second.in_chroot, second.error_on_fail) == ("/usr/bin/python3", False, False)
    assert KICKSTART.splitlines()[first.line - 1].startswith("%post --erroronfail")


def test_what_means_nothing_here_is_remarked() -> None:
    assert dict(planned(KICKSTART).remarks).keys() == {"cdrom", "selinux"}


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("nosuchcommand --x", "Unknown command: nosuchcommand"),
        ("module --name=nodejs --stream=18", "'module' is not obeyed by this stand-in for Anaconda"),
        ("part /home --fstype=vfat --size=10", "a partition '/home' of type 'vfat' is not obeyed"),
        ("part /home --fstype=ext4 --onpart=vda3", "'part --onpart' is not obeyed"),
        ("network --bootproto=static --ip=10.0.0.2 --netmask=255.0.0.0 --device=x", "a network other than DHCP"),
        ("user --name=x --nosuchoption", "unrecognized arguments"),
    ],
)
def test_what_it_does_not_know_fails_with_the_line(command: str, says: str) -> None:
    with pytest.raises(InstallError) as caught:
        planned(f"text\n{command}\n{without('text')}")
    first, _, rest = str(caught.value).partition("\n\n")
    assert first == "The following problem occurred on line 2 of the kickstart file:"
    assert says in rest


@pytest.mark.parametrize(
    ("command", "spoke"),
    [
        ("timezone", "Time settings"),
        ("part /", "Installation Destination"),
    ],
)
def test_what_is_missing_is_asked_for(command: str, spoke: str) -> None:
    with pytest.raises(NeedsInput) as caught:
        main.check_complete(planned(without(command)))
    assert caught.value.spokes == [spoke]
    assert f"[!] {spoke}" in console.hub([spoke])
    assert console.hub([spoke]).endswith(console.PROMPT)


def test_an_empty_kickstart_asks_for_everything() -> None:
    asked = plan.missing(planned(""))
    assert asked == ["Time settings", "Software selection", "Installation Destination", "Root password"]


def test_a_user_is_enough_where_root_has_no_password() -> None:
    assert plan.missing(planned(without("rootpw"))) == []


def test_in_cmdline_mode_nothing_is_asked() -> None:
    text = "cmdline\n" + "".join(line for line in without("timezone").splitlines(keepends=True) if line != "text\n")
    with pytest.raises(InstallError, match="Can't have a question in command line mode! Not set: Time settings"):
        main.check_complete(planned(text))


def test_autopart_is_boot_and_root() -> None:
    parts = planned(without("part ") + "autopart --fstype=ext4\n").partitions
    assert [(part.mount_point, part.filesystem, part.grow) for part in parts] == [
        ("/boot", "ext4", False),
        ("/", "ext4", True),
    ]


def test_growing_partitions_share_what_is_left_and_come_last() -> None:
    parts = (
        Partition("/", "xfs", 1000, grow=True),
        Partition("/boot", "ext4", 500),
        Partition("/var", "xfs", 100, grow=True, max_size_mib=300),
    )
    laid = storage.layout(parts, disk_mib=4097, is_gpt=False)
    assert [(part.mount_point, size) for part, size in laid] == [("/boot", 500), ("/", 2248), ("/var", 300)]


def test_a_disk_that_is_too_small_is_refused() -> None:
    with pytest.raises(InstallError, match=r"not enough free space on disks \(9000 MiB wanted, 4095 MiB there\)"):
        storage.layout((Partition("/", "xfs", 9000),), disk_mib=4096, is_gpt=False)


def test_the_partition_table_marks_boot_as_active() -> None:
    parts = [(Partition("/boot", "ext4", 1), 1), (Partition("swap", "swap", 2), 2), (Partition("/", "xfs", 3), 3)]
    assert storage.table(parts, is_gpt=False).splitlines() == [
        "label: dos",
        "unit: sectors",
        "",
        "start=2048, size=2048, type=L, bootable",
        "start=4096, size=4096, type=S",
        "start=8192, size=6144, type=L",
    ]


def test_the_first_disk_is_taken_that_the_kickstart_allows(tmp_path: Path) -> None:
    for name in ("vda", "vdb", "sr0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "removable").write_text("0\n")
    assert storage.choose_disk(Plan(), block=tmp_path) == "vda"
    assert storage.choose_disk(Plan(disks=("vdb",)), block=tmp_path) == "vdb"
    with pytest.raises(InstallError, match=r"No usable disks have been found \(the kickstart wants sda\)"):
        storage.choose_disk(Plan(disks=("sda",)), block=tmp_path)


def test_the_boot_menu_finds_kernels_on_a_boot_partition_of_their_own() -> None:
    root = storage.Made("/dev/vda2", "root-id", Partition("/", "xfs", 1))
    boot = storage.Made("/dev/vda1", "boot-id", Partition("/boot", "ext4", 1))
    wanted = Plan(kernel_arguments="console=ttyS0", boot_timeout_s=1)
    text = storage.grub_config(wanted, made=[boot, root], kernel="6.1")
    assert "--set=root boot-id" in text
    assert "linux /vmlinuz-6.1 root=UUID=root-id rootfstype=xfs rw console=ttyS0" in text
    assert "linux /boot/vmlinuz-6.1" in storage.grub_config(wanted, made=[root], kernel="6.1")


def test_a_failing_program_is_quoted() -> None:
    with pytest.raises(InstallError) as caught:
        system.call(["sh", "-c", "echo no such device >&2; exit 3"])
    assert str(caught.value) == (
        "The installation was stopped due to an error: "
        "The command 'sh -c 'echo no such device >&2; exit 3'' failed with status 3:\nno such device"
    )


def test_output_goes_to_the_log_that_the_kickstart_names(tmp_path: Path) -> None:
    assert system.attempt(["sh", "-c", "echo done; exit 4"], log=tmp_path / "a/post.log") == (4, "done\n")
    assert (tmp_path / "a/post.log").read_text() == "done\n"
    assert system.attempt(["/no/such/program"]) == (127, "/no/such/program: No such file or directory\n")


def test_a_bug_is_a_traceback_and_the_machine_goes_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main, "_LAST_WORDS_S", 0)
    monkeypatch.setattr(main, "KICKSTART", tmp_path / "absent")
    monkeypatch.setattr(main, "install", lambda _text: 1 / 0)
    assert main.main() == main.POWER_OFF
    said = capfd.readouterr().out
    assert said.startswith("golden sandbox installer, a stand-in for Anaconda\n")
    assert "Traceback (most recent call last)" in said
    assert said.endswith("Installation failed. The system will power off.\n")


def test_a_kickstart_error_is_printed_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "ks.cfg"
    file.write_text("text\nnosuchcommand\n")
    monkeypatch.setattr(main, "_LAST_WORDS_S", 0)
    monkeypatch.setattr(main, "KICKSTART", file)
    assert main.main() == main.POWER_OFF
    assert "The following problem occurred on line 2 of the kickstart file:\n\nUnknown command: nosuchcommand" in (
        capfd.readouterr().out
    )

"""The real libvirt and machines whose disk files have no room to grow: a boot sector that writes and writes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builder import clones, install, provision, verification
from builder.harness.guest import Address, Guest
from builder.harness.watch import Watch
from builder.model import Limits
from builder.run import query, run
from builder.steps import Shell
from builder.store import Store
from builder.tools import guestfish, qemu_img, ssh, standstill
from builder.tools.appliance import pausing
from builder.tools.console import Console
from builder.tools.domain import Disk, Label, Machine, domain_xml
from builder.tools.free_port import free_port
from builder.tools.libvirt import Connection, Domain
from builder.tools.standstill import StandsStill
from builder.tools.virt_install import Installation, argv, usable_osinfo
from builder.units import MIB
from tests.builds import add_chain
from tests.disks import make_base

# 64 sectors a time, each behind the last, by the BIOS: "extended write" with a packet of count, buffer and sector.
_WRITER = (
    bytes.fromhex(
        "31c0"  # xor ax, ax
        "8ed8"  # mov ds, ax
        "be207c"  # mov si, 0x7c20
        "b80043"  # next: mov ax, 0x4300
        "b280"  # mov dl, 0x80
        "cd13"  # int 0x13
        "668106287c40000000"  # add dword [0x7c28], 64
        "ebee"  # jmp next
    ).ljust(0x20, b"\0")
    + bytes.fromhex("1000400000000010")
    + (64).to_bytes(8, "little")
)

GONE_WRONG = "stands still: this host could not write what it wrote to its disk"


def make_writer(disk: Path) -> None:
    sector = disk.with_name("sector")
    sector.write_bytes(_WRITER.ljust(510, b"\0") + b"\x55\xaa")
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", f"write -q -s {sector} 0 512", disk], check=True)
    sector.unlink()


@pytest.fixture
def small(open_path: Path) -> Iterator[Path]:
    """A file system with room for little."""
    place = open_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=755", "golden-test", place], check=True)
    yield place
    # Whoever writes a machine's console may hold its file for a moment longer.
    subprocess.run(["umount", "--lazy", place], check=True)


def make_room(place: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", place], check=True)


@pytest.fixture
def machine(small: Path, open_path: Path) -> Machine:
    base = make_base(open_path)
    disk = small / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, disk], check=True)
    make_writer(disk)
    return Machine(
        name=f"golden-test-{uuid.uuid4().hex[:12]}",
        uuid=str(uuid.uuid4()),
        label=Label(purpose="build", owner_pid=os.getpid(), work=open_path),
        accelerator="tcg",
        memory_mib=64,
        cpus=1,
        disks=(Disk(chain=(disk, base)),),
        ssh_port=free_port(),
        console_log=open_path / "console.log",
    )


@pytest.fixture
def stopped(connection: Connection, machine: Machine) -> Iterator[Domain]:
    with connection.running(domain_xml(machine)) as domain:
        wait_for(lambda: stands_still(domain))
        yield domain


def wait_for(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def stands_still(domain: Domain) -> bool:
    try:
        assert domain.is_alive()
    except StandsStill:
        return True
    return False


def test_one_that_stands_still_is_told_apart_and_goes_on_once_there_is_room(
    stopped: Domain, machine: Machine, small: Path
) -> None:
    assert not stopped.is_off()
    with pytest.raises(StandsStill, match=f"the machine '{machine.name}' {GONE_WRONG}") as told:
        stopped.wait_until_off(600)
    (disk, free) = told.value.details
    assert disk == ("disk", str(small / "disk.qcow2"))
    # Less than a cluster.
    assert re.fullmatch(rf"[0-9.]+ (B|KiB) in {small}", free[1])
    assert told.value.try_next == "df -h, and make room: golden collect, golden clone gc, golden cache prune"
    make_room(small)
    stopped.go_on()
    assert stopped.is_alive()


def test_one_that_somebody_paused_is_waited_for(connection: Connection, machine: Machine, small: Path) -> None:
    make_room(small)
    with connection.running(domain_xml(machine)) as domain:
        domain.pause()
        assert domain.is_alive()
    assert not domain.is_alive()


def test_whoever_waits_for_a_clone_hears_of_it(
    connection: Connection, stopped: Domain, machine: Machine, tmp_path: Path
) -> None:
    target = ssh.Target(port=machine.ssh_port, key=tmp_path / "key")
    guest = verification.Guest(target=target, domain=stopped, console=Console(machine.console_log))
    with pytest.raises(StandsStill, match=GONE_WRONG):
        verification.answered(guest, limit_s=600, note=lambda _: None)
    with pytest.raises(StandsStill, match=GONE_WRONG):
        guest.watch()
    address = Address(
        name="main",
        clone=machine.name.removeprefix("golden-"),
        image="x-base@20261121.1",
        port=machine.ssh_port,
        key=tmp_path / "key",
        console=machine.console_log,
    )
    with pytest.raises(StandsStill, match=GONE_WRONG):
        Watch({"main": Guest(address)}, connection, fatal=(), stop=threading.Event())()


def test_an_online_phase_ends_and_leaves_no_machine(connection: Connection, machine: Machine, tmp_path: Path) -> None:
    ssh.make_key(tmp_path / "key", comment="")
    (tmp_path / "logs").mkdir()
    with pytest.raises(StandsStill, match=GONE_WRONG):
        provision.provision(
            machine,
            [(1, Shell(commands=("true",)))],
            connection=connection,
            key=tmp_path / "key",
            project=tmp_path,
            logs=tmp_path / "logs",
            limits=Limits(boot_s=600),
            time_factor=1,
            note=lambda _: None,
            stage=pytest.fail,
        )
    assert connection.find(machine.name) is None


def test_an_installation_ends(
    connection: Connection, machine: Machine, open_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real virt-install, with no installer but what lies on the disk."""
    (disk, _), name = machine.disks[0].chain, machine.name
    installation = Installation(
        uri=connection.uri,
        domain=name,
        osinfo=usable_osinfo("rocky9"),
        location="none",
        kickstart=open_path / "ks.cfg",
        kernel_arguments="",
        disk=disk,
        console=machine.console_log,
        memory_mib=64,
        cpus=1,
        is_kvm=False,
        timeout_s=600,
    )
    words = argv(installation)
    for option in ("--location", "--initrd-inject", "--extra-args"):
        place = words.index(option)
        del words[place : place + 2]
    monkeypatch.setattr(install.virt_install, "argv", lambda _: [*words, "--import"])

    def look() -> object:
        return (domain := connection.find(name)) is None or domain.is_alive()

    try:
        with (
            connection.storage_pool(disk.parent, name=name),
            pytest.raises(StandsStill, match=f"the machine '{name}' {GONE_WRONG}"),
        ):
            install.install(
                installation,
                image="x-base",
                log=open_path / "log",
                silence_s=600,
                look=look,
                note=lambda _: None,
            )
    finally:
        if (left := connection.find(name)) is not None:
            left.remove()


# What libguestfs does, without it: its QEMU, from the file that it is told, waited for without end.
APPLIANCE = """\
"$LIBGUESTFS_HV" -accel tcg -m 64 -nodefaults -display none -drive file=$1,format=qcow2,if=virtio &
trap 'kill $!' EXIT
wait
"""


@pytest.mark.parametrize("is_asked", [False, True])
def test_an_appliance_that_has_no_room_is_ended(machine: Machine, tmp_path: Path, is_asked: bool) -> None:
    disk, _ = machine.disks[0].chain
    words = ["sh", "-c", APPLIANCE, "sh", disk]
    with (
        pytest.raises(StandsStill, match=f"libguestfs' appliance {GONE_WRONG}") as told,
        pausing(disk, {}) as pauses,
    ):
        assert pauses is not None
        if is_asked:
            query(words, why="customize", timeout_s=600, env=pauses.environment, watch=pauses.poll)
        else:
            run(words, why="customize", timeout_s=600, log=tmp_path / "log", env=pauses.environment, watch=pauses.poll)
    assert told.value.details[0] == ("disk", str(disk))


def test_the_real_libguestfs_is_ended_too(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = small / "disk.qcow2"
    qemu_img.create(disk, 256 * MIB)
    filling = [["mkfs", "ext4", "/dev/sda"], ["mount", "/dev/sda", "/"], ["fill", "1", "8000000", "/x"], ["sync"]]
    monkeypatch.setattr(guestfish, "growing", lambda *_: filling)
    layout = guestfish.Layout(table=None, partitions=(), file_systems={})
    with pytest.raises(StandsStill, match=f"libguestfs' appliance {GONE_WRONG}") as told:
        guestfish.grow(disk, layout, 256 * MIB, is_kvm=False, time_factor=5)
    assert told.value.details[0] == ("disk", str(disk))


@pytest.fixture
def golden(small: Path, connection: Connection) -> Iterator[Callable[..., Any]]:
    """`golden clone` on clones whose disks have little room: what it says, if it ends with that status."""
    subprocess.run(["mount", "-o", "remount,size=4m", small], check=True)
    store = Store(small / "state", "demo")
    add_chain(store, "sandbox-base")
    (store.images / "sandbox-base.qcow2").symlink_to("sandbox-base-20261121.1.qcow2")

    def said(*words: str, status: int = 0) -> str:
        argv = [sys.executable, "-m", "builder", "--state", store.state, "--progress", "plain", "clone", *words]
        environment = os.environ | {"GOLDEN_IMAGES_DIR": str(store.images)}
        ended = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=300, check=False)
        assert ended.returncode == status, ended.stderr
        return ended.stderr if status else ended.stdout

    yield said
    for name in clones.names(store.state):
        clones.destroy(name, state=store.state, connection=connection)


def test_a_clone_that_stands_still_says_so_and_is_started_again(
    golden: Callable[..., Any], connection: Connection, small: Path, tmp_path: Path
) -> None:
    name = f"test-{uuid.uuid4().hex[:8]}"
    ssh.make_key(tmp_path / "key", comment="")
    words = ("--image", "sandbox-base", "--memory", "64 MiB", "--key", str(tmp_path / "key"))
    golden("create", name, *words, "--no-start")
    lease = clones.find(small / "state", name)
    make_writer(clones.directory(small / "state", name) / "disk.qcow2")
    said = golden("start", name, status=3)
    assert f"the machine '{lease.domain_name}' {GONE_WRONG}" in said
    assert "disk.qcow2" in said and re.search(rf"[0-9.]+ (B|KiB) in {small}/", said)
    assert json.loads(golden("list", "--json"))[0]["state"] == "paused"
    said = golden("ssh", name, status=3)
    assert f"make room: golden collect, golden clone gc, golden cache prune; then golden clone start {name}" in said
    make_room(small)
    golden("start", name, "--no-wait")
    domain = connection.find(lease.domain_name)
    assert domain is not None and domain.is_alive()
    assert json.loads(golden("list", "--json"))[0]["state"] == "running"


def test_all_disks_are_named_where_libvirt_does_not_say_which() -> None:
    xml = """<domain><devices>
    <disk><source file="/a/one.qcow2"/><target dev="vda"/></disk>
    <disk><source file="/a/two.qcow2"/><target dev="vdb"/></disk>
    <disk><source file="/a/seed.iso"/><target dev="vdc"/><readonly/></disk>
    <disk><target dev="sda"/></disk></devices></domain>"""
    assert standstill.files(xml, {"vdb"}) == [Path("/a/two.qcow2")]
    assert standstill.files(xml, ()) == [Path("/a/one.qcow2"), Path("/a/two.qcow2")]
    told = standstill.error("x", [Path("/none/at/all/disk.qcow2")])
    assert told.details == [("disk", "/none/at/all/disk.qcow2")]

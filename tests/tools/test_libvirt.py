"""The real libvirt, with tiny machines that have no operating system: their firmware looks for one for ever.

Needs a running libvirtd; without one these tests fail with libvirt's message and what to type.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import pipeline
from builder.errors import HostError, Interrupted, ToolError
from builder.preflight import doctor, kvm
from builder.progress import Reporter
from builder.store import Store
from builder.tools import qcow2, qemu_img
from builder.tools.domain import Disk, Label, Machine, domain_xml, read_label
from builder.tools.free_port import free_port
from builder.tools.libvirt import Connection, Domain, PortTaken, connect, default_uri


@pytest.fixture
def machine(open_path: Path) -> Machine:
    base, upper, top = (open_path / f"{name}.qcow2" for name in ("base", "upper", "top"))
    qemu_img.create(base, 1024**2)
    qemu_img.create_overlay(upper, base)
    qemu_img.create_overlay(top, upper)
    for parent in (base, upper):
        parent.chmod(0o444)
    return Machine(
        name=f"golden-test-{uuid.uuid4().hex[:12]}",
        uuid=str(uuid.uuid4()),
        label=Label(purpose="build", owner_pid=os.getpid(), work=open_path),
        accelerator="tcg",
        memory_mib=64,
        cpus=1,
        disks=(Disk(chain=(top, upper, base)),),
        ssh_port=free_port(),
        console_log=open_path / "console.log",
    )


def is_known(connection: Connection, machine: Machine) -> bool:
    return connection.find(machine.name) is not None


def test_a_machine_is_on_inside_the_block_and_gone_after_it(connection: Connection, machine: Machine) -> None:
    with connection.running(domain_xml(machine)) as domain:
        assert not domain.is_off()
        assert machine.name in [known.name for known in connection.domains()]
        assert read_label(domain.xml()) == machine.label
        with socket.create_connection(("127.0.0.1", machine.ssh_port), timeout=5):
            pass
        assert machine.console_log.exists()
    assert domain.is_off()
    domain.wait_until_off(0)
    assert not is_known(connection, machine)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, Interrupted])
def test_a_machine_is_gone_whatever_ends_the_block(
    connection: Connection, machine: Machine, error: type[BaseException]
) -> None:
    with pytest.raises(error), connection.running(domain_xml(machine)):
        raise error
    assert not is_known(connection, machine)


def test_an_interrupt_before_anybody_heard_of_the_start_leaves_no_machine(
    connection: Connection, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, calls = Domain.__init__, []

    def interrupted_once(domain: Domain, handle: object) -> None:
        calls.append(handle)
        if len(calls) == 1:
            raise Interrupted
        make(domain, handle)

    monkeypatch.setattr(Domain, "__init__", interrupted_once)
    with pytest.raises(Interrupted), connection.running(domain_xml(machine)):
        pytest.fail("the block was entered")
    monkeypatch.undo()
    assert not is_known(connection, machine)


def test_a_libvirt_that_went_away_is_told_as_what_it_is(connection: Connection, machine: Machine) -> None:
    """It cannot be asked to end the machine, which is no bug of golden's; the next build removes what it left."""
    other = connect()
    with (
        pytest.raises(ToolError, match="could not end a throw-away machine") as told,
        other.running(domain_xml(machine)),
    ):
        other._handle.close()
    assert dict(told.value.details)["libvirt"]
    left = connection.find(machine.name)
    assert left is not None
    left.remove()


def test_a_machine_ends_with_a_process_that_is_killed(connection: Connection, machine: Machine) -> None:
    script = """if True:
        import sys
        from builder.tools.libvirt import connect
        with connect() as connection, connection.running(sys.stdin.read()):
            print("on", flush=True)
            sys.stdout.close()
            import signal; signal.pause()
    """
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdin is not None and owner.stdout is not None
        owner.stdin.write(domain_xml(machine))
        owner.stdin.close()
        assert owner.stdout.readline() == "on\n"
        domain = connection.find(machine.name)
        owner.send_signal(signal.SIGKILL)
    assert domain is not None
    domain.wait_until_off(20)


def test_parents_keep_their_owner_and_mode(connection: Connection, machine: Machine) -> None:
    parents = machine.disks[0].chain[1:]

    def facts() -> list[tuple[int, ...]]:
        found = [path.stat() for path in parents]
        return [(s.st_uid, s.st_gid, s.st_mode, s.st_ctime_ns, s.st_mtime_ns) for s in found]

    before = facts()
    with connection.running(domain_xml(machine)):
        assert facts() == before
        user = connection.qemu_user()
        if user is not None:
            top = machine.disks[0].chain[0].stat()
            assert (top.st_uid, top.st_gid) == user
    assert facts() == before


def test_one_that_stays_on_is_not_waited_for_beyond_the_limit(connection: Connection, machine: Machine) -> None:
    with (
        connection.running(domain_xml(machine)) as domain,
        pytest.raises(ToolError, match=f"the machine '{machine.name}' is still on after 0 s"),
    ):
        domain.wait_until_off(0.3)


def test_a_port_that_is_taken_is_told_apart(connection: Connection, machine: Machine) -> None:
    with (
        socket.create_server(("127.0.0.1", machine.ssh_port)),
        pytest.raises(PortTaken, match="could not start a throw-away machine"),
        connection.running(domain_xml(machine)),
    ):
        pytest.fail("the machine started")
    assert not is_known(connection, machine)


def test_one_that_cannot_start_says_what_libvirt_says(
    connection: Connection, machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    machine.disks[0].chain[-1].unlink()
    with (
        pytest.raises(ToolError, match="could not start a throw-away machine") as caught,
        connection.running(domain_xml(machine)),
    ):
        pytest.fail("the machine started")
    assert "base.qcow2" in dict(caught.value.details)["libvirt"]
    assert not is_known(connection, machine)
    assert capfd.readouterr().err == ""


def test_xml_that_libvirt_does_not_know_is_refused(connection: Connection, machine: Machine) -> None:
    wrong = domain_xml(machine).replace("on_crash", "on_krash")
    with pytest.raises(ToolError, match="could not define a machine"):
        connection.define(wrong)


def test_a_second_machine_of_a_name_does_not_cost_the_first(connection: Connection, machine: Machine) -> None:
    second = machine.model_copy(update={"uuid": str(uuid.uuid4()), "disks": (), "ssh_port": free_port()})
    with connection.running(domain_xml(machine)) as first:
        with (
            pytest.raises(ToolError, match="could not start a throw-away machine"),
            connection.running(domain_xml(second)),
        ):
            pytest.fail("the second started")
        assert not first.is_off()


def test_a_defined_machine_stays_until_it_is_removed(connection: Connection, machine: Machine) -> None:
    domain = connection.define(domain_xml(machine))
    try:
        assert domain.is_off()
        domain.start()
        assert not domain.is_off()
        domain.destroy()
        domain.destroy()
        assert domain.is_off()
        assert is_known(connection, machine)
        domain.start()
    finally:
        domain.remove()
    domain.remove()
    assert not is_known(connection, machine)


def test_what_a_killed_golden_left_is_found_by_its_label(connection: Connection, machine: Machine) -> None:
    domain = connection.define(domain_xml(machine))
    try:
        domain.start()
        removed = connection.destroy_matching(
            lambda known: (label := read_label(known.xml())) is not None and label.work == machine.label.work
        )
        assert removed == [machine.name]
        assert not is_known(connection, machine)
    finally:
        domain.remove()


def test_machines_of_others_may_vanish_while_it_is_looked_for_what_is_left(
    connection: Connection, machine: Machine
) -> None:
    """As when two projects clean up at once: one is listed, and gone when its definition is read."""
    domain = connection.define(domain_xml(machine))

    def gone_by_now(known: Domain) -> bool:
        if known.name == machine.name:
            domain.remove()
            return "nothing" in known.xml()
        return False

    assert connection.destroy_matching(gone_by_now) == []


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt, Interrupted])
def test_a_folder_is_a_storage_pool_inside_the_block_alone(
    connection: Connection, open_path: Path, error: type[BaseException] | None
) -> None:
    name = f"golden-test-{uuid.uuid4().hex[:12]}"
    with (
        pytest.raises(error) if error else contextlib.nullcontext(),
        connection.storage_pool(open_path, name=name),
    ):
        assert [pool.name for pool in connection.pools_below(open_path.parent) if pool.name == name] == [name]
        if error:
            raise error
    assert connection.pools_below(open_path) == []


@pytest.fixture
def left_pools(open_path: Path) -> Iterator[Store]:
    """A store with a pool of a golden that was killed, one that virt-install made, and beside them somebody's own."""
    store = Store(open_path / "state", "demo")
    folders = {"killed": store.work / "x-base-20261121.1", "made": store.work / "x-base-20261121.2", "own": open_path}
    names = {kind: f"golden-test-{kind}-{uuid.uuid4().hex[:8]}" for kind in folders}
    for kind, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        verb = "pool-create-as" if kind == "killed" else "pool-define-as"
        virsh(verb, names[kind], "dir", "--target", str(folder))
    virsh("pool-start", names["made"])
    yield store
    with connect() as connection:
        left = [pool.name for pool in connection.pools_below(open_path)]
    virsh("pool-undefine", names["own"])
    assert left == [names["own"]]


def virsh(*words: str) -> None:
    subprocess.run(["virsh", "--connect", default_uri(), *words], check=True, stdout=subprocess.DEVNULL)


def test_pools_that_an_earlier_run_left_go_and_those_of_others_stay(
    connection: Connection, left_pools: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(pool.name for pool in connection.pools_below(left_pools.work))
    pipeline.clear(left_pools, connection, reporter=Reporter("plain"))
    said = sorted(line.split()[-6] for line in capsys.readouterr().err.splitlines())
    assert (len(names), said) == (2, names)


def test_the_doctor_names_a_pool_that_a_killed_golden_left(
    connection: Connection, left_pools: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kvm, "DEVICE", left_pools.root / "no-kvm")

    def named() -> dict[str, str]:
        found = doctor.examine(left_pools.state, reporter=Reporter("quiet"))
        return {finding.found.split(":")[0]: finding.remedy for finding in found if finding.check == "storage pool"}

    names = {pool.name for pool in connection.pools_below(left_pools.work)}
    with left_pools.lock():  # this process lives: they may be of a build under way
        assert named() == {}
    (left_pools.root / "lock").write_text("pid 4999999 since then: golden build\n")  # above the kernel's limit of 2^22
    assert named() == {name: f"virsh pool-destroy {name}" for name in names}
    pipeline.clear(left_pools, connection, reporter=Reporter("quiet"))


def test_versions_are_told(connection: Connection) -> None:
    versions = connection.versions()
    assert sorted(versions) == ["libvirt", "qemu"]
    assert all(version.count(".") == 2 for version in versions.values())


def test_a_libvirt_that_does_not_answer_is_a_lack_of_this_machine(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(HostError, match=r"libvirt is not reachable at qemu\+unix") as caught:
        connect(f"qemu+unix:///system?socket={tmp_path}/none")
    assert caught.value.try_next in ("systemctl start libvirtd", "virtlogd -d && libvirtd -d")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("arch", "firmware"), [("x86_64", "uefi"), ("aarch64", "uefi")])
def test_libvirt_takes_machines_of_every_architecture_and_firmware(
    connection: Connection, machine: Machine, arch: str, firmware: str
) -> None:
    other = machine.model_copy(update={"arch": arch, "firmware": firmware, "memory_mib": 256})
    domain = connection.define(domain_xml(other))
    try:
        assert read_label(domain.xml()) == other.label
    finally:
        domain.remove()
    assert not is_known(connection, machine)


def test_a_uefi_machine_starts_and_leaves_nothing_outside_its_folder(
    connection: Connection, machine: Machine, open_path: Path
) -> None:
    uefi = machine.model_copy(update={"firmware": "uefi", "memory_mib": 256})
    with connection.running(domain_xml(uefi)) as domain:
        assert not domain.is_off()
        assert (open_path / "nvram.fd").stat().st_size > 0
        assert "secboot" not in domain.xml()
    assert not is_known(connection, machine)
    assert not list(Path("/var/lib/libvirt/qemu/nvram").glob(f"{machine.name}*"))


def test_a_running_machine_goes_on_in_a_new_overlay(connection: Connection, machine: Machine, open_path: Path) -> None:
    top, *parents = machine.disks[0].chain
    before = top.stat().st_mtime_ns
    scratch = open_path / "scratch.raw"
    scratch.write_bytes(bytes(1024**2))
    machine = machine.model_copy(update={"scratch": scratch})
    with connection.running(domain_xml(machine)) as domain:
        for number in (1, 2):
            domain.switch_to(open_path / f"top.{number}.qcow2")
        assert not domain.is_off()
        found = [link.path for link in qcow2.chain(open_path / "top.2.qcow2")]
        assert found == [open_path / "top.2.qcow2", open_path / "top.1.qcow2", top, *parents]
        with pytest.raises(ToolError, match=f"could not set a checkpoint of '{machine.name}'"):
            domain.switch_to(open_path / "no such folder" / "top.3.qcow2")
    assert [path.name for path in open_path.glob("scratch*")] == ["scratch.raw"]
    assert top.stat().st_mtime_ns - before < 10**9
    for file in (top, *open_path.glob("top.*.qcow2")):
        assert file.stat().st_mode & 0o777 == 0o644
    assert {parent.stat().st_mode & 0o777 for parent in parents} == {0o444}


def test_a_machine_without_a_screen_has_no_picture(connection: Connection, machine: Machine) -> None:
    with connection.running(domain_xml(machine)) as domain:
        assert domain.screenshot() is None
    assert domain.screenshot() is None


def test_the_picture_of_a_screen(connection: Connection, machine: Machine) -> None:
    xml = domain_xml(machine)
    video = '<graphics type="vnc" port="-1" autoport="yes" listen="127.0.0.1"/><video><model type="vga"/></video>'
    with connection.running(xml.replace("</devices>", f"{video}</devices>")) as domain:
        picture = domain.screenshot()
    assert picture is not None
    assert picture.startswith((b"\x89PNG", b"P6"))


def test_a_machine_that_may_not_restart_ends_when_it_does(
    connection: Connection, machine: Machine, open_path: Path
) -> None:
    """Its boot sector jumps to where a processor begins after a reset."""
    sector = open_path / "sector"
    sector.write_bytes(b"\xea\x00\x00\xff\xff".ljust(510, b"\x00") + b"\x55\xaa")
    disk = machine.disks[0].chain[0]
    subprocess.run(["qemu-io", "-c", f"write -q -s {sector} 0 512", disk], check=True)
    with connection.running(domain_xml(machine)) as domain:
        domain.end_on_reboot()
        domain.wait_until_off(60)

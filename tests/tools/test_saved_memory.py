"""One machine's memory goes on as another machine, by the real libvirt; the machines have no operating system."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from builder.errors import VerifyError
from builder.tools import qemu_img, saved_memory
from builder.tools.domain import Disk, domain_xml, read_label
from builder.tools.libvirt import Connection, PortTaken
from tests.machines import make_machine

MEMORY_MIB = 64


@pytest.fixture
def saved(connection: Connection, open_path: Path) -> tuple[Path, Path]:
    """The file with room, and the disk that the saved machine had."""
    qemu_img.create(open_path / "base.qcow2", 1024**2)
    first = make_machine(open_path / "first", open_path / "base.qcow2", memory_mib=MEMORY_MIB)
    with connection.running(domain_xml(first)) as domain:
        domain.save(open_path / "saved")
        assert domain.is_off()
    saved_memory.make_room(open_path / "saved", open_path / "memory")
    return open_path / "memory", open_path / "first/disk.qcow2"


def test_two_machines_go_on_from_one_memory(connection: Connection, saved: tuple[Path, Path], open_path: Path) -> None:
    memory, disk = saved
    disk.chmod(0o444)
    size = memory.stat().st_size
    machines = [make_machine(open_path / name, disk, memory_mib=MEMORY_MIB) for name in ("one", "two")]
    machines = [
        machine.model_copy(update={"disks": (Disk(chain=(*machine.disks[0].chain, open_path / "base.qcow2")),)})
        for machine in machines
    ]
    try:
        for machine in machines:
            connection.define(domain_xml(machine))
            saved_memory.write(memory, saved_memory.resumed_xml(saved_memory.read(memory).xml, machine))
            connection.restore(memory)
        assert memory.stat().st_size == size
        for machine in machines:
            domain = connection.find(machine.name)
            assert domain is not None and not domain.is_off()
            assert read_label(domain.xml()) == machine.label
            assert machine.uuid in domain.xml()
            assert str(machine.disks[0].chain[0]) in domain.xml()
            assert machine.renewal is not None and machine.renewal.is_socket()
            with socket.create_connection(("127.0.0.1", machine.ssh_port), timeout=5):
                pass
    finally:
        for machine in machines:
            connection.destroy_matching(lambda domain, name=machine.name: domain.name == name)


def test_a_taken_port_is_told_apart_here_too(connection: Connection, saved: tuple[Path, Path], open_path: Path) -> None:
    memory, disk = saved
    machine = make_machine(open_path / "one", disk, memory_mib=MEMORY_MIB)
    saved_memory.write(memory, saved_memory.resumed_xml(saved_memory.read(memory).xml, machine))
    with socket.create_server(("127.0.0.1", machine.ssh_port)), pytest.raises(PortTaken, match="from its memory"):
        connection.restore(memory)
    assert connection.find(machine.name) is None


def test_a_definition_that_is_too_long_is_refused_and_the_file_stays(saved: tuple[Path, Path]) -> None:
    memory, _ = saved
    before = saved_memory.read(memory)
    with pytest.raises(VerifyError, match="has no room for a definition of"):
        saved_memory.write(memory, "x" * 300_000)
    assert saved_memory.read(memory) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no saved memory of a machine"),
        (b"QFI\xfb" + bytes(200), "is no saved memory of a machine"),
        (b"LibvirtQemudSave" + (3).to_bytes(4, "little") + bytes(72), "of a kind that golden does not know"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(VerifyError, match=message):
        saved_memory.read(tmp_path / "file")

"""A machine's memory in a file that others map, by the real libvirt and QEMU; the machines have no operating system."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.errors import ToolError
from builder.tools import mapped_memory, qemu_img, saved_memory
from builder.tools.domain import Machine, MappedMemory, domain_xml
from builder.tools.libvirt import Connection, Domain
from tests.machines import make_machine

MEMORY_MIB = 32
LOW_BYTES = 64 * 1024


@dataclass(frozen=True)
class Saved:
    """low: the first bytes of the memory, which the firmware wrote to."""

    folder: Path
    definition: str
    checksum: int
    low: bytes

    @property
    def memory(self) -> Path:
        return self.folder / "memory"

    def machine(self, name: str) -> Machine:
        mapped = MappedMemory(file=self.memory, is_shared=False)
        return make_machine(self.folder / name, self.folder / "base.qcow2", memory_mib=MEMORY_MIB, mapped=mapped)

    def resumed_xml(self, machine: Machine) -> str:
        return saved_memory.resumed_xml(self.definition, machine)


@pytest.fixture
def saved(connection: Connection, open_path: Path) -> Saved:
    qemu_img.create(open_path / "base.qcow2", 1024**2)
    memory = open_path / "memory"
    mapped_memory.make_file(memory, MEMORY_MIB, user=connection.qemu_user())
    mapped = MappedMemory(file=memory, is_shared=True)
    first = make_machine(open_path / "first", open_path / "base.qcow2", memory_mib=MEMORY_MIB, mapped=mapped)
    with connection.running(domain_xml(first)) as domain:
        mapped_memory.prepare(domain)
        definition = domain.xml(is_to_go_on=True)
        mapped_memory.save(domain, open_path / "devices")
    checksum = mapped_memory.checksum(memory, open_path / "devices")
    return Saved(open_path, definition, checksum, memory.read_bytes()[:LOW_BYTES])


@pytest.fixture
def machines(connection: Connection, saved: Saved) -> Iterator[list[Machine]]:
    found = [saved.machine(name) for name in ("one", "two")]
    yield found
    for machine in found:
        connection.destroy_matching(lambda domain, name=machine.name: domain.name == name)


def low_memory(domain: Domain, folder: Path) -> bytes:
    """What QEMU has there. It writes the file itself, as another user."""
    target = folder / f"low-{domain.name}"
    target.touch()
    target.chmod(0o666)
    domain.ask_qemu("pmemsave", val=0, size=LOW_BYTES, filename=str(target))
    return target.read_bytes()


def go_on(connection: Connection, saved: Saved, machine: Machine) -> Domain:
    connection.define(domain_xml(machine.model_copy(update={"mapped": None, "renewal": None})))
    domain = connection.start_paused(saved.resumed_xml(machine))
    mapped_memory.load(domain, saved.folder / "devices")
    return domain


def test_two_machines_go_on_from_one_file_and_leave_it_as_it_is(
    connection: Connection, saved: Saved, machines: list[Machine]
) -> None:
    # The state of the devices alone: the memory is none of it.
    assert any(saved.low)
    assert (saved.folder / "devices").stat().st_size < MEMORY_MIB * 1024**2 / 8
    domains = [go_on(connection, saved, machine) for machine in machines]
    assert [low_memory(domain, saved.folder) for domain in domains] == [saved.low, saved.low]
    for domain in domains:
        domain.go_on()
        assert not domain.is_off()
        # Nobody who starts it the next time finds the memory's file in its definition.
        assert str(saved.memory) in domain.xml()
    for domain in domains:
        domain.destroy()
        assert str(saved.memory) not in domain.xml()
    assert mapped_memory.checksum(saved.memory, saved.folder / "devices") == saved.checksum


def test_what_went_on_from_a_file_is_saved_and_restored_whole(
    connection: Connection, saved: Saved, machines: list[Machine]
) -> None:
    """Snapshots of clones are libvirt's own."""
    domain = go_on(connection, saved, machines[0])
    domain.go_on()
    domain.save(saved.folder / "snapshot")
    assert domain.is_off()
    connection.restore(saved.folder / "snapshot")
    found = connection.find(machines[0].name)
    assert found is not None and not found.is_off()


def test_a_file_that_is_not_qemus_is_refused_by_name(connection: Connection, saved: Saved) -> None:
    machine = saved.machine("three")
    os.chown(saved.memory, 0, 0)
    with pytest.raises(ToolError) as caught:
        connection.start_paused(saved.resumed_xml(machine))
    assert f"can't open backing store {saved.memory}" in dict(caught.value.details)["libvirt"]
    assert connection.find(machine.name) is None


def test_a_damaged_state_of_the_devices_is_an_error_of_qemus(
    connection: Connection, saved: Saved, machines: list[Machine]
) -> None:
    devices = saved.folder / "devices"
    devices.write_bytes(b"QEVM" + bytes(1000))
    with pytest.raises(ToolError, match=rf"'{machines[0].name}'"):
        go_on(connection, saved, machines[0])


def test_a_file_in_a_folder_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"could not make .*/gone/memory QEMU's: No such file or directory"):
        mapped_memory.make_file(tmp_path / "gone/memory", 1, user=None)


# --- what is counted ------------------------------------------------------------------------------------------------


def test_zeros_count_alike_whether_they_are_a_hole_or_written(tmp_path: Path) -> None:
    holes, whole = tmp_path / "holes", tmp_path / "whole"
    content = bytearray(3 * 1024**2)
    content[700_000:700_004] = b"word"
    content[-1:] = b"!"
    whole.write_bytes(content)
    with holes.open("wb") as file:
        os.truncate(holes, len(content))
        file.seek(700_000)
        file.write(b"word")
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    assert holes.stat().st_blocks < whole.stat().st_blocks
    assert mapped_memory.checksum(holes) == mapped_memory.checksum(whole)


@pytest.mark.parametrize("place", [0, 700_001, 1024**2 - 1])
def test_each_changed_byte_counts(tmp_path: Path, place: int) -> None:
    file, other = tmp_path / "memory", tmp_path / "other"
    file.write_bytes(bytes(700_000) + b"word" + bytes(1024**2 - 700_004))
    other.write_bytes(b"devices")
    before = mapped_memory.checksum(file, other)
    with file.open("r+b") as stream:
        stream.seek(place)
        stream.write(b"\x01")
    changed = mapped_memory.checksum(file, other)
    other.write_bytes(b"device5")
    assert len({before, changed, mapped_memory.checksum(file, other)}) == 3


def test_what_moved_counts(tmp_path: Path) -> None:
    """The same bytes, a block further on."""
    one, two = tmp_path / "one", tmp_path / "two"
    block = 256 * 1024
    one.write_bytes(b"x" * block + bytes(block))
    two.write_bytes(bytes(block) + b"x" * block)
    assert mapped_memory.checksum(one) != mapped_memory.checksum(two)

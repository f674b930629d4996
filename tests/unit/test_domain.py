"""Domain XML: what is built, compared with golden files, and read back."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.tools.domain import (
    QEMU_NAMESPACE,
    Disk,
    Forward,
    Label,
    Machine,
    MappedMemory,
    Nic,
    domain_xml,
    lan_group,
    mac,
    mapped_memory_arguments,
    read_label,
    user_network_arguments,
)

GOLDEN = Path(__file__).parent / "golden"


def make_machine(**changes: object) -> Machine:
    machine = Machine(
        name="golden-web1",
        uuid="0b5c0f4e-6f0a-4c1c-9a35-7d1f8f3c2b11",
        label=Label(purpose="clone", owner_pid=4711, work=Path("/state/clones/web1")),
        accelerator="tcg",
        memory_mib=1536,
        cpus=2,
        disks=(
            Disk(
                chain=(
                    Path("/state/clones/web1/disk.qcow2"),
                    Path("/usr/share/golden/images/sandbox-upgrade-20261121.1.qcow2"),
                    Path("/usr/share/golden/images/sandbox-base-20261121.1.qcow2"),
                )
            ),
        ),
        ssh_port=40022,
        console_log=Path("/state/clones/web1/console.log"),
    )
    return machine.model_copy(update=changes)


MACHINES = {
    "clone-tcg": make_machine(),
    "build-kvm": make_machine(
        name="golden-build",
        accelerator="kvm",
        label=Label(purpose="build", owner_pid=1, work=Path("/state/demo/work/sandbox-base-20261121.1")),
        disks=(Disk(chain=(Path("/state/a & b/<disk>.qcow2"),)), Disk(chain=(Path("/state/more.qcow2"),))),
    ),
}
MACHINES |= {
    "clone-uefi": make_machine(firmware="uefi"),
    "clone-aarch64": make_machine(arch="aarch64", firmware="uefi"),
    "clone-networks": make_machine(
        nics=(Nic(), Nic(kind="network", source="default"), Nic(kind="bridge", source="virbr0"), Nic()),
        forwards=(Forward(host_port=8080, guest_port=80), Forward(host_port=5353, guest_port=53, protocol="udp")),
        hostname="web1",
        disks=(
            *make_machine().disks,
            Disk(chain=(Path("/state/clones/web1/extra-1.qcow2"),)),
            Disk(chain=(Path("/state/clones/web1/seed.iso"),), format="raw", is_readonly=True),
        ),
        credentials={"tmpfiles.extra": "w /proc/sys/kernel/hostname - - - - web1\n"},
        renewal=Path("/state/clones/web1/renew.sock"),
    ),
    "clone-bridge": make_machine(nics=(Nic(kind="bridge", source="virbr0"),)),
}


@pytest.mark.parametrize("name", MACHINES)
def test_xml_is_as_agreed(name: str) -> None:
    assert domain_xml(MACHINES[name]) == (GOLDEN / f"domain-{name}.xml").read_text()


def test_every_file_of_the_chain_is_listed_and_only_the_top_is_libvirts_to_own() -> None:
    machine = make_machine()
    disk = ET.fromstring(domain_xml(machine)).find("devices/disk")
    assert disk is not None
    sources = list(disk.iter("source"))
    assert [Path(source.attrib["file"]) for source in sources] == list(machine.disks[0].chain)
    assert sources[0].find("seclabel") is None
    for source in sources[1:]:
        label = source.find("seclabel")
        assert label is not None
        assert label.attrib == {"model": "dac", "relabel": "no"}
    # The innermost, empty element keeps libvirt from looking into the base.
    assert [len(element) for element in disk.iter("backingStore")] == [3, 3, 0]


def test_the_label_is_read_back() -> None:
    machine = make_machine()
    assert read_label(domain_xml(machine)) == machine.label


def test_a_domain_of_somebody_else_has_no_label() -> None:
    assert read_label("<domain><name>x</name><metadata/></domain>") is None


def test_machines_differ_in_their_mac() -> None:
    one, other = make_machine(), make_machine(uuid="0b5c0f4e-6f0a-4c1c-9a35-7d1f8f3c2b12")
    assert one.mac == "52:54:00:3c:2b:11"
    assert one.mac != other.mac


def test_cards_of_one_machine_differ_and_the_first_is_the_machines() -> None:
    machine = MACHINES["clone-networks"]
    assert len(set(machine.macs)) == 4
    assert machine.mac == machine.macs[0] == mac(machine.uuid)
    assert all(address.startswith("52:54:00:") for address in machine.macs)


def test_without_a_card_in_user_mode_no_port_is_forwarded() -> None:
    assert "hostfwd" not in domain_xml(MACHINES["clone-bridge"])
    assert "commandline" not in domain_xml(MACHINES["clone-bridge"])


def test_a_lan_is_a_group_of_its_own_on_the_loopback() -> None:
    machine = make_machine(nics=(Nic(), Nic(kind="lan", source="mine")))
    root = ET.fromstring(domain_xml(machine))
    words = [arg.attrib["value"] for arg in root.iter(f"{{{QEMU_NAMESPACE}}}arg")]
    assert words[4:] == [
        "-netdev",
        f"socket,id=n1,mcast={lan_group('mine')},localaddr=127.0.0.1",
        "-device",
        f"virtio-net-pci,netdev=n1,mac={machine.macs[1]},addr=0x11,romfile=",
    ]
    assert lan_group("mine") == lan_group("mine") != lan_group("theirs")
    for name in map(str, range(1000)):
        group, _, port = lan_group(name).partition(":")
        assert ip_address(group) in ip_network("239.0.0.0/8")
        assert 20000 <= int(port) < 30000


def test_a_scratch_disk_is_raw_and_behind_the_others() -> None:
    root = ET.fromstring(domain_xml(make_machine(scratch=Path("/state/work/a & b/scratch.raw"))))
    *_, last = root.findall("devices/disk")
    assert last.attrib["snapshot"] == "no"
    found = {
        name: element.attrib for name in ("driver", "source", "target") if (element := last.find(name)) is not None
    }
    assert found["driver"]["type"] == "raw"
    assert found["source"] == {"file": "/state/work/a & b/scratch.raw"}
    assert found["target"] == {"dev": "vdb", "bus": "virtio"}


def test_the_ports_of_a_resumed_machine_lead_to_the_second_address_that_is_given() -> None:
    machine = MACHINES["clone-tcg"]
    (plain,) = [word for word in user_network_arguments(machine) if word.startswith("user,")]
    (resumed,) = [
        word
        for word in user_network_arguments(machine.model_copy(update={"is_resumed": True}))
        if word.startswith("user,")
    ]
    assert plain == "user,id=n0,hostfwd=tcp:127.0.0.1:40022-:22"
    assert resumed == "user,id=n0,dhcpstart=10.0.2.14,hostfwd=tcp:127.0.0.1:40022-10.0.2.15:22"


def test_memory_in_a_file_is_mapped_by_qemu_itself() -> None:
    assert mapped_memory_arguments(make_machine()) == []
    prepared = make_machine(mapped=MappedMemory(file=Path("/state/a,b/memory"), is_shared=True))
    backend = "memory-backend-file,id=golden.ram,size=1536M,share={},mem-path=/state/a,,b/memory"
    backend += ",x-use-canonical-path-for-ramblock-id=off"
    words = ["-object", backend.format("on"), "-machine", "memory-backend=golden.ram"]
    assert mapped_memory_arguments(prepared) == words
    # What goes on keeps to itself what it writes, and waits for the state of its devices.
    resumed = make_machine(mapped=MappedMemory(file=Path("/state/a,b/memory"), is_shared=False))
    assert mapped_memory_arguments(resumed) == [words[0], backend.format("off"), *words[2:], "-incoming", "defer"]
    assert mapped_memory_arguments(resumed)[-1] in domain_xml(resumed)


# What XML can hold; what a file system or a name takes besides, libvirt refuses by itself.
TEXT = st.text(st.sampled_from("<>&'\"]/ ,=%$`;-ü\N{PILE OF POO}ax"), min_size=1, max_size=20)


@given(text=TEXT)
def test_no_text_becomes_markup_or_another_argument_of_qemu(text: str) -> None:
    path = Path("/state") / text
    plain = make_machine()
    hostile = plain.model_copy(
        update={
            "label": Label(purpose="clone", owner_pid=1, work=path),
            "disks": (Disk(chain=(path / "disk.qcow2", path / "base.qcow2")),),
            "console_log": path / "log",
            "nics": (Nic(), Nic(kind="bridge", source=text), Nic(kind="lan", source=text)),
        }
    )
    root = ET.fromstring(domain_xml(hostile))
    assert read_label(domain_xml(hostile)) == hostile.label
    assert [it.get("file") for it in root.iter("source") if it.get("file")] == [
        str(path / "disk.qcow2"),
        str(path / "base.qcow2"),
    ]
    assert {it.get("bridge") for it in root.iter("source") if it.get("bridge")} == {text}
    # Of a network's name there is a digest in what QEMU reads by itself.
    (lan,) = [it for it in user_and_lan(root) if "mcast" in it]
    assert re.fullmatch(r"socket,id=n\d,mcast=[0-9.]+:\d+,localaddr=127\.0\.0\.1", lan)
    # The machine is made of as many elements as any other.
    names = [it.tag for it in ET.fromstring(domain_xml(hostile.model_copy(update={"label": plain.label}))).iter()]
    assert names == [it.tag for it in root.iter()]


def user_and_lan(root: ET.Element) -> list[str]:
    return [it.get("value", "") for it in root.iter(f"{{{QEMU_NAMESPACE}}}arg")]

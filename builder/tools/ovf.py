"""OVF: the description of one machine around a streamOptimized VMDK, as VirtualBox and VMware read it. Pure.

Sources: DMTF DSP0243 (OVF 1.1), DSP1043 (resource types of CIM_ResourceAllocationSettingData).
"""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree import ElementTree as ET

from builder.model import Frozen

_OVF = "http://schemas.dmtf.org/ovf/envelope/1"
_RASD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
_VSSD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
_STREAM_OPTIMIZED = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"

# CIM_ResourceAllocationSettingData.ResourceType.
_CPU, _MEMORY, _ETHERNET, _DISK, _SATA = 3, 4, 10, 17, 20
# CIM_OperatingSystem.OSType: "Linux 2.6.x 64-Bit", the newest word that the enumeration has for one.
_LINUX_64 = 101


class Machine(Frozen):
    """disk: the VMDK's file name. disk_file_bytes: of that file; disk_bytes: as the guest sees it."""

    name: str
    description: str
    disk: str
    disk_file_bytes: int
    disk_bytes: int
    memory_mib: int
    cpus: int


def descriptor(machine: Machine) -> bytes:
    """The .ovf file. One disk on a SATA controller, which both VirtualBox and VMware have."""
    for prefix, uri in (("ovf", _OVF), ("rasd", _RASD), ("vssd", _VSSD)):
        ET.register_namespace(prefix, uri)
    envelope = ET.Element(_ovf("Envelope"))
    references = ET.SubElement(envelope, _ovf("References"))
    file = {"id": "file1", "href": machine.disk, "size": str(machine.disk_file_bytes)}
    ET.SubElement(references, _ovf("File"), _qualified(file))
    disks = _section(envelope, "DiskSection", "The disks of the machine")
    disk = {
        "diskId": "disk1",
        "fileRef": "file1",
        "capacity": str(machine.disk_bytes),
        "capacityAllocationUnits": "byte",
        "format": _STREAM_OPTIMIZED,
    }
    ET.SubElement(disks, _ovf("Disk"), _qualified(disk))
    networks = _section(envelope, "NetworkSection", "The networks of the machine")
    network = ET.SubElement(networks, _ovf("Network"), _qualified({"name": "nat"}))
    ET.SubElement(network, _ovf("Description")).text = "A network with DHCP"
    _system(envelope, machine)
    ET.indent(envelope)
    text: bytes = ET.tostring(envelope, encoding="UTF-8", xml_declaration=True)
    return text + b"\n"


def manifest(digests: Mapping[str, str]) -> str:
    """The .mf file. digests: file name -> hex SHA-256."""
    return "".join(f"SHA256({name})= {digest}\n" for name, digest in digests.items())


def _system(envelope: ET.Element, machine: Machine) -> None:
    system = ET.SubElement(envelope, _ovf("VirtualSystem"), _qualified({"id": machine.name}))
    ET.SubElement(system, _ovf("Info")).text = machine.description or f"The machine {machine.name}"
    ET.SubElement(system, _ovf("Name")).text = machine.name
    guest = _section(system, "OperatingSystemSection", "The guest's operating system", id=str(_LINUX_64))
    ET.SubElement(guest, _ovf("Description")).text = "Linux, 64 bit"
    hardware = _section(system, "VirtualHardwareSection", "What the machine is made of")
    settings = ET.SubElement(hardware, _ovf("System"))
    for name, text in (
        ("ElementName", "Virtual Hardware Family"),
        ("InstanceID", "0"),
        ("VirtualSystemIdentifier", machine.name),
        ("VirtualSystemType", "vmx-11 virtualbox-2.2"),
    ):
        ET.SubElement(settings, f"{{{_VSSD}}}{name}").text = text
    _item(hardware, 1, _CPU, f"{machine.cpus} processors", VirtualQuantity=str(machine.cpus))
    _item(
        hardware,
        2,
        _MEMORY,
        f"{machine.memory_mib} MiB of memory",
        AllocationUnits="byte * 2^20",
        VirtualQuantity=str(machine.memory_mib),
    )
    _item(hardware, 3, _SATA, "SATA controller", Address="0", ResourceSubType="AHCI")
    _item(hardware, 4, _DISK, "disk", AddressOnParent="0", HostResource="ovf:/disk/disk1", Parent="3")
    _item(hardware, 5, _ETHERNET, "network", AutomaticAllocation="true", Connection="nat", ResourceSubType="E1000")


def _item(hardware: ET.Element, number: int, kind: int, name: str, **settings: str) -> None:
    """The schema wants the settings in alphabetical order."""
    item = ET.SubElement(hardware, _ovf("Item"))
    fields = {"ElementName": name, "InstanceID": str(number), "ResourceType": str(kind), **settings}
    for field in sorted(fields):
        ET.SubElement(item, f"{{{_RASD}}}{field}").text = fields[field]


def _section(parent: ET.Element, tag: str, info: str, **attributes: str) -> ET.Element:
    section = ET.SubElement(parent, _ovf(tag), _qualified(attributes))
    ET.SubElement(section, _ovf("Info")).text = info
    return section


def _ovf(name: str) -> str:
    return f"{{{_OVF}}}{name}"


def _qualified(attributes: Mapping[str, str]) -> dict[str, str]:
    return {_ovf(name): value for name, value in attributes.items()}

"""The description of a machine in an OVA, as its readers want it."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from builder.tools import ovf

NAMES = {
    "ovf": "http://schemas.dmtf.org/ovf/envelope/1",
    "rasd": "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData",
    "vssd": "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData",
}
OVF = f"{{{NAMES['ovf']}}}"
MACHINE = ovf.Machine(
    name="sandbox-base-20261121.1",
    description="<what> & why",
    disk="sandbox-base-20261121.1.vmdk",
    disk_file_bytes=1234,
    disk_bytes=4 * 1024**3,
    memory_mib=2048,
    cpus=2,
)


def parsed() -> ET.Element:
    return ET.fromstring(ovf.descriptor(MACHINE))


def items() -> dict[str, dict[str, str | None]]:
    """ResourceType -> the item's fields."""
    found = {}
    for item in parsed().iterfind(".//ovf:Item", NAMES):
        fields = {field.tag.rpartition("}")[2]: field.text for field in item}
        assert list(fields) == sorted(fields)  # the schema's order
        found[str(fields["ResourceType"])] = fields
    return found


def test_sections_come_in_the_order_of_the_specification() -> None:
    envelope = parsed()
    assert envelope.tag == f"{OVF}Envelope"
    assert [child.tag for child in envelope] == [
        f"{OVF}{name}" for name in ("References", "DiskSection", "NetworkSection", "VirtualSystem")
    ]
    system = envelope.find("ovf:VirtualSystem", NAMES)
    assert system is not None
    assert [child.tag for child in system] == [
        f"{OVF}{name}" for name in ("Info", "Name", "OperatingSystemSection", "VirtualHardwareSection")
    ]
    assert system.findtext("ovf:Info", namespaces=NAMES) == "<what> & why"


def test_the_disk_leads_to_the_file() -> None:
    envelope = parsed()
    file, disk = envelope.find(".//ovf:File", NAMES), envelope.find(".//ovf:Disk", NAMES)
    assert file is not None and disk is not None
    assert file.attrib == {
        f"{OVF}id": "file1",
        f"{OVF}href": "sandbox-base-20261121.1.vmdk",
        f"{OVF}size": "1234",
    }
    assert disk.attrib[f"{OVF}fileRef"] == "file1"
    assert disk.attrib[f"{OVF}capacity"] == str(4 * 1024**3)
    assert disk.attrib[f"{OVF}capacityAllocationUnits"] == "byte"
    assert disk.attrib[f"{OVF}format"].endswith("vmdk.html#streamOptimized")
    assert items()["17"]["HostResource"] == f"ovf:/disk/{disk.attrib[f'{OVF}diskId']}"


def test_the_machine_is_the_images() -> None:
    found = items()
    assert found["3"]["VirtualQuantity"] == "2"
    assert (found["4"]["VirtualQuantity"], found["4"]["AllocationUnits"]) == ("2048", "byte * 2^20")
    assert found["17"]["Parent"] == found["20"]["InstanceID"]
    network = parsed().find(".//ovf:Network", NAMES)
    assert network is not None
    assert found["10"]["Connection"] == network.attrib[f"{OVF}name"]
    assert "virtualbox" in str(parsed().findtext(".//vssd:VirtualSystemType", namespaces=NAMES))
    assert len({item["InstanceID"] for item in found.values()}) == len(found) == 5


def test_the_manifest_is_as_openssl_writes_it() -> None:
    assert ovf.manifest({"a.ovf": "00", "a.vmdk": "11"}) == "SHA256(a.ovf)= 00\nSHA256(a.vmdk)= 11\n"

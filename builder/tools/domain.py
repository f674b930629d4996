"""libvirt's domain XML for golden's machines: built, and read back. Pure; nothing is started here."""

from __future__ import annotations

import base64
import hashlib
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from builder.model import Architecture, Firmware, Frozen

# libvirt keeps foreign elements of <metadata> as they are, if their name space is their own.
LABEL_NAMESPACE = "urn:golden:machine:1"
QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"

# libvirt hands out PCI addresses from slot 1 upwards and knows nothing of the cards that go past it.
_FIRST_NIC_SLOT = 0x10

# QEMU's machine types, by their names that never change.
MACHINES: dict[Architecture, str] = {"x86_64": "q35", "aarch64": "virt"}

ET.register_namespace("golden", LABEL_NAMESPACE)
ET.register_namespace("qemu", QEMU_NAMESPACE)

Purpose = Literal["build", "verify", "clone", "warm"]

# Where a guest finds what its host tells it, and how libvirt carries it. Source: systemd.system-credentials(7);
# formatdomain, "oemStrings".
_CREDENTIAL = "io.systemd.credential.binary:"


class Label(Frozen):
    """What tells golden's domains from others, kept in their metadata.

    owner_pid: the process that made it. work: the directory that its files are in.
    """

    purpose: Purpose
    owner_pid: int
    work: Path


class Disk(Frozen):
    """chain: the file that is written, its backing file, … down to the base; all of `format`, absolute paths.

    is_readonly: the guest may not write to it; a seed, for example.
    """

    chain: tuple[Path, ...] = Field(min_length=1)
    format: Literal["qcow2", "raw"] = "qcow2"
    is_readonly: bool = False


class Forward(Frozen):
    """A port of the host's loopback that leads to a port of the guest, on its first user-mode card.

    is_fixed: somebody relies on that very port; else another one will do if it is taken.
    """

    host_port: int
    guest_port: int
    protocol: Literal["tcp", "udp"] = "tcp"
    is_fixed: bool = True


class Nic(Frozen):
    """A network card. source: the name of the libvirt network, of the host's bridge, or of the LAN; None in user mode.

    lan: a network of machines that name it alike, on this host and nowhere else, which needs no privileges.
    """

    kind: Literal["user", "network", "bridge", "lan"] = "user"
    source: str | None = None


class MappedMemory(Frozen):
    """The guest's memory as a file that QEMU maps.

    is_shared: what the guest writes goes into the file. Else the machine goes on from what is in it, waits for the
    state of its devices, and keeps to itself what it writes.
    """

    file: Path
    is_shared: bool


class Machine(Frozen):
    """A virtual machine. Its SSH port is forwarded to the host's loopback by its first card in user mode.

    scratch: a raw disk behind the others, for what is not to outlive the machine. ssh_port: port on 127.0.0.1; of no
    use without a card in user mode. console_log: libvirt appends what the serial console prints to it. hostname: what
    the user-mode network's DHCP server tells the guest to be called. credentials: name -> content, for the guest's
    systemd, without a disk. renewal: a socket at which the host reaches the second serial port. is_resumed: it goes on
    from the memory of another, with another MAC address. mapped: its memory, if that is a file.
    """

    name: str
    uuid: str
    label: Label
    arch: Architecture = "x86_64"
    firmware: Firmware = "bios"
    accelerator: Literal["kvm", "tcg"]
    memory_mib: int
    cpus: int
    disks: tuple[Disk, ...]
    scratch: Path | None = None
    ssh_port: int
    console_log: Path
    nics: tuple[Nic, ...] = (Nic(),)
    forwards: tuple[Forward, ...] = ()
    hostname: str | None = None
    credentials: dict[str, str] = Field(default_factory=dict)
    renewal: Path | None = None
    is_resumed: bool = False
    mapped: MappedMemory | None = None

    @property
    def mac(self) -> str:
        return self.macs[0]

    @property
    def macs(self) -> tuple[str, ...]:
        """Of each card, in QEMU's own range; they follow from the UUID, so no two machines share one."""
        return tuple(mac(self.uuid, number) for number in range(max(1, len(self.nics))))


def mac(machine_uuid: str, number: int = 0) -> str:
    """The address of a machine's card. number: from 0."""
    plain = machine_uuid.replace("-", "")
    tail = plain[-6:] if number == 0 else hashlib.sha256(f"{plain} {number}".encode()).hexdigest()[:6]
    return ":".join(["52", "54", "00", tail[0:2], tail[2:4], tail[4:6]])


def domain_xml(machine: Machine) -> str:
    """The domain's definition. Source: https://libvirt.org/formatdomain.html, tried with libvirt 9.0."""
    root = ET.Element("domain", type="kvm" if machine.accelerator == "kvm" else "qemu")
    _text(root, "name", machine.name)
    _text(root, "uuid", machine.uuid)
    metadata = ET.SubElement(root, "metadata")
    ET.SubElement(
        metadata,
        f"{{{LABEL_NAMESPACE}}}machine",
        purpose=machine.label.purpose,
        owner=str(machine.label.owner_pid),
        work=str(machine.label.work),
    )
    _text(root, "memory", str(machine.memory_mib), unit="MiB")
    _text(root, "vcpu", str(machine.cpus))
    _os(root, machine)
    if machine.credentials:
        _credentials(root, machine.credentials)
    features = ET.SubElement(root, "features")
    ET.SubElement(features, "acpi")
    if machine.arch == "x86_64":
        ET.SubElement(features, "apic")
    # host-passthrough is refused under TCG, and the default model is below x86-64-v2, which EL9's glibc needs.
    # "maximum" has v3 (EL10) too, and booted a stock kernel as fast as Nehalem: 5.9 s against 5.6 s (QEMU 7.2).
    ET.SubElement(root, "cpu", mode="host-passthrough" if machine.accelerator == "kvm" else "maximum")
    ET.SubElement(root, "clock", offset="utc")
    _text(root, "on_poweroff", "destroy")
    _text(root, "on_reboot", "restart")
    _text(root, "on_crash", "destroy")
    _devices(root, machine)
    _network(root, machine)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def read_label(xml: str) -> Label | None:
    """The label of a domain's definition, None if it is not golden's, or not one that golden writes."""
    try:
        element = ET.fromstring(xml).find(f"metadata/{{{LABEL_NAMESPACE}}}machine")
        found = {} if element is None else element.attrib
        return Label.model_validate({"purpose": found["purpose"], "owner_pid": found["owner"], "work": found["work"]})
    except (ET.ParseError, KeyError, ValidationError):
        return None


def _os(root: ET.Element, machine: Machine) -> None:
    """Firmware by name: libvirt finds the file that this host has for it.

    UEFI's variables lie with the machine's other files, and go with them; a new set finds the boot loader by its
    removable-media path, where every installer puts one. Without Secure Boot: it needs SMM, which is slow under TCG.
    """
    element = ET.SubElement(root, "os", {"firmware": "efi"} if machine.firmware == "uefi" else {})
    _text(element, "type", "hvm", arch=machine.arch, machine=MACHINES[machine.arch])
    if machine.firmware == "uefi":
        firmware = ET.SubElement(element, "firmware")
        ET.SubElement(firmware, "feature", enabled="no", name="secure-boot")
        _text(element, "nvram", str(machine.label.work / "nvram.fd"))
    ET.SubElement(element, "boot", dev="hd")
    if machine.credentials:
        ET.SubElement(element, "smbios", mode="sysinfo")


def _credentials(root: ET.Element, credentials: dict[str, str]) -> None:
    """As strings of the SMBIOS, in Base64: an XML attribute keeps no line ends. Systemd reads them from 252 on."""
    strings = ET.SubElement(ET.SubElement(root, "sysinfo", type="smbios"), "oemStrings")
    for name, content in credentials.items():
        _text(strings, "entry", f"{_CREDENTIAL}{name}={base64.b64encode(content.encode()).decode()}")


def _devices(root: ET.Element, machine: Machine) -> None:
    devices = ET.SubElement(root, "devices")
    for index, disk in enumerate(machine.disks):
        _disk(devices, disk, target=f"vd{chr(ord('a') + index)}")
    if machine.scratch is not None:
        # A checkpoint is of the other disks: without this libvirt would set one of this disk, too.
        element = ET.SubElement(devices, "disk", type="file", device="disk", snapshot="no")
        ET.SubElement(element, "driver", name="qemu", type="raw", cache="unsafe", discard="unmap")
        ET.SubElement(element, "source", file=str(machine.scratch))
        ET.SubElement(element, "target", dev=f"vd{chr(ord('a') + len(machine.disks))}", bus="virtio")
    for number, nic in enumerate(machine.nics):
        if nic.kind in ("network", "bridge"):
            _interface(devices, nic, machine.macs[number], slot=_nic_slot(number))
    ET.SubElement(devices, "controller", type="usb", model="none")
    serial = ET.SubElement(devices, "serial", type="pty")
    ET.SubElement(serial, "log", file=str(machine.console_log), append="on")
    ET.SubElement(serial, "target", port="0")
    if machine.renewal:
        second = ET.SubElement(devices, "serial", type="unix")
        ET.SubElement(second, "source", mode="bind", path=str(machine.renewal))
        ET.SubElement(second, "target", port="1")
    console = ET.SubElement(devices, "console", type="pty")
    ET.SubElement(console, "target", type="serial", port="0")
    channel = ET.SubElement(devices, "channel", type="unix")
    ET.SubElement(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
    rng = ET.SubElement(devices, "rng", model="virtio")
    _text(rng, "backend", "/dev/urandom", model="random")
    ET.SubElement(devices, "memballoon", model="none")
    # With on_crash: a kernel that panics ends its domain, instead of standing there until a limit.
    if machine.arch == "x86_64":
        ET.SubElement(devices, "panic", model="isa")


def _disk(devices: ET.Element, disk: Disk, *, target: str) -> None:
    """The whole chain is written down, so that libvirt neither probes a file's format nor changes a parent's owner.

    Source: formatdomain, "backingStore" and "seclabel". The written file itself is libvirt's to chown, as usual.
    """
    top, *parents = disk.chain
    element = ET.SubElement(devices, "disk", type="file", device="disk")
    # Every machine of golden's is throw-away: when the host crashes, its overlay is lost and nothing else. So there
    # is no reason to wait for the host's disk.
    ET.SubElement(element, "driver", name="qemu", type=disk.format, cache="unsafe", discard="unmap")
    ET.SubElement(element, "source", file=str(top))
    lower = element
    for parent in parents:
        lower = ET.SubElement(lower, "backingStore", type="file")
        ET.SubElement(lower, "format", type=disk.format)
        source = ET.SubElement(lower, "source", file=str(parent))
        ET.SubElement(source, "seclabel", model="dac", relabel="no")
    # An empty one ends the chain; without it libvirt would look into the last file.
    ET.SubElement(lower, "backingStore")
    ET.SubElement(element, "target", dev=target, bus="virtio")
    if disk.is_readonly:
        ET.SubElement(element, "readonly")


def _interface(devices: ET.Element, nic: Nic, mac_address: str, *, slot: str) -> None:
    """A card on a network of libvirt's, or on a bridge of the host's."""
    interface = ET.SubElement(devices, "interface", type=nic.kind)
    ET.SubElement(interface, "mac", address=mac_address)
    ET.SubElement(interface, "source", {nic.kind: str(nic.source)})
    ET.SubElement(interface, "model", type="virtio")
    ET.SubElement(interface, "rom", enabled="no")
    ET.SubElement(interface, "address", type="pci", domain="0x0000", bus="0x00", slot=slot, function="0x0")


def _nic_slot(number: int) -> str:
    """Where a card sits on the bus: a guest counts its cards in this order, of whatever kind they are."""
    return f"{_FIRST_NIC_SLOT + number:#04x}"


def _network(root: ET.Element, machine: Machine) -> None:
    """Cards in user mode, the first with forwarded ports, and on LANs, through the QEMU name space.

    libvirt's own <portForward> needs passt, which libvirt 9.0 as built by Debian refuses. No option ROM: none of
    these machines boots from the network.
    """
    words = [*user_network_arguments(machine), *_lan_arguments(machine), *mapped_memory_arguments(machine)]
    if words:
        commandline = ET.SubElement(root, f"{{{QEMU_NAMESPACE}}}commandline")
        for word in words:
            ET.SubElement(commandline, f"{{{QEMU_NAMESPACE}}}arg", value=word)


# What a guest's card is given. Whom the DHCP server gave what is part of a machine's memory: in one that is resumed,
# the first address is still that of the card that was, and the next one has to be that which the ports lead to.
# Source: libslirp, bootp.c and vmstate.c; measured.
_BEFORE_FIRST, _FIRST_ADDRESS = "10.0.2.14", "10.0.2.15"


def user_network_arguments(machine: Machine) -> list[str]:
    """QEMU's own arguments for the cards in user mode. Source: qemu(1), "-netdev user"."""
    words: list[str] = []
    users = [(number, nic) for number, nic in enumerate(machine.nics) if nic.kind == "user"]
    for place, (number, _) in enumerate(users):
        netdev = f"user,id=n{number}"
        if machine.hostname:
            netdev += f",hostname={machine.hostname}"
        if machine.is_resumed:
            netdev += f",dhcpstart={_BEFORE_FIRST}"
        if place == 0:
            guest = _FIRST_ADDRESS if machine.is_resumed else ""
            for forward in (Forward(host_port=machine.ssh_port, guest_port=22), *machine.forwards):
                netdev += f",hostfwd={forward.protocol}:127.0.0.1:{forward.host_port}-{guest}:{forward.guest_port}"
        words += ["-netdev", netdev, "-device", _device(machine, number)]
    return words


def _lan_arguments(machine: Machine) -> list[str]:
    """QEMU's own arguments for cards on a LAN. Source: qemu(1), "-netdev socket,mcast"."""
    words: list[str] = []
    for number, nic in enumerate(machine.nics):
        if nic.kind == "lan":
            # By the loopback alone: nothing of it leaves the host, and no other host's machines are heard.
            words += ["-netdev", f"socket,id=n{number},mcast={lan_group(str(nic.source))},localaddr=127.0.0.1"]
            words += ["-device", _device(machine, number)]
    return words


def _device(machine: Machine, number: int) -> str:
    return f"virtio-net-pci,netdev=n{number},mac={machine.macs[number]},addr={_nic_slot(number)},romfile="


def mapped_memory_arguments(machine: Machine) -> list[str]:
    """QEMU's own arguments for memory in a file: libvirt's <memoryBacking> takes no path, and no private one.

    The block's name is part of the saved state, so it is none of QEMU's making. Source: qemu(1), "memory-backend-file".
    """
    if machine.mapped is None:
        return []
    share = "on" if machine.mapped.is_shared else "off"
    # A comma in a value is written twice.
    path = str(machine.mapped.file).replace(",", ",,")
    words = [
        "-object",
        f"memory-backend-file,id=golden.ram,size={machine.memory_mib}M,share={share},mem-path={path},"
        "x-use-canonical-path-for-ramblock-id=off",
        "-machine",
        "memory-backend=golden.ram",
    ]
    return words if machine.mapped.is_shared else [*words, "-incoming", "defer"]


def lan_group(name: str) -> str:
    """The multicast group and port of a LAN: 239.X.Y.Z is for whoever is there, and no program is given these ports.

    Source: RFC 2365; ip(7), ip_local_port_range.
    """
    digest = hashlib.sha256(name.encode()).digest()
    return f"239.{digest[0]}.{digest[1]}.{digest[2]}:{20000 + int.from_bytes(digest[3:5], 'big') % 10000}"


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text

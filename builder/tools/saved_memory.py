"""libvirt's file of a machine's saved memory: given the definition of another machine, without copying the memory.

libvirt restores a file as the machine that it was, by name and UUID; two cannot be. But the file begins with the
definition, and QEMU's memory behind it holds neither. So the file is laid out once with room around the definition,
and each clone's is written into that room just before the restore: 256 KiB instead of the whole memory.
Source: libvirt, src/qemu/qemu_saveimage.h (virQEMUSaveHeader, version 2) and qemu_saveimage.c; tried with 9.0.
"""

from __future__ import annotations

import os
import struct
import xml.etree.ElementTree as ET
import zlib
from dataclasses import dataclass
from pathlib import Path

from builder.errors import ToolError, VerifyError
from builder.tools.domain import (
    QEMU_NAMESPACE,
    Machine,
    domain_xml,
    mapped_memory_arguments,
    user_network_arguments,
)

_MAGIC = b"LibvirtQemudSave"
_VERSION = 2
# magic, version, length of the data, whether it ran, compression, offset of the cookie; 14 words without a meaning.
_HEADER = struct.Struct("=16s5I56x")
_ROOM_BYTES = 256 * 1024
_PIECE_BYTES = 4 * 1024**2

# libvirt asks QEMU for each property of a processor by itself, 400 questions, where it may ask so; else it reads the
# same from four words. They took 0.2 of a start's 0.4 s. Source: libvirt, qemu_process.c, qemuProcessFetchGuestCPU;
# drvqemu, "qemu:capabilities"; libvirt 9.0.
_MANY_QUESTIONS = "cpu-unavailable-features"


@dataclass(frozen=True)
class Definition:
    """What stands before the memory. cookie: what libvirt keeps beside the XML. room_bytes: for both."""

    xml: str
    cookie: str
    room_bytes: int
    was_running: int
    compression: int


def read(file: Path) -> Definition:
    """Raises VerifyError if it is no such file, or of a layout that golden does not know."""
    with file.open("rb") as stream:
        header = stream.read(_HEADER.size)
        if len(header) < _HEADER.size or header[:16] != _MAGIC:
            raise VerifyError(f"{file} is no saved memory of a machine")
        _, version, room, was_running, compression, cookie_at = _HEADER.unpack(header)
        if version != _VERSION or compression != 0:
            raise VerifyError(
                f"{file} is saved memory of a kind that golden does not know",
                details=[("version", str(version)), ("compression", str(compression))],
            )
        data = stream.read(room)
    xml = data[: cookie_at or len(data)].split(b"\0", 1)[0]
    cookie = data[cookie_at:].split(b"\0", 1)[0] if cookie_at else b""
    try:
        return Definition(xml.decode(), cookie.decode(), room, was_running, compression)
    except UnicodeDecodeError as error:
        raise VerifyError(f"{file} is damaged: the definition before the memory is no text") from error


def make_room(file: Path, target: Path) -> None:
    """Copy `file` with room for other definitions."""
    found = read(file)
    room = _ROOM_BYTES - _HEADER.size
    with file.open("rb") as source, target.open("wb") as copy:
        copy.write(_packed(found, xml=found.xml, room_bytes=room, file=file))
        offset, end = _HEADER.size + found.room_bytes, os.fstat(source.fileno()).st_size
        copy.flush()
        os.lseek(copy.fileno(), _ROOM_BYTES, os.SEEK_SET)
        while offset < end:
            done = os.sendfile(copy.fileno(), source.fileno(), offset, end - offset)
            if done == 0:
                raise ToolError(f"{file} became shorter while it was copied")
            offset += done


def checksum(file: Path) -> int:
    """CRC-32 of the memory behind the definition: finds each damaged byte, three times as fast as SHA-256."""
    start, found = _HEADER.size + read(file).room_bytes, 0
    with file.open("rb") as stream:
        stream.seek(start)
        while piece := stream.read(_PIECE_BYTES):
            found = zlib.crc32(piece, found)
    return found


def write(file: Path, xml: str) -> None:
    """Let `file` be the memory of the machine that `xml` defines. The caller sees to it that nobody restores it now."""
    found = read(file)
    with file.open("r+b") as stream:
        stream.write(_packed(found, xml=xml, room_bytes=found.room_bytes, file=file))


def _packed(found: Definition, *, xml: str, room_bytes: int, file: Path) -> bytes:
    text, cookie = xml.encode() + b"\0", found.cookie.encode() + b"\0" if found.cookie else b""
    if len(text) + len(cookie) > room_bytes:
        raise VerifyError(f"{file} has no room for a definition of {len(text)} bytes")
    header = _HEADER.pack(
        _MAGIC, _VERSION, room_bytes, found.was_running, found.compression, len(text) if cookie else 0
    )
    return header + (text + cookie).ljust(room_bytes, b"\0")


def resumed_xml(saved: str, machine: Machine) -> str:
    """The definition of `machine` as one that goes on from the memory of `saved`, which had the same devices.

    saved: the XML in the file, with all the addresses that libvirt gave. machine: other name, disks, ports, log.
    """
    root, new = ET.fromstring(saved), ET.fromstring(domain_xml(machine))
    for tag in ("name", "uuid", "metadata", "sysinfo"):
        _replace(root, new, tag)
    root.attrib.pop("id", None)
    # Labels are of the saved machine's processes; libvirt gives new ones.
    for label in root.findall("seclabel"):
        root.remove(label)
    _replace_disks(root, new)
    for serial, fresh in zip(root.findall("devices/serial"), new.findall("devices/serial"), strict=True):
        for tag in ("source", "log"):
            _replace(serial, fresh, tag)
    for character in (*root.findall("devices/console"), *root.findall("devices/channel")):
        character.attrib.pop("tty", None)
        for source in (*character.findall("source"), *character.findall("log")):
            character.remove(source)
    if (nvram := root.find("os/nvram")) is not None and (fresh_nvram := new.findtext("os/nvram")) is not None:
        nvram.text = fresh_nvram
    _replace_arguments(root, machine)
    if machine.mapped is not None:
        capabilities = ET.SubElement(root, f"{{{QEMU_NAMESPACE}}}capabilities")
        ET.SubElement(capabilities, f"{{{QEMU_NAMESPACE}}}del", capability=_MANY_QUESTIONS)
    return ET.tostring(root, encoding="unicode")


def _replace(old: ET.Element, new: ET.Element, tag: str) -> None:
    place = next((n for n, child in enumerate(old) if child.tag == tag), 0)
    for child in old.findall(tag):
        old.remove(child)
    for child in reversed(new.findall(tag)):
        old.insert(place, child)


def _replace_disks(root: ET.Element, new: ET.Element) -> None:
    for disk, fresh in zip(root.findall("devices/disk"), new.findall("devices/disk"), strict=True):
        for tag in ("source", "backingStore"):
            _replace(disk, fresh, tag)


def _replace_arguments(root: ET.Element, machine: Machine) -> None:
    commandline = root.find(f"{{{QEMU_NAMESPACE}}}commandline")
    if commandline is None:
        raise VerifyError(f"the saved memory of a machine without a card in user mode cannot be that of {machine.name}")
    for child in list(commandline):
        commandline.remove(child)
    for word in (*user_network_arguments(machine), *mapped_memory_arguments(machine)):
        ET.SubElement(commandline, f"{{{QEMU_NAMESPACE}}}arg", value=word)

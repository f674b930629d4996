"""libvirt: machines started, watched and surely stopped. Nothing else imports libvirt-python."""

from __future__ import annotations

import contextlib
import json
import os
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import libvirt
import libvirt_qemu

from builder import faults, run
from builder.errors import HostError, ToolError
from builder.tools import standstill

_POLL_S = 0.2

# Undefining fails while any of these is left, and without its domain none of them is of use.
_UNDEFINE = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)


_GONE = (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_NO_STORAGE_POOL)


class PortTaken(ToolError):
    """Another process took the forwarded port between asking for a free one and QEMU's start. Ask for another."""


class Vanished(ToolError):
    """libvirt no longer knows the machine, or the pool: somebody else removed it in the meantime."""


class Domain:
    """One machine, running or only defined."""

    def __init__(self, handle: libvirt.virDomain) -> None:
        self._handle = handle
        self.name: str = handle.name()

    def is_off(self) -> bool:
        """Also true when libvirt does not know it any more: a transient one is forgotten when it ends."""
        with _asking(f"look at the domain '{self.name}'"):
            try:
                return not self._handle.isActive()
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    return True
                raise

    def is_paused(self) -> bool:
        """Whether it is on and stands still, for whatever reason."""
        with _asking(f"look at the domain '{self.name}'"), _unless(libvirt.VIR_ERR_NO_DOMAIN):
            return bool(self._handle.state()[0] == libvirt.VIR_DOMAIN_PAUSED)
        return False

    def is_alive(self) -> bool:
        """Whether it is on, for those who wait for it: raises StandsStill if nothing will ever come.

        QEMU stops a guest whose disk file has no room to grow ("werror=enospc", its default): what it has written so
        far is not lost. Source: qemu(1), "-drive"; virDomainGetDiskErrors.
        """
        if self.is_off():
            return False
        with _asking(f"look at the domain '{self.name}'"):
            try:
                state, reason = self._handle.state()
                if (state, reason) != (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR):
                    return True
                disks = set(self._handle.diskErrors())
            except libvirt.libvirtError as error:
                # It ended between the questions.
                if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
                    return False
                raise
        raise standstill.error(f"the machine '{self.name}'", standstill.files(self.xml(), disks))

    def wait_until_off(self, timeout_s: float) -> None:
        """timeout_s: seconds. Raises ToolError if the machine is still on then, StandsStill if it will stay so."""
        deadline = time.monotonic() + timeout_s
        while self.is_alive():
            if time.monotonic() >= deadline:
                raise ToolError(f"the machine '{self.name}' is still on after {timeout_s:.0f} s")
            time.sleep(_POLL_S)

    def xml(self, *, is_to_go_on: bool = False) -> str:
        """Its definition. is_to_go_on: as one with which another QEMU goes on from this one's memory."""
        with _asking(f"read the definition of '{self.name}'"):
            return str(self._handle.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE if is_to_go_on else 0))

    def start(self) -> None:
        """Start a defined machine. Raises PortTaken or ToolError."""
        with _asking(f"start the machine '{self.name}'"):
            self._handle.create()
        faults.place("machine.started")

    def switch_to(self, file: Path, *, target: str = "vda") -> None:
        """From now on the machine writes to `file`, a new overlay of what it wrote to before; that stays as it is.

        What the guest has not written out is in neither. target: of the disk, as its definition names it.
        Source: formatsnapshot, external disk snapshots. The guest runs on; it takes about a tenth of a second.
        """
        snapshot = ET.Element("domainsnapshot")
        disks = ET.SubElement(snapshot, "disks")
        for found in ET.fromstring(self.xml()).iterfind("devices/disk/target"):
            # One that is not named here would get an overlay, too.
            is_it = found.get("dev") == target
            disk = ET.SubElement(disks, "disk", name=found.get("dev", ""), snapshot="external" if is_it else "no")
            if is_it:
                disk.set("type", "file")
                ET.SubElement(disk, "driver", type="qcow2")
                ET.SubElement(disk, "source", file=str(file))
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
        with _asking(f"set a checkpoint of '{self.name}'"):
            self._handle.snapshotCreateXML(ET.tostring(snapshot, encoding="unicode"), flags)
        # libvirt makes it 0600 and gives it back to root in the end; as a backing file it is read by QEMU's user.
        file.chmod(0o644)

    def save(self, file: Path) -> None:
        """Write the machine's memory to `file` and end it; its disks stay as they are at that moment.

        What is in the file goes on with `Connection.restore`, over those disks. Raises ToolError.
        """
        with _asking(f"save the memory of '{self.name}'"):
            self._handle.save(str(file))

    def pause(self) -> None:
        with _asking(f"let the machine '{self.name}' stand still"):
            self._handle.suspend()

    def go_on(self) -> None:
        with _asking(f"let the machine '{self.name}' go on"):
            self._handle.resume()

    def ask_qemu(self, command: str, *, file: int | None = None, **arguments: Any) -> Any:
        """What QEMU's monitor answers. file: a descriptor to go with it. Raises ToolError.

        libvirt marks the machine as one that was talked to behind its back ("tainted"), and does nothing else.
        """
        text = json.dumps({"execute": command, "arguments": arguments} if arguments else {"execute": command})
        with _asking(f"ask the QEMU of '{self.name}' for {command}"):
            if file is None:
                answer = libvirt_qemu.qemuMonitorCommand(self._handle, text, 0)
            else:
                answer, _ = libvirt_qemu.qemuMonitorCommandWithFiles(self._handle, text, [file], 0)
        found = json.loads(answer)
        if "error" in found:
            raise ToolError(f"QEMU refused '{command}' for '{self.name}': {found['error'].get('desc')}")
        return found["return"]

    def shut_down(self) -> None:
        """Ask the guest to switch itself off, by its power button. Nothing happens if it is off."""
        with _asking(f"shut down the machine '{self.name}'"), _unless(libvirt.VIR_ERR_OPERATION_INVALID):
            self._handle.shutdown()

    def addresses(self) -> list[str]:
        """IPv4 addresses of the guest's cards, as libvirt's DHCP servers gave them."""
        with _asking(f"ask for the addresses of '{self.name}'"):
            cards = self._handle.interfaceAddresses(libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE)
        found = [one for card in cards.values() for one in card["addrs"] or ()]
        return [one["addr"] for one in found if one["type"] == libvirt.VIR_IP_ADDR_TYPE_IPV4]

    def end_on_reboot(self) -> None:
        """From now on a guest that restarts is switched off instead; QEMU's -no-reboot, for a machine that runs.

        One that is defined keeps to it when it is started again.
        """
        with _asking(f"forbid '{self.name}' to restart"):
            flags = libvirt.VIR_DOMAIN_AFFECT_LIVE
            if self._handle.isPersistent():
                flags |= libvirt.VIR_DOMAIN_AFFECT_CONFIG
            self._handle.setLifecycleAction(
                libvirt.VIR_DOMAIN_LIFECYCLE_REBOOT, libvirt.VIR_DOMAIN_LIFECYCLE_ACTION_DESTROY, flags
            )

    def screenshot(self) -> bytes | None:
        """The frame buffer as an image, PNG or PPM as QEMU makes it; None for a machine without a screen, or off."""
        if self.is_off() or ET.fromstring(self.xml()).find("devices/video") is None:
            return None
        pieces: list[bytes] = []

        def take(_stream: object, data: bytes, _opaque: object) -> int:
            pieces.append(data)
            return len(data)

        with _asking(f"look at the screen of '{self.name}'"):
            stream = self._handle.connect().newStream()
            self._handle.screenshot(stream, 0)
            stream.recvAll(take, None)
            stream.finish()
        return b"".join(pieces)

    def destroy(self) -> None:
        """Switch the machine off, as by pulling its plug. Nothing happens if it is off."""
        with _asking(f"switch off the machine '{self.name}'"), _unless(libvirt.VIR_ERR_OPERATION_INVALID):
            self._handle.destroy()

    def remove(self) -> None:
        """Switch the machine off and make libvirt forget it. Its disks stay."""
        self.destroy()
        with _asking(f"undefine the machine '{self.name}'"), _unless(libvirt.VIR_ERR_OPERATION_INVALID):
            if self._handle.isPersistent():
                self._handle.undefineFlags(_UNDEFINE)


class Pool:
    """A storage pool: a folder in which libvirt, and with it virt-install, knows the files."""

    def __init__(self, handle: libvirt.virStoragePool) -> None:
        self._handle = handle
        self.name: str = handle.name()

    def folder(self) -> Path | None:
        """None for a pool that is no folder."""
        with _asking(f"look at the storage pool '{self.name}'"):
            path = ET.fromstring(self._handle.XMLDesc()).findtext("target/path")
        return Path(path) if path else None

    def remove(self) -> None:
        """Make libvirt forget it. The folder stays, with all that is in it."""
        with _asking(f"remove the storage pool '{self.name}'"), _unless(libvirt.VIR_ERR_NO_STORAGE_POOL):
            is_kept = self._handle.isPersistent()
            if self._handle.isActive():
                self._handle.destroy()
            if is_kept:
                self._handle.undefine()


class Connection:
    """One connection to libvirt; a context manager. Made by `connect`."""

    def __init__(self, handle: libvirt.virConnect) -> None:
        self._handle = handle
        self.uri: str = handle.getURI()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with contextlib.suppress(libvirt.libvirtError):
            self._handle.close()

    @contextlib.contextmanager
    def running(self, domain_xml: str) -> Iterator[Domain]:
        """A throw-away machine: on inside the block, gone after it, however the block ends.

        AUTODESTROY: libvirt also ends it when this process dies, by `kill -9` too.
        domain_xml: must hold a UUID; it is how the machine is found again if an interrupt came between its start
        and this function hearing of it. Raises PortTaken or ToolError.
        """
        uuid = ET.fromstring(domain_xml).findtext("uuid")
        if uuid is None:
            raise ValueError("a throw-away domain needs a UUID")
        flags = libvirt.VIR_DOMAIN_START_AUTODESTROY | libvirt.VIR_DOMAIN_START_VALIDATE
        try:
            with _asking("start a throw-away machine"):
                handle = self._handle.createXML(domain_xml, flags)
            yield Domain(handle)
        finally:
            # A libvirtd that went away is no bug of golden's, and what it leaves goes with the next build.
            with _asking("end a throw-away machine"), _unless(libvirt.VIR_ERR_NO_DOMAIN):
                Domain(self._handle.lookupByUUIDString(uuid)).destroy()

    def define(self, domain_xml: str) -> Domain:
        """Make libvirt know a machine, switched off. Raises ToolError, also if another has its name."""
        with _asking("define a machine"):
            found = Domain(self._handle.defineXMLFlags(domain_xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE))
        faults.place("machine.defined")
        return found

    def restore(self, file: Path) -> None:
        """Let a machine go on whose memory `Domain.save` wrote. Raises PortTaken or ToolError."""
        with _asking("start a machine from its memory"):
            self._handle.restore(str(file))

    def start_paused(self, domain_xml: str) -> Domain:
        """Start a machine that stands still at first; one that was defined under its name stays defined as it was.

        Raises PortTaken or ToolError.
        """
        with _asking("start a machine that stands still"):
            return Domain(self._handle.createXML(domain_xml, libvirt.VIR_DOMAIN_START_PAUSED))

    def find(self, name: str) -> Domain | None:
        with _asking(f"look for the domain '{name}'"), _unless(libvirt.VIR_ERR_NO_DOMAIN):
            return Domain(self._handle.lookupByName(name))
        return None

    def domains(self) -> list[Domain]:
        """All that libvirt knows, running or not, golden's or not."""
        with _asking("list the domains"):
            return [Domain(handle) for handle in self._handle.listAllDomains()]

    def destroy_matching(self, is_left_over: Callable[[Domain], bool]) -> list[str]:
        """Remove each domain that `is_left_over`, and return their names.

        For what a killed golden left. The caller holds the lock that proves no living golden owns them; it tells
        them by their names or by `domain.read_label` of their XML. The machines of others may go while it looks.
        """
        removed = []
        for domain in self.domains():
            with contextlib.suppress(Vanished):
                if is_left_over(domain):
                    domain.remove()
                    removed.append(domain.name)
        return removed

    @contextlib.contextmanager
    def storage_pool(self, folder: Path, *, name: str) -> Iterator[None]:
        """`folder` is a pool inside the block, and none after it. For virt-install, which else makes one that stays.

        It makes one, started with the host from then on, for the folder of each file that is in no pool yet.
        Source: virtinst/diskbackend.py, manage_path; 4.1. A libvirt that knows no pools is asked for none there, too.
        """
        try:
            with _asking(f"make a storage pool of {folder}"), _unless(libvirt.VIR_ERR_NO_SUPPORT):
                self._handle.storagePoolCreateXML(pool_xml(folder, name=name))
            yield
        finally:
            for pool in self.pools():
                if pool.name == name:
                    pool.remove()

    def pools(self) -> list[Pool]:
        """All that libvirt knows, active or not, golden's or not; none where it has no storage driver."""
        with _asking("list the storage pools"), _unless(libvirt.VIR_ERR_NO_SUPPORT):
            return [Pool(handle) for handle in self._handle.listAllStoragePools()]
        return []

    def pools_below(self, folder: Path) -> list[Pool]:
        """Those whose folders are `folder` or in it. The pools of others may go while it looks."""
        found = []
        for pool in self.pools():
            with contextlib.suppress(Vanished):
                if (place := pool.folder()) is not None and place.is_relative_to(folder):
                    found.append(pool)
        return found

    def versions(self) -> dict[str, str]:
        """Of libvirt's daemon and of the QEMU that it uses; "9.0.0"."""
        with _asking("ask libvirt for versions"):
            return {"libvirt": _dotted(self._handle.getLibVersion()), "qemu": _dotted(self._handle.getVersion())}

    def qemu_user(self) -> tuple[int, int] | None:
        """User and group id that QEMU runs as, or None where that is the user who asks (`qemu:///session`).

        Source: formatcaps, `<secmodel>`; a base label is written "+64055:+109".
        """
        with _asking("ask libvirt for its capabilities"):
            capabilities = ET.fromstring(self._handle.getCapabilities())
        for model in capabilities.iterfind("host/secmodel"):
            label = model.findtext("baselabel")
            if model.findtext("model") == "dac" and label:
                user, group = (int(part.removeprefix("+")) for part in label.split(":"))
                return user, group
        return None


def default_uri() -> str:
    """`GOLDEN_LIBVIRT_URI`, else the system's libvirt for root and the user's own for everybody else.

    Not libvirt's own default: that is `qemu:///session` for anybody who may not use the system's, silently.
    """
    return os.environ.get("GOLDEN_LIBVIRT_URI") or ("qemu:///system" if os.geteuid() == 0 else "qemu:///session")


def connect(uri: str | None = None) -> Connection:
    """Raises HostError with what to type next if libvirt does not answer."""
    # libvirt prints each error to standard error by itself, also those that are expected here.
    libvirt.registerErrorHandler(_print_nothing, None)
    wanted = uri or default_uri()
    try:
        return Connection(libvirt.open(wanted))
    except libvirt.libvirtError as error:
        raise HostError(
            f"libvirt is not reachable at {wanted}",
            details=[("reason", error.get_error_message() or str(error))],
            try_next=_how_to_start(),
        ) from error


def pool_xml(folder: Path, *, name: str) -> str:
    """Source: formatstorage, a pool of the type "dir"."""
    pool = ET.Element("pool", type="dir")
    ET.SubElement(pool, "name").text = name
    ET.SubElement(ET.SubElement(pool, "target"), "path").text = str(folder)
    return ET.tostring(pool, encoding="unicode")


def _print_nothing(_context: object, _error: object) -> None:
    pass


def _how_to_start() -> str:
    if not run.has_program("libvirtd") and not run.has_program("virtqemud"):
        return run.how_to_install("libvirtd")
    daemon = "libvirtd" if run.has_program("libvirtd") else "virtqemud"
    # sd_booted(3): this directory is there if and only if systemd is the init system.
    return f"systemctl start {daemon}" if Path("/run/systemd/system").is_dir() else f"virtlogd -d && {daemon} -d"


@contextlib.contextmanager
def _asking(what: str) -> Iterator[None]:
    """Turns libvirt's errors into golden's."""
    try:
        yield
    except libvirt.libvirtError as error:
        message = error.get_error_message() or str(error)
        kind: type[ToolError] = ToolError
        if error.get_error_code() in _GONE:
            kind = Vanished
        elif "Could not set up host forwarding rule" in message:  # QEMU has no code for it; from its net/slirp.c
            kind = PortTaken
        raise kind(f"could not {what}", details=[("libvirt", message)]) from error


@contextlib.contextmanager
def _unless(code: int) -> Iterator[None]:
    """Passes over libvirt's error `code`: what was to be done is so already. A vanished domain is always that."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() not in (code, libvirt.VIR_ERR_NO_DOMAIN):
            raise


def _dotted(number: int) -> str:
    """libvirt's 9002003 is 9.2.3. Source: virConnectGetVersion."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"

"""Memory of a guest that has booted, kept for one image on one host, and clones that go on from it.

STATE/clones/.warm/KEY/warm.json      what it is the memory of; written last: what has none was cut off
                       disk.qcow2     the guest's disk at that moment, an overlay of the image, 0444
                       memory         the guest's, to be mapped (builder/tools/mapped_memory.py)
                       devices        the state of its devices, QEMU's
                       machine.xml    its definition
                       empty.qcow2    an overlay of disk.qcow2 that nobody wrote to
                       nvram.fd       UEFI's variables

Where QEMU may not map such a file (a host's policy, a user who cannot give it to QEMU), `memory` is libvirt's file of
all three, with room for other definitions (builder/tools/saved_memory.py): each start reads it all.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import platform
import secrets
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pydantic import ValidationError

from builder import locks
from builder.clones import agent
from builder.clones.leases import Lease, Pin
from builder.errors import ToolError, VerifyError
from builder.model import Frozen
from builder.tools import mapped_memory, saved_memory, ssh
from builder.tools.domain import MACHINES, Machine, MappedMemory, Nic
from builder.tools.libvirt import Connection
from builder.units import MIB

MEMORY, DEVICES, DEFINITION, EMPTY = "memory", "devices", "machine.xml", "empty.qcow2"
RENEW_TIMEOUT_S = 60.0
_ASK_AGAIN_S = 2.0

HostKeys = dict[str, tuple[str, str]]


class Circumstances(Frozen):
    """What a saved memory is good for, and nothing else. image: SHA-256 of the image's file. agent: of its text."""

    image: str
    qemu: str
    libvirt: str
    machine: str
    accelerator: str
    cpu: str
    host: str
    kernel: str
    firmware: str
    memory_mib: int
    cpus: int
    agent: str

    @property
    def key(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:20]


class Saved(Frozen):
    """`warm.json`. pins: of the chain that its disk stands on, the disk itself first. uuid, mac: of the saved machine.

    cold_s: seconds from start to the answer on SSH when it was booted. host_keys: kinds that it has. size_bytes:
    of memory and disk. memory_crc32: of the memory as it was saved, with its devices and definition if it is_mapped,
    else less the definition before it, which changes.
    """

    format: int = 1
    circumstances: Circumstances
    stem: str
    pins: tuple[Pin, ...]
    mac: str
    cold_s: float
    host_keys: tuple[str, ...]
    size_bytes: int
    memory_crc32: int
    is_mapped: bool = False
    made: str


def folder(state: Path) -> Path:
    return state / "clones" / ".warm"


def circumstances(lease: Lease, connection: Connection) -> Circumstances:
    return Circumstances(
        **_of_host(connection),
        image=lease.image.sha256,
        machine=MACHINES[lease.arch],
        accelerator=lease.accelerator,
        firmware=lease.firmware,
        memory_mib=lease.memory_mib,
        cpus=lease.cpus,
    )


def fits_host(known: Circumstances, connection: Connection) -> bool:
    return _of_host(connection).items() <= known.model_dump().items()


def _of_host(connection: Connection) -> dict[str, str]:
    versions, machine_id = connection.versions(), Path("/etc/machine-id")
    return {
        "qemu": versions["qemu"],
        "libvirt": versions["libvirt"],
        "cpu": _cpu(),
        "host": machine_id.read_text(encoding="utf-8").strip() if machine_id.exists() else platform.node(),
        "kernel": platform.release(),
        "agent": hashlib.sha256(agent_text().encode()).hexdigest()[:12],
    }


def _cpu() -> str:
    """The host's processor with its features. Source: proc_cpuinfo(5)."""
    wanted = ("model name", "flags", "Features", "CPU part")
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    return hashlib.sha256("\n".join(line for line in lines if line.startswith(wanted)).encode()).hexdigest()[:12]


def agent_text() -> str:
    return Path(str(agent.__file__)).read_text(encoding="utf-8")


def why_not(lease: Lease) -> str | None:
    """Why a clone cannot go on from a saved memory, whatever there is of it."""
    if lease.arch != "x86_64":
        return f"machines of {lease.arch} have no second serial port"
    if lease.nics != (Nic(),):
        return "it has other network cards than the one in user mode"
    if lease.extra_disks or lease.has_seed:
        return "it has extra disks or a seed"
    return None


def find(state: Path, wanted: Circumstances) -> Saved | None:
    return read(folder(state) / wanted.key)


def read(place: Path) -> Saved | None:
    try:
        return Saved.model_validate_json((place / "warm.json").read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def places(state: Path) -> list[Path]:
    return sorted(path for path in folder(state).glob("*") if path.is_dir()) if folder(state).is_dir() else []


def all_saved(state: Path) -> Iterator[tuple[Path, Saved]]:
    for place in places(state):
        if (found := read(place)) is not None:
            yield place, found


def lock(state: Path, key: str) -> contextlib.AbstractContextManager[None]:
    """Held while the memory is made, and while its file is given a definition and restored."""
    return locks.lock(
        state / "clones" / ".locks" / f".warm-{key}", what="the saved memory", waiting=lambda _holder: None
    )


def free(state: Path, key: str) -> contextlib.AbstractContextManager[None]:
    """As `lock`. Raises HostError if another golden holds it."""
    return locks.lock(state / "clones" / ".locks" / f".warm-{key}", what="the saved memory")


def resume(saved: Saved, place: Path, machine: Machine, renewal: Renewal, *, connection: Connection) -> None:
    """Let `machine` go on from the memory in `place`; it is the saved one until the renewal, which is ordered, is over.

    machine: its disk stands on the saved one. The caller holds `lock`. Raises PortTaken, ToolError or VerifyError.
    """
    if (place / "nvram.fd").exists():
        shutil.copyfile(place / "nvram.fd", machine.label.work / "nvram.fd")
    if saved.is_mapped:
        _map(saved, place, machine, renewal, connection=connection)
        return
    check(saved, place)
    memory = place / MEMORY
    saved_memory.write(memory, saved_memory.resumed_xml(saved_memory.read(memory).xml, machine))
    connection.restore(memory)
    renewal.order()


def _map(saved: Saved, place: Path, machine: Machine, renewal: Renewal, *, connection: Connection) -> None:
    """All of the memory is read while QEMU starts; the guest goes on if it is what it was."""
    machine = machine.model_copy(update={"mapped": MappedMemory(file=place / MEMORY, is_shared=False)})
    with ThreadPoolExecutor(1) as beside:
        checked = beside.submit(check, saved, place)
        definition = (place / DEFINITION).read_text(encoding="utf-8")
        domain = connection.start_paused(saved_memory.resumed_xml(definition, machine))
        mapped_memory.load(domain, place / DEVICES)
        renewal.order()
        checked.result()
    domain.go_on()


def check(saved: Saved, place: Path) -> None:
    """Read all of the memory in `place`. Raises VerifyError if it is not what was saved."""
    if checksum(place, is_mapped=saved.is_mapped) != saved.memory_crc32:
        raise VerifyError(
            f"the saved memory of {saved.stem} was changed after it was saved: {place / MEMORY}",
            try_next=f"rm -r {place}",
        )


def checksum(place: Path, *, is_mapped: bool) -> int:
    if is_mapped:
        return mapped_memory.checksum(place / MEMORY, place / DEVICES, place / DEFINITION, place / EMPTY)
    return saved_memory.checksum(place / MEMORY)


class Renewal:
    """Has the agent in the guest's memory make the guest another one. machine: with its second serial port.

    host_keys: as they are ready. To be closed.
    """

    def __init__(self, lease: Lease, saved: Saved, machine: Machine, host_keys: Future[HostKeys]) -> None:
        self._lease = lease
        self._saved = saved
        self._machine = machine
        self._host_keys = host_keys
        self._open = contextlib.ExitStack()
        self._socket: socket.socket | None = None
        self._said = b""

    def order(self) -> None:
        """Say what is to be; a guest that stands still reads it first of all when it goes on. Raises ToolError."""
        if self._machine.renewal is None:
            raise ValueError("the machine has no second serial port")
        order = {
            "now": time.time(),
            "entropy": base64.b64encode(secrets.token_bytes(64)).decode(),
            "machine_id": uuid.uuid4().hex,
            "hostname": self._lease.name,
            "macs": {self._saved.mac: self._machine.mac},
            "host_keys": self._host_keys.result(),
            "authorized_key": self._lease.authorized_key,
        }
        self._socket = self._open.enter_context(_port(self._machine.renewal))
        self._socket.settimeout(RENEW_TIMEOUT_S)
        self._socket.sendall(json.dumps(order).encode() + b"\n")

    def wait_until_reachable(self) -> None:
        """Until a login may begin: keys and addresses are its own by then. Raises ToolError."""
        self._wait_for(agent.REACHABLE)

    def wait(self) -> None:
        """Until it is done. Raises ToolError."""
        self._wait_for(agent.DONE)

    def _wait_for(self, word: bytes) -> None:
        if self._socket is None:
            raise ValueError("nothing was ordered")
        self._said = _read(self._socket, until=(word, agent.FAILED), timeout_s=RENEW_TIMEOUT_S, said=self._said)
        if word not in self._said:
            said = self._said.decode(errors="replace").strip() or f"no answer within {RENEW_TIMEOUT_S:.0f} s"
            raise ToolError(
                f"'{self._lease.name}' was started from memory, but did not become a machine of its own",
                details=[("agent", said)],
            )

    def close(self) -> None:
        self._open.close()


def make_host_keys(kinds: Iterable[str]) -> HostKeys:
    """Kind -> private and public half, new, of those kinds that are made in no time."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="golden-host-keys-") as folder:
        for kind in sorted({"ed25519", "ecdsa"} & set(kinds)):
            key = Path(folder) / kind
            ssh.make_key(key, comment="", kind=kind)
            found[kind] = (key.read_text(encoding="utf-8"), key.with_name(f"{kind}.pub").read_text(encoding="utf-8"))
    return found


def is_waiting(path: Path, *, timeout_s: float) -> bool:
    """Whether the agent answers at the guest's second serial port within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    with _port(path) as port:
        # Asked again: what comes while the guest opens its port may be lost.
        while time.monotonic() < deadline:
            port.sendall(b"?\n")
            if agent.READY in _read(port, until=(agent.READY,), timeout_s=_ASK_AGAIN_S):
                return True
    return False


@contextlib.contextmanager
def _port(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as port:
        # A path longer than the kernel takes is reached through its directory.
        handle = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            port.connect(f"/proc/self/fd/{handle}/{path.name}")
        except OSError as error:
            raise ToolError(f"the guest's second serial port is closed: {error.strerror}") from error
        finally:
            os.close(handle)
        yield port


def _read(port: socket.socket, *, until: tuple[bytes, ...], timeout_s: float, said: bytes = b"") -> bytes:
    """`said` and what the guest says more, until one of `until` is in it, or for `timeout_s` at most."""
    deadline, answer = time.monotonic() + timeout_s, said
    while not any(word in answer for word in until) and (left_s := deadline - time.monotonic()) > 0:
        if len(answer) > MIB:  # a guest that says so much says nothing of use
            break
        port.settimeout(left_s)
        try:
            more = port.recv(4096)
        except TimeoutError:
            break
        if not more:
            break
        answer += more
    return answer

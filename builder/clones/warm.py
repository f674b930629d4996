"""Warm starts prepared: an image booted once on this host, and its memory saved when it answers."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from builder import run, store
from builder.clones import layout, orders, pins, saved
from builder.clones.leases import DISK, Lease, Pin, whole_leases
from builder.clones.memory import Capacity, host_capacity, reserved
from builder.clones.orders import Order
from builder.clones.saved import Saved
from builder.clones.sources import chain, verify
from builder.errors import ConfigError, ToolError
from builder.progress import Reporter
from builder.tools import mapped_memory, qemu_img, saved_memory, ssh
from builder.tools.console import GUEST_FATAL, Console
from builder.tools.domain import Label, Machine, MappedMemory, domain_xml
from builder.tools.libvirt import Connection, Domain, PortTaken

# A guest that answers on SSH is still busy with what starts beside; this long at most is waited for that to end.
_SETTLE_S = 60
_AGENT_S = 60
_HOST_KEY = re.compile(r"ssh_host_(\w+)_key")

# In the guest's memory alone: /run is one. The agent must be waiting before the memory is saved, so the script comes
# back only when it has opened its port.
_SETTLE = "systemctl is-system-running --wait || true"
_START_AGENT = """\
set -e
for python in python3 /usr/libexec/platform-python; do
    command -v $python >/dev/null && break
    python=
done
[ -n "$python" ] || { echo "there is no Python in the guest" >&2; exit 3; }
[ -e /dev/ttyS1 ] || { echo "there is no second serial port in the guest" >&2; exit 3; }
mkdir -p /run/golden
cat > /run/golden/agent.py
if command -v systemd-run >/dev/null; then
    systemd-run --quiet --collect --unit=golden-agent $python /run/golden/agent.py
else
    setsid $python /run/golden/agent.py </dev/null >/dev/null 2>&1 &
fi
sync
"""


def prepare(
    order: Order,
    *,
    state: Path,
    connection: Connection,
    reporter: Reporter,
    boot_timeout_s: float,
    capacity: Capacity | None = None,
    is_renewed: bool = False,
    is_stopped: Callable[[], bool] = lambda: False,
) -> tuple[Saved, bool]:
    """The saved memory for clones like `order`, and whether it is new: one that fits is taken as it is.

    order: its name is of no account. is_renewed: make it anew. is_stopped: whether to give up waiting. Raises
    ConfigError, HostError, ToolError, VerifyError.
    """
    if order.key is None:
        raise ConfigError("a warm start needs a key to log in with once", try_next="--key FILE")
    with reporter.step("verify the image's files"):
        files = chain(order.source)
        verify(order.source, state=state, is_full=False)
    paths, ids = [path for path, _ in files], [build.id for _, build in files]
    with pins.locked(state):
        held = pins.hold(paths, ids, state=state, note=reporter.note)
    lease = orders.lease(order, held, tuple(paths), uri=connection.uri, place=saved.folder(state))
    if (reason := saved.why_not(lease)) is not None:
        raise ConfigError(f"clones of {order.source.build.stem} cannot start from memory: {reason}")
    wanted = saved.circumstances(lease, connection)
    with saved.lock(state, wanted.key):
        place = saved.folder(state) / wanted.key
        if not is_renewed and (found := saved.find(state, wanted)) is not None:
            return found, False
        _need_unused(state, wanted.key)
        limit = capacity or host_capacity()
        with _workshop(place) as work:
            preparation = _Preparation(
                lease, order.key, work, place, connection=connection, reporter=reporter, is_stopped=is_stopped
            )
            made = preparation.carry_out(wanted, limit=limit, boot_timeout_s=boot_timeout_s)
            with pins.locked(state):
                # The links may have gone meanwhile, with the last clone: nothing yet said that they are needed here.
                pins.hold(paths, ids, state=state, note=lambda _text: None)
                shutil.rmtree(place, ignore_errors=True)
                work.rename(place)
            store.sync_directory(place.parent)
            return made, True


def _need_unused(state: Path, key: str) -> None:
    """A disk under clones is never replaced."""
    users = [lease.name for lease in whole_leases(state) if lease.warm == key]
    if users:
        raise ConfigError(
            f"the saved memory cannot be made anew: clones stand on its disk: {', '.join(users)}",
            try_next=f"golden clone destroy {' '.join(users)}",
        )


@contextlib.contextmanager
def _workshop(place: Path) -> Iterator[Path]:
    """A folder that becomes `place`, or goes. The caller holds the lock."""
    place.parent.mkdir(parents=True, exist_ok=True)
    work = place.with_name(f".{place.name}.part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    work.chmod(0o711)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


class _Preparation:
    """One boot of one image, until its memory is on the disk."""

    def __init__(
        self,
        lease: Lease,
        key: Path,
        work: Path,
        place: Path,
        *,
        connection: Connection,
        reporter: Reporter,
        is_stopped: Callable[[], bool],
    ) -> None:
        self._lease = lease
        self._key = key
        self._work = work
        self._place = place
        self._connection = connection
        self._reporter = reporter
        self._is_stopped = is_stopped

    def carry_out(self, wanted: saved.Circumstances, *, limit: Capacity, boot_timeout_s: float) -> Saved:
        machine = self._machine()
        layout.lay_overlay(self._work, self._lease.pins[0].path, [pin.path for pin in self._lease.pins])
        with contextlib.ExitStack() as stack:
            with (
                self._reporter.step("start the image") as step,
                reserved(self._lease.memory_mib, limit, names="the image", note=step.note),
            ):
                domain, machine = self._start(machine, stack)
            with self._reporter.step("boot it") as step:
                cold_s = self._wait(domain, machine, timeout_s=boot_timeout_s, note=step.note)
            with self._reporter.step("wait until it is idle"):
                kinds = self._prepare_guest(machine)
            with self._reporter.step("save its memory"):
                self._save(domain, is_mapped=machine.mapped is not None)
        return self._keep(wanted, machine, cold_s=cold_s, host_keys=kinds)

    def _start(self, machine: Machine, stack: contextlib.ExitStack) -> tuple[Domain, Machine]:
        """On until `stack` ends; with its memory in a file, if this host lets QEMU map one."""
        file = self._work / saved.MEMORY
        mapped = machine.model_copy(update={"mapped": MappedMemory(file=file, is_shared=True)})
        try:
            mapped_memory.make_file(file, machine.memory_mib, user=self._connection.qemu_user())
            with contextlib.ExitStack() as own:
                domain = own.enter_context(self._connection.running(domain_xml(mapped)))
                mapped_memory.prepare(domain)
                stack.push(own.pop_all())
                return domain, mapped
        except PortTaken:
            raise
        except ToolError as error:
            reason = "; ".join([error.what, *(text for _, text in error.details[:1])])
            self._reporter.note(f"each start will read the whole memory: QEMU cannot map it here: {reason}")
            file.unlink(missing_ok=True)
        return stack.enter_context(self._connection.running(domain_xml(machine))), machine

    def _save(self, domain: Domain, *, is_mapped: bool) -> None:
        if is_mapped:
            definition = domain.xml(is_to_go_on=True)
            mapped_memory.save(domain, self._work / saved.DEVICES)
            (self._work / saved.DEFINITION).write_text(definition, encoding="utf-8")
        else:
            domain.save(self._work / "saved")
            saved_memory.make_room(self._work / "saved", self._work / saved.MEMORY)
            (self._work / "saved").unlink()

    def _machine(self) -> Machine:
        plain = layout.machine(self._lease, self._work)
        own = str(uuid.uuid4())
        return plain.model_copy(
            update={
                "name": f"golden-warm-{own[:8]}",
                "uuid": own,
                "label": Label(purpose="warm", owner_pid=os.getpid(), work=self._work),
                "hostname": "golden-warm",
                "renewal": self._work / "renew.sock",
            }
        )

    def _wait(self, domain: Domain, machine: Machine, *, timeout_s: float, note: Callable[[str], None]) -> float:
        console, begin = Console(machine.console_log, GUEST_FATAL), time.monotonic()

        def is_alive() -> bool:
            console.poll()
            return console.fatal is None and domain.is_alive() and not self._is_stopped()

        try:
            ssh.wait_until_answers(self._target(machine), timeout_s=timeout_s, is_alive=is_alive, note=note)
        except ToolError as error:
            if console.fatal is not None:
                error.what = f"the image did not boot: {console.fatal.kind}: {console.fatal.line}"
            error.details.append(("console", console.tail() or "(it said nothing)"))
            raise
        return time.monotonic() - begin

    def _target(self, machine: Machine) -> ssh.Target:
        return ssh.Target(port=machine.ssh_port, key=self._key)

    def _host_keys(self, machine: Machine) -> tuple[str, ...]:
        """The kinds that it has. Nothing is sent that it has no use for: each byte takes its time there."""
        argv = ssh.command(self._target(machine), "sh", "-c", "ls /etc/ssh")
        names = run.query(argv, why="see which host keys the image has", timeout_s=_AGENT_S).split()
        return tuple(sorted(found[1] for name in names if (found := _HOST_KEY.fullmatch(name))))

    def _prepare_guest(self, machine: Machine) -> tuple[str, ...]:
        """Nothing that is still starting, and the agent waiting at its port. Returns the kinds of its host keys."""
        log, target = self._work / "prepare.log", self._target(machine)
        with contextlib.suppress(ToolError):  # a guest that never gets idle is saved as it is
            run.run(ssh.command(target, "sh", "-c", _SETTLE), why="wait until it is idle", timeout_s=_SETTLE_S, log=log)
        try:
            kinds = self._host_keys(machine)
            self._start_agent(machine, log)
            return kinds
        except ToolError as error:
            raise ToolError(
                "the image cannot start from memory: its guest takes no agent",
                details=error.details,
                try_next="golden clone create --cold, which boots it",
            ) from error

    def _start_agent(self, machine: Machine, log: Path) -> None:
        text = saved.agent_text()
        script = _START_AGENT.replace(
            "cat > /run/golden/agent.py\n", f"cat > /run/golden/agent.py <<'GOLDEN'\n{text}GOLDEN\n"
        )
        run.run(
            ssh.command(self._target(machine), "sh", "-c", script),
            why="put the agent into the guest's memory",
            timeout_s=_AGENT_S,
            log=log,
        )
        if machine.renewal is None or not saved.is_waiting(machine.renewal, timeout_s=_AGENT_S):
            raise ToolError("the agent does not answer", details=[("port", str(machine.renewal))])

    def _keep(
        self, wanted: saved.Circumstances, machine: Machine, *, cold_s: float, host_keys: tuple[str, ...]
    ) -> Saved:
        disk = self._work / DISK
        disk.chmod(0o444)
        # What each clone begins with, so that none has to make one.
        qemu_img.create_overlay(self._work / saved.EMPTY, disk)
        qemu_img.rebase(self._work / saved.EMPTY, self._place / DISK)
        for left in ("prepare.log", "console.log", "renew.sock"):
            (self._work / left).unlink(missing_ok=True)
        status = disk.stat()
        pin = Pin(
            path=self._place / DISK,
            original=self._place / DISK,
            sha256=store.sha256(disk),
            size_bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
            inode=status.st_ino,
        )
        found = Saved(
            circumstances=wanted,
            stem=self._lease.image.stem,
            pins=(pin, *self._lease.pins),
            mac=machine.mac,
            cold_s=round(cold_s, 2),
            host_keys=host_keys,
            memory_crc32=saved.checksum(self._work, is_mapped=machine.mapped is not None),
            is_mapped=machine.mapped is not None,
            size_bytes=sum(file.stat().st_blocks * 512 for file in self._work.iterdir()),
            made=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        )
        store.write_atomically(self._work / "warm.json", found.model_dump_json(indent=2) + "\n")
        return found

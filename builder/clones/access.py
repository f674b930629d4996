"""Ways into a running clone: wait for it, where its sshd is."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from builder.clones.leases import Lease, console_log
from builder.errors import ConfigError, HostError, ToolError
from builder.tools import neighbours, ssh
from builder.tools.console import GUEST_FATAL, Console
from builder.tools.domain import mac
from builder.tools.libvirt import Connection, Domain
from builder.tools.standstill import StandsStill

# With KVM; multiplied where there is none.
BOOT_TIMEOUT_S = 120.0

_POLL_S = 0.5


def is_running(lease: Lease, connection: Connection) -> bool:
    domain = connection.find(lease.domain_name)
    return domain is not None and not domain.is_off()


def state_of(lease: Lease, connection: Connection) -> str:
    """running, paused (it stands still: this host's disk is full, or somebody paused it) or off. Terms of virsh(1)."""
    domain = connection.find(lease.domain_name)
    if domain is None or domain.is_off():
        return "off"
    return "paused" if domain.is_paused() else "running"


def running(lease: Lease, connection: Connection) -> Domain:
    """The clone's machine. Raises HostError if it is off, or stands still."""
    domain = connection.find(lease.domain_name)
    try:
        is_alive = domain is not None and domain.is_alive()
    except StandsStill as error:
        error.try_next = f"{error.try_next}; then golden clone start {lease.name}, by which it goes on"
        raise
    if domain is None or not is_alive:
        raise HostError(
            f"the clone '{lease.name}' is off",
            try_next=f"golden clone start {lease.name}; golden clone logs {lease.name} says why it went off",
        )
    return domain


def target(lease: Lease, *, connection: Connection, key: Path | None = None) -> ssh.Target:
    """Where the clone's sshd is. key: instead of the lease's.

    Raises ConfigError without a key, HostError if it is off, ToolError if nobody knows its address yet.
    """
    key = key or lease.key
    if key is None:
        raise ConfigError(f"no key for '{lease.name}' is known", try_next="--key FILE")
    domain = running(lease, connection)
    if lease.is_in_user_mode:
        return ssh.Target(port=lease.ssh_port, key=key)
    found = _addresses(lease, domain)
    if not found:
        raise ToolError(
            f"the address of '{lease.name}' is not known: libvirt's DHCP server gave it none, and it has not spoken "
            "with this host yet",
            try_next=f"golden clone console {lease.name}",
        )
    return ssh.Target(port=lease.ssh_port, host=found[0], key=key)


def _addresses(lease: Lease, domain: Domain) -> list[str]:
    return domain.addresses() or neighbours.addresses(mac(lease.uuid, number) for number in range(len(lease.nics)))


def wait(
    lease: Lease,
    *,
    state: Path,
    connection: Connection,
    timeout_s: float,
    note: Callable[[str], None],
    is_up: bool = False,
    login: ssh.Login | None = None,
) -> float:
    """Seconds until SSH answered. The log goes with the clone, so an error quotes the console's end.

    is_up, login: as in `ssh.wait_until_answers`: it has just gone on from memory, or waited in a pool.
    """
    if lease.key is None:
        raise ConfigError("waiting for SSH needs a key", try_next="--key FILE, or --no-wait")
    begin, domain = time.monotonic(), running(lease, connection)
    console = Console(console_log(state, lease.name), GUEST_FATAL)

    def is_alive() -> bool:
        console.poll()
        return console.fatal is None and domain.is_alive()

    try:
        while not lease.is_in_user_mode and not _addresses(lease, domain):
            note("waiting for an address")
            if not is_alive() or time.monotonic() - begin > timeout_s:
                break
            time.sleep(_POLL_S)
        ssh.wait_until_answers(
            target(lease, connection=connection),
            timeout_s=max(0.0, timeout_s - (time.monotonic() - begin)),
            is_alive=is_alive,
            note=note,
            is_up=is_up,
            login=login,
        )
    except ToolError as error:
        console.poll()
        if console.fatal is not None:
            error.what = f"'{lease.name}' did not boot: {console.fatal.kind}: {console.fatal.line}"
        error.details.append(("console", console.tail() or "(it said nothing)"))
        error.try_next = f"golden clone create {lease.name} --no-wait …, and then: golden clone console {lease.name}"
        raise
    return time.monotonic() - begin

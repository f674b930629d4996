"""What a clone is to be like, and the names and numbers that it gets."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from builder.clones.leases import Lease, Owner, Pin
from builder.clones.sources import Source
from builder.errors import ConfigError
from builder.model import NAME, Firmware, Frozen
from builder.tools import ssh
from builder.tools.domain import Forward, Nic, mac
from builder.tools.free_port import free_port

# The name becomes part of a socket's path, of which the kernel takes 108 bytes.
LONGEST_NAME = 40

OWN_KEY = "id_ed25519"

# After the image's own disk, letters of the device names are left for these and the seed.
MOST_DISKS = 16


class Order(Frozen):
    """A clone as it is wanted. key: private SSH key that the image lets in.

    has_own_key: make a key pair for this clone alone, and have the guest let it in beside `key`. firmware: the
    image's if None. nics: cards, in the guest's order; forwards: to ports of the guest, host_port 0 for any that is
    free. extra_disks: sizes in bytes. has_seed: attach a NoCloud seed; user_data: its content instead of golden's.
    owner: the process that the clone is made for; None keeps it until it is destroyed.
    """

    name: str
    source: Source
    memory_mib: int
    cpus: int
    accelerator: Literal["kvm", "tcg"]
    key: Path | None
    has_own_key: bool = False
    firmware: Firmware | None = None
    nics: tuple[Nic, ...] = (Nic(),)
    forwards: tuple[Forward, ...] = ()
    extra_disks: tuple[int, ...] = ()
    has_seed: bool = False
    user_data: str | None = None
    owner: Owner | None = None


def check(orders: Sequence[Order]) -> None:
    """Raises ConfigError for what no machine can be made of."""
    for order in orders:
        check_name(order.name)
        if order.forwards and not any(nic.kind == "user" for nic in order.nics):
            raise ConfigError(
                "ports are forwarded by a card in user mode, and there is none", try_next="--network user, too"
            )
        if all(nic.kind == "lan" for nic in order.nics):
            raise ConfigError("nobody gets in by a card on a LAN of clones alone", try_next="--network user, before it")
        if len(order.extra_disks) > MOST_DISKS:
            raise ConfigError(f"{len(order.extra_disks)} extra disks are too many; there can be {MOST_DISKS}")
        wanted = [(forward.protocol, forward.host_port) for forward in order.forwards if forward.host_port]
        if len(set(wanted)) < len(wanted):
            raise ConfigError("one port of this host cannot lead to two of the guest's")
        if wanted and len(orders) > 1:
            raise ConfigError(
                f"port {wanted[0][1]} of this host cannot lead to {len(orders)} clones", try_next="--forward GUEST_PORT"
            )
    names = [order.name for order in orders]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ConfigError(f"the name '{twice}' is given twice")


def check_name(name: str) -> None:
    if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise ConfigError(
            f"'{name}' cannot be a clone's name: lower-case letters, digits, and '-' or '.' between them, "
            f"{LONGEST_NAME} characters at most"
        )


def numbered(names: Sequence[str], *, image: str, count: int | None, taken: Collection[str]) -> list[str]:
    """The names of `count` clones: as given; NAME-1, NAME-2, … for one; the image's for none, past those `taken`.

    Raises ConfigError if names and count contradict each other.
    """
    if len(names) > 1 and count not in (None, len(names)):
        raise ConfigError(f"{len(names)} names are given for {count} clones", try_next="leave --count out")
    if len(names) > 1 or (names and count is None):
        return list(names)
    if names:
        return [f"{names[0]}-{number}" for number in range(1, (count or 1) + 1)]
    free = (name for number in range(1, len(taken) + (count or 1) + 1) if (name := f"{image}-{number}") not in taken)
    return [name for name, _ in zip(free, range(count or 1), strict=False)]


def lease(order: Order, pins: tuple[Pin, ...], files: tuple[Path, ...], *, uri: str, place: Path) -> Lease:
    """A new lease. place: the clone's directory, where a key of its own will be."""
    build = order.source.build
    is_in_user_mode = any(nic.kind == "user" for nic in order.nics)
    return Lease(
        name=order.name,
        image=build.id,
        files=files,
        pins=pins,
        uuid=str(uuid.uuid4()),
        uri=uri,
        arch=build.arch,
        firmware=order.firmware or build.firmware,
        memory_mib=order.memory_mib,
        cpus=order.cpus,
        accelerator=order.accelerator,
        ssh_port=free_port() if is_in_user_mode else 22,
        forwards=tuple(
            forward if forward.host_port else forward.model_copy(update={"host_port": free_port(), "is_fixed": False})
            for forward in order.forwards
        ),
        nics=order.nics,
        extra_disks=order.extra_disks,
        has_seed=order.has_seed,
        origin=order.source.origin,
        key=place / OWN_KEY if order.has_own_key else order.key,
        owner=order.owner,
        made=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    )


def unlike(new: Lease, others: Collection[str]) -> Lease:
    """The lease with a UUID of which no card's address is among `others`: 24 bits of it make the first one."""
    while {mac(new.uuid, number) for number in range(len(new.nics))} & set(others):
        new = new.model_copy(update={"uuid": str(uuid.uuid4())})
    return new


def with_own_key(order: Order, lease: Lease, place: Path) -> Lease:
    """The clone's own key pair, if it is to have one, made in `place`; the guest is told the public half."""
    if not order.has_own_key:
        return lease
    key = place / OWN_KEY
    ssh.make_key(key, comment=f"golden clone {order.name}")
    public = key.with_name(f"{OWN_KEY}.pub").read_text(encoding="utf-8").strip()
    return lease.model_copy(update={"authorized_key": public})

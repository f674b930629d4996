"""How a slave stands: what is installed, how old it is, what the channel has, who uses it, what could go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from builder import clones, store
from builder.clones import holds, in_use
from builder.clones.collection import Garbage, collect
from builder.errors import VerifyError
from builder.frozen import Frozen
from builder.model import Build, version_key
from builder.tools import qcow2
from builder.tools.libvirt import Connection


class Installed(Frozen):
    """One version of an image. age_s: since it was built. channel: the newest version there, None if it has none.

    is_current: whether a link leads to it, or to an image that stands on it. used_by: clones with a lease on its file,
    and machines of this host that run on it, whoever they belong to.
    held_by: bundles whose disks stand on it.
    """

    image: str
    version: str
    file: Path
    size_bytes: int
    age_s: float
    channel: str | None
    is_current: bool
    used_by: tuple[str, ...]
    held_by: tuple[Path, ...]

    @property
    def is_behind(self) -> bool:
        return self.is_current and self.channel is not None and version_key(self.channel) > version_key(self.version)

    @property
    def is_free(self) -> bool:
        """Whether its package could be removed without harm to anybody."""
        return not self.is_current and not self.used_by and not self.held_by


class Leased(Frozen):
    """A clone, and what it stands on. owner: the process it was made for, None if it is kept until destroyed."""

    clone: str
    image: str
    version: str
    memory_mib: int
    owner: int | None
    is_orphaned: bool
    made: str


class Status(Frozen):
    """Everything together. damaged: why an installed image cannot be used. Sizes in bytes."""

    images: tuple[Installed, ...]
    leases: tuple[Leased, ...]
    garbage: tuple[Garbage, ...]
    damaged: tuple[str, ...]

    @property
    def free_bytes(self) -> int:
        return sum(one.size_bytes for one in self.images if one.is_free) + sum(one.size_bytes for one in self.garbage)


def look(
    *,
    images: Path,
    state: Path,
    connection: Connection,
    channel: Mapping[str, str],
    now: datetime,
    note: Callable[[str], None],
) -> Status:
    """images: folder of installed images. channel: image -> newest version. Nothing is changed.

    Leases are those of `state`. Of others, only what runs is seen.
    """
    current, damaged = _current(images)
    users: dict[Path, list[str]] = {}
    leases = list(clones.whole_leases(state))
    for lease in leases:
        for file in lease.files:
            users.setdefault(file.resolve(), []).append(lease.name)
    ours = {lease.domain_name for lease in leases}
    running = {name: disks for name, disks in in_use.machines().items() if name not in ours}
    bundles: dict[Path, list[Path]] = {}
    for hold in holds.holds(state):
        for file in hold.files:
            bundles.setdefault(file.resolve(), []).append(hold.bundle)
    found = []
    for facts in sorted(images.glob("*.json")):
        file = facts.with_suffix(".qcow2").resolve()
        if file.exists():
            build = store.read_build(facts)
            others = [name for name, disks in running.items() if any(in_use.is_same(file, disk) for disk in disks)]
            found.append(
                _installed(
                    build,
                    file,
                    is_current=file in current,
                    used_by=tuple(sorted([*users.get(file, []), *others])),
                    held_by=tuple(sorted(bundles.get(file, []))),
                    channel=channel,
                    now=now,
                )
            )
    return Status(
        images=tuple(sorted(found, key=lambda one: (one.image, version_key(one.version)))),
        leases=tuple(
            Leased(
                clone=lease.name,
                image=lease.image.image,
                version=lease.image.version,
                memory_mib=lease.memory_mib,
                owner=lease.owner.pid if lease.owner else None,
                is_orphaned=lease.is_orphaned,
                made=lease.made,
            )
            for lease in leases
        ),
        garbage=tuple(collect(state, connection=connection, is_dry=True, note=note)),
        damaged=tuple(damaged),
    )


def _installed(
    build: Build,
    file: Path,
    *,
    is_current: bool,
    used_by: tuple[str, ...],
    held_by: tuple[Path, ...],
    channel: Mapping[str, str],
    now: datetime,
) -> Installed:
    return Installed(
        image=build.image,
        version=build.version,
        file=file,
        size_bytes=file.stat().st_size,
        age_s=max(0.0, (now - datetime.fromisoformat(build.finished).astimezone(UTC)).total_seconds()),
        channel=channel.get(build.image),
        is_current=is_current,
        used_by=used_by,
        held_by=held_by,
    )


def _current(images: Path) -> tuple[set[Path], list[str]]:
    """The files that links lead to, with their chains; and what is wrong with those that lead nowhere."""
    current: set[Path] = set()
    damaged = []
    for link in sorted(images.glob("*.qcow2")):
        if not link.is_symlink():
            continue
        try:
            if not link.exists():
                raise VerifyError(f"{link} leads to a file that is gone")
            current |= {part.path.resolve() for part in qcow2.chain(link.resolve(), is_beside=True)}
        except VerifyError as error:
            damaged.append(error.what)
    return current, damaged

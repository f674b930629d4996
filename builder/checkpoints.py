"""The checkpoints of a build under way: disk files that are written no more, each with the state after some step.

    WORK/disk.qcow2      the first overlay, or what was installed
    WORK/disk.1.qcow2    an overlay of it, made when a step was done; disk.2.qcow2 an overlay of that
    WORK/checkpoints.json    which of them is the state after which step, and what the build was to be

The last file is the one that is being written. The work folder stays when a build fails, and with it the checkpoints.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, ValidationError

from builder.frozen import Frozen
from builder.model import ImageId
from builder.store import Store, write_atomically

FILE = "checkpoints.json"

# Every file of a chain costs a machine some memory; QEMU's own limit is far above.
_MOST = 32

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Checkpoint(Frozen):
    """The state after a step. after: its number, 0 before the first. disk: name of the file that holds it.

    is_prepared: of an imported image, whether what comes before its steps is done. is_sealed: nothing is left to do
    in the guest.
    """

    after: int
    disk: str
    is_prepared: bool = False
    is_sealed: bool = False


class Record(Frozen):
    """`checkpoints.json`. inputs, parent: of the build that was planned. files: the disk's, the lowest first.

    boot: boot id of the host that wrote them. is_synced: whether they would be whole after the host's sudden death.
    software: versions that the steps done found.
    """

    format: int = 1
    image: str
    version: str
    parent: ImageId | None
    inputs: dict[str, str]
    files: tuple[str, ...] = ("disk.qcow2",)
    checkpoints: tuple[Checkpoint, ...] = Field(default=())
    boot: str = ""
    is_synced: bool = False
    software: dict[str, str] = Field(default={})


class Trail:
    """The disk files of one build. Only the last one is ever written to."""

    def __init__(self, work: Path, record: Record) -> None:
        self.work = work
        self.record = record

    @property
    def top(self) -> Path:
        """The file to write to."""
        return self.work / self.record.files[-1]

    @property
    def below(self) -> list[Path]:
        """The files under it, nearest first; the parent's are not among them."""
        return [self.work / name for name in reversed(self.record.files[:-1])]

    @property
    def next(self) -> Path:
        """Where the next overlay goes; not made yet."""
        return self.work / f"disk.{len(self.record.files)}.qcow2"

    @property
    def last(self) -> Checkpoint | None:
        return self.record.checkpoints[-1] if self.record.checkpoints else None

    @property
    def is_long(self) -> bool:
        """Whether another overlay would be one too many."""
        return len(self.record.files) >= _MOST

    def mark(
        self,
        after: int,
        *,
        is_prepared: bool = False,
        is_sealed: bool = False,
        versions: Mapping[str, str] | None = None,
    ) -> None:
        """What is written so far is the state after step `after`; a later state after the same step replaces it.

        versions: what the steps found.
        """
        found = Checkpoint(after=after, disk=self.top.name, is_prepared=is_prepared, is_sealed=is_sealed)
        earlier = [it for it in self.record.checkpoints if it.after < after or (is_sealed and it.after == after)]
        self._write(checkpoints=(*earlier, found), software={**self.record.software, **(versions or {})})

    def grow(self) -> None:
        """The overlay at `next` is made: from now on it is the one to write to."""
        self._write(files=(*self.record.files, self.next.name))

    def rewind(self, checkpoint: Checkpoint, *, inputs: Mapping[str, str]) -> None:
        """Forget what was written after `checkpoint`, and remove it. inputs: what decides the result from now on."""
        files = self.record.files[: self.record.files.index(checkpoint.disk) + 1]
        kept = self.record.checkpoints[: self.record.checkpoints.index(checkpoint) + 1]
        self._write(files=files, checkpoints=kept, inputs=dict(inputs))
        for path in self.work.glob("disk*.qcow2"):
            if path.name not in files:
                path.unlink()

    def is_to_be_merged(self) -> None:
        """The earlier states go: the lower files are about to be changed; what the top one shows stays."""
        assert self.last is not None
        self._write(checkpoints=(self.last,))

    def is_merged(self) -> None:
        """All is in the lowest file."""
        assert self.last is not None
        bottom = self.record.files[0]
        above = [self.work / name for name in self.record.files[1:]]
        self._write(files=(bottom,), checkpoints=(self.last.model_copy(update={"disk": bottom}),))
        for path in above:
            path.unlink()

    def chain_of(self, checkpoint: Checkpoint) -> list[Path]:
        """The files that hold a checkpoint, nearest first; the parent's are not among them."""
        count = self.record.files.index(checkpoint.disk) + 1
        return [self.work / name for name in reversed(self.record.files[:count])]

    def keep(self) -> None:
        """The build failed: make what is there survive a crash of the host."""
        for name in self.record.files:
            if (self.work / name).exists():
                with (self.work / name).open("rb") as stream:
                    os.fsync(stream.fileno())
        self._write(is_synced=True)

    @property
    def is_whole(self) -> bool:
        """Whether the files are sure to hold what was written: overlays are not synced while they are written."""
        files_are_there = all((self.work / it.disk).is_file() for it in self.record.checkpoints)
        return files_are_there and (self.record.is_synced or self.record.boot == boot_id())

    def _write(self, **changes: object) -> None:
        self.record = self.record.model_copy(update={"is_synced": False, "boot": boot_id(), **changes})
        write_atomically(self.work / FILE, self.record.model_dump_json(indent=1) + "\n")


def boot_id() -> str:
    return _BOOT_ID.read_text(encoding="utf-8").strip() if _BOOT_ID.exists() else ""


def left(store: Store) -> list[Trail]:
    """What failed builds left to go on from or to look at, by image."""
    found = []
    for path in sorted(store.work.glob(f"*/{FILE}")):
        try:
            record = Record.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            continue
        found.append(Trail(path.parent, record))
    return found


def left_of(store: Store, image: str) -> Trail | None:
    trails = [trail for trail in left(store) if trail.record.image == image]
    return trails[-1] if trails else None

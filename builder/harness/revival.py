"""A bundle opened again: clones whose disks are those that a failed test left."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Literal

from builder import clones, preflight
from builder.clones import holds
from builder.errors import ConfigError, ToolError, VerifyError
from builder.frozen import Frozen
from builder.harness.evidence import Bundle, Kept, read
from builder.preflight.kvm import Accelerator
from builder.progress import Reporter
from builder.store import Store
from builder.tools import qcow2, qemu_img
from builder.tools.libvirt import Connection

# Of a clone's name, which takes 40 characters, for the test; its role comes after.
_TEST_CHARACTERS = 22


class Revived(Frozen):
    """A clone of a bundle. why_not: why it does not answer on SSH, None if it does or nobody asked."""

    name: str
    role: str
    image: str
    port: int
    why_not: str | None = None


class Revival:
    """Opens bundles. images: folder of installed images; builds: of the project, where there is one."""

    def __init__(
        self,
        *,
        state: Path,
        images: Path,
        builds: Store | None,
        connection: Connection,
        accelerator: Accelerator,
        reporter: Reporter,
    ) -> None:
        self._state = state
        self._images = images
        self._builds = builds
        self._connection = connection
        self._accelerator = accelerator
        self._reporter = reporter

    def orders(self, place: Path, *, key: Path | None = None) -> list[tuple[Kept, clones.Order]]:
        """What would be made. Raises ConfigError without a disk in the bundle, or without its image on this host."""
        bundle = read(place)
        machines = [one for one in bundle.machines if one.disk and (place / one.disk).is_file()]
        if not machines:
            raise ConfigError(
                f"the bundle {place} has no disk", try_next="golden test --keep-fail all, for the next failure"
            )
        return [(one, self._order(one, bundle, key or bundle.key)) for one in machines]

    def _order(self, one: Kept, bundle: Bundle, key: Path | None) -> clones.Order:
        source = self._source(one)
        kind: Literal["kvm", "tcg"] = self._accelerator.kind_for(source.build.arch)
        return clones.Order(
            name=name_of(bundle.test, one.role),
            source=source,
            memory_mib=one.memory_mib,
            cpus=one.cpus,
            accelerator=kind,
            key=key,
        )

    def _source(self, one: Kept) -> clones.Source:
        """The image as it is installed or built; where it is not any more, as the bundle holds it."""
        held = holds.find(self._state, one.image)
        try:
            source = clones.locate(one.image.image, one.image.version, images=self._images, builds=self._builds)
            if source.build.id != one.image:
                raise VerifyError(
                    f"'{one.image.stem}' is not the image that the bundle's disk stands on",
                    details=[("expected", f"sha256 {one.image.sha256}"), ("found", f"sha256 {source.build.id.sha256}")],
                )
        except (ConfigError, VerifyError):
            if held is None:
                raise
            return held
        return source

    def open(self, place: Path, *, key: Path | None, is_waited: bool) -> list[Revived]:
        """Make and start the clones. One that does not answer stays: it may be what is to be looked at.

        The bundle itself is only read. Raises ConfigError, HostError, ToolError or VerifyError; then none is left.
        """
        wanted = self.orders(place, key=key)
        preflight.need_reach(self._state, self._connection)
        made = clones.make(
            [order for _, order in wanted], state=self._state, connection=self._connection, reporter=self._reporter
        )
        try:
            for (one, order), lease in zip(wanted, made, strict=True):
                self._give_disk(place / one.disk, lease)
                clones.start(
                    order.name, state=self._state, connection=self._connection, reporter=self._reporter, is_cold=True
                )
        except BaseException:
            for lease in made:
                clones.destroy(lease.name, state=self._state, connection=self._connection)
            raise
        return [self._revived(one, order.name, is_waited=is_waited) for one, order in wanted]

    def _give_disk(self, disk: Path, lease: clones.Lease) -> None:
        """The clone's empty overlay gives way to a copy of `disk`, on the image file that the clone holds."""
        folder = clones.directory(self._state, lease.name)
        aside = folder / ".revived.part"
        shutil.copyfile(disk, aside)
        pins = [pin.path for pin in lease.pins]
        qemu_img.info(aside)  # refuses one that keeps its data in another file, before qemu-img opens that
        qemu_img.rebase(aside, pins[0])
        qcow2.verify_chain(aside, pins)
        aside.replace(folder / "disk.qcow2")

    def _revived(self, one: Kept, name: str, *, is_waited: bool) -> Revived:
        lease = clones.find(self._state, name)
        why_not = None
        if is_waited:
            limit_s = clones.BOOT_TIMEOUT_S * self._accelerator.time_factor
            with self._reporter.step(f"boot {name}") as step:
                try:
                    clones.wait(
                        lease, state=self._state, connection=self._connection, timeout_s=limit_s, note=step.note
                    )
                except ToolError as error:
                    why_not = error.what
        return Revived(name=name, role=one.role, image=one.image.stem, port=lease.ssh_port, why_not=why_not)


def name_of(test: str, role: str) -> str:
    """The clone's name: what the test is called, and its machine."""
    plain = re.sub(r"[^a-z0-9]+", "-", test.lower()).strip("-")[-_TEST_CHARACTERS:].strip("-")
    return f"{plain or 'test'}-{role[:16].strip('-.')}"

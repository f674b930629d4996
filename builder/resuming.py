"""Checkpoints of a build: set, kept when it fails, and gone on from as far as they hold what the recipe says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from builder import checkpoints
from builder.checkpoints import Checkpoint, Record, Trail
from builder.errors import GoldenError
from builder.frozen import Frozen
from builder.input_changes import changes, in_short
from builder.inputs import decided_by
from builder.layer import Phase
from builder.model import Build, Image, ImageId, Project
from builder.plan import Planned, content_key
from builder.store import Store
from builder.tools import qemu_img


class Machine(Protocol):
    """One that runs: a guest, or libguestfs' appliance."""

    def switch_to(self, file: Path) -> None: ...


@dataclass(frozen=True)
class Start:
    """Where one build begins. planned: with the inputs that decide its result then. said: what a person should know."""

    planned: Planned
    trail: Trail
    said: str = ""

    def phases(self, all_phases: Sequence[Phase]) -> list[Phase]:
        """What is left to do."""
        return remaining(all_phases, self.trail.last)


def begin(project: Project, store: Store, planned: Planned, *, parent: Build | None, is_resumed: bool) -> Start:
    """A new work folder, or that of a failed build, taken back to its last good checkpoint.

    What earlier failed builds left goes, unless it is gone on from.
    """
    image, old = project.images[planned.image], checkpoints.left_of(store, planned.image) if is_resumed else None
    said = ""
    if old is not None:
        found = find(project, image, planned.inputs, parent=parent.id if parent else None, trail=old)
        if found.checkpoint is not None:
            old.rewind(found.checkpoint, inputs=found.inputs)
            done = after(image, found.checkpoint)
            update = {"inputs": found.inputs, "key": content_key(found.inputs), "why": f"{planned.why}, after {done}"}
            return Start(planned.model_copy(update=update), old, said=f"{old.record.version} goes on after {done}")
        said = f"built anew, not from a checkpoint: {found.reason}"
    elif is_resumed:
        said = "no failed build has left a checkpoint; it is built anew"
    version = store.next_version(planned.image)
    store.discard_failed(planned.image)
    record = Record(image=planned.image, version=version, parent=parent.id if parent else None, inputs=planned.inputs)
    return Start(planned, Trail(store.workspace(planned.image, version), record), said=said)


def keep(start: Start, image: Image, error: GoldenError) -> None:
    """The build failed: what is good of it is kept, and the error says how to go on."""
    trail = start.trail
    if trail.last is None and trail.record.parent is None:
        error.try_next = error.try_next or f"golden build {image.name}  once the cause is mended"
        return
    trail.keep()
    if trail.last is None:
        error.try_next = error.try_next or (
            f"golden shell {image.name}  to look around in its parent; "
            f"golden build {image.name}  once the cause is mended"
        )
        return
    error.details.append(("checkpoint", f"the state after {after(image, trail.last)}"))
    error.try_next = error.try_next or (
        f"golden shell {image.name}  to look around in that state; golden resume {image.name}  once the cause is mended"
    )


def after(image: Image, checkpoint: Checkpoint) -> str:
    """ "step 2: install" """
    if not checkpoint.after:
        return "the installation"
    return f"step {checkpoint.after}: {image.steps[checkpoint.after - 1].kind}"


# --- setting them


def mark_phase(trail: Trail, phase: Phase, *, is_prepared: bool, versions: Mapping[str, str]) -> None:
    """All that the phase did is on the disk, and nobody is at work on it."""
    before = trail.last.after if trail.last else 0
    number = phase.steps[-1][0] if phase.steps else before
    trail.mark(number, is_prepared=is_prepared, is_sealed=phase.is_last, versions=versions)
    if not phase.is_last:
        grow(trail)


def grow(trail: Trail) -> None:
    """What is there stays as it is; from now on an overlay of it is written to. No machine may be at work on it."""
    qemu_img.create_overlay(trail.next, trail.top)
    trail.grow()


def switch(trail: Trail, number: int, machine: Machine, versions: Mapping[str, str]) -> None:
    """As `grow`, under a running machine, after its step `number`. versions: what its steps found so far."""
    if trail.is_long:
        return
    machine.switch_to(trail.next)
    trail.mark(number, is_prepared=True, versions=versions)
    trail.grow()


def merge(trail: Trail, *, log: Path, timeout_s: float) -> None:
    """One overlay of the parent again: what is sealed does not tell how many checkpoints there were."""
    bottom = trail.work / trail.record.files[0]
    trail.is_to_be_merged()
    qemu_img.merge(trail.top, bottom, log=log, timeout_s=timeout_s)
    trail.is_merged()


# --- going on from them


class Found(Frozen):
    """checkpoint: None if there is none to go on from, and `reason` says why. inputs: what decides the result then."""

    checkpoint: Checkpoint | None
    reason: str
    inputs: dict[str, str]


def find(project: Project, image: Image, inputs: Mapping[str, str], *, parent: ImageId | None, trail: Trail) -> Found:
    """The newest checkpoint before which nothing of the recipe changed. inputs, parent: of the build as planned now."""
    record = trail.record
    if not trail.is_whole:
        return _none(inputs, "this machine went down since, or its files are gone")
    if parent != record.parent:
        before, now = (it.stem if it else "none" for it in (record.parent, parent))
        return _none(inputs, f"it stands on {before}, and the newest is {now}")
    reason = "no step was finished"
    for checkpoint in reversed(record.checkpoints):
        wanted = _with_its_packages(image, inputs, record.inputs, after=checkpoint.after)
        old, new = (decided_by(project, image, checkpoint.after + 1, it) for it in (record.inputs, wanted))
        if old == new:
            return Found(checkpoint=checkpoint, reason="", inputs=wanted)
        reason = in_short(changes(old, new))
    return _none(inputs, reason)


def remaining(phases: Sequence[Phase], checkpoint: Checkpoint | None) -> list[Phase]:
    """What is left of a recipe's phases after `checkpoint`."""
    if checkpoint is None:
        return list(phases)
    found = []
    for phase in phases:
        steps = tuple(step for step in phase.steps if step[0] > checkpoint.after)
        prepares = phase.prepares and not checkpoint.is_prepared
        if steps or prepares or (phase.is_last and not checkpoint.is_sealed):
            found.append(phase.model_copy(update={"steps": steps, "prepares": prepares}))
    return found


def _none(inputs: Mapping[str, str], reason: str) -> Found:
    return Found(checkpoint=None, reason=reason, inputs=dict(inputs))


def _with_its_packages(
    image: Image, inputs: Mapping[str, str], recorded: Mapping[str, str], *, after: int
) -> dict[str, str]:
    """What package repositories held when their packages were taken, unless some are still to be taken."""
    if any(step.uses_repositories for number, step in enumerate(image.steps, 1) if number > after):
        return dict(inputs)
    return {
        name: recorded.get(name, value) if name.startswith("repository ") else value for name, value in inputs.items()
    }

"""Going on from a checkpoint: which one still holds what the recipe says, and what is left to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from builder.checkpoints import Checkpoint, Trail
from builder.frozen import Frozen
from builder.input_changes import changes, in_short
from builder.inputs import decided_by
from builder.layer import Phase
from builder.model import Image, ImageId, Project


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

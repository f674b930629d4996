"""Why a clone boots although memory of its image is saved: what differs, in one line."""

from __future__ import annotations

from pathlib import Path

from builder.clones import saved
from builder.clones.leases import Lease
from builder.clones.saved import Circumstances, Saved

# In the order in which people look for the cause. The image is the same in all that is compared.
_SHOWN = {
    "qemu": "QEMU {} → {}",
    "libvirt": "libvirt {} → {}",
    "kernel": "kernel {} → {}",
    "machine": "machine type {} → {}",
    "accelerator": "accelerator {} → {}",
    "firmware": "firmware {} → {}",
    "memory_mib": "memory {} → {} MiB",
    "cpus": "CPUs {} → {}",
    # Of these a digest is kept, which tells nobody anything.
    "cpu": "another processor",
    "host": "another host",
    "agent": "another golden",
}


def explain(lease: Lease, wanted: Circumstances, *, state: Path) -> str | None:
    """What keeps the clone from going on from saved memory; None if no memory of its very image is saved.

    Asked only where nothing fits: it reads what is said of each saved memory. Of several the most alike is named.
    """
    same = [found for _, found in saved.all_saved(state) if found.circumstances.image == wanted.image]
    if not same:
        return None
    if (reason := saved.why_not(lease)) is not None:
        return f"memory of {same[0].stem} is saved, but {reason}"
    nearest = min(same, key=lambda found: len(_differing(found, wanted)))
    differing = _differing(nearest, wanted)
    if not differing:
        return None  # it has just been saved
    return f"memory of {nearest.stem} is saved, but it does not fit: {', '.join(differing)}"


def _differing(found: Saved, wanted: Circumstances) -> list[str]:
    """As saved → as wanted."""
    was, now = found.circumstances.model_dump(), wanted.model_dump()
    return [text.format(was[field], now[field]) for field, text in _SHOWN.items() if was[field] != now[field]]

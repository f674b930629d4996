"""Which images may be at work beside each other: by their machines' memory, and the room on the disk."""

from __future__ import annotations

from collections.abc import Sequence

from builder.units import GIB

# What a job takes beside its machine's memory: golden, QEMU, and the page cache that makes them bearable.
_OVERHEAD_MIB = 512
# libguestfs' appliance, where that is more than the machine. Source: guestfs(3), "guestfs_get_memsize", its default.
_APPLIANCE_MIB = 1280
# Left alone.
_RESERVE_MIB = 1024
_ROOM_BYTES = 4 * GIB


def job_mib(memory_mib: int) -> int:
    """What building or verifying an image takes, by its machine's declared memory."""
    return max(memory_mib, _APPLIANCE_MIB) + _OVERHEAD_MIB


def admits(at_work_mib: Sequence[int], wanted_mib: int, *, total_mib: int, jobs: int, room_bytes: int) -> bool:
    """Whether another job may start beside those at work. Alone, any may: it is tried, and fails by itself if it must.

    total_mib: free when nothing was at work. room_bytes: free on the store's disk.
    """
    if not at_work_mib:
        return True
    fits = sum(at_work_mib) + wanted_mib <= total_mib - _RESERVE_MIB
    return fits and len(at_work_mib) < jobs and room_bytes >= _ROOM_BYTES * (len(at_work_mib) + 1)

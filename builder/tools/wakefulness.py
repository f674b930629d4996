"""Processors that wake up at once, while somebody waits for programs that talk to each other all the time."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

_REQUEST = Path("/dev/cpu_dma_latency")


@contextlib.contextmanager
def awake() -> Iterator[None]:
    """Keep idle processors from sleeping deeply inside the block, for seconds at most; for root alone, else nothing.

    libvirt asks QEMU hundreds of questions at a start, one after the other, and each answer wakes somebody up.
    Source: the kernel's documentation, power/pm_qos_interface; the request goes with the open file.
    """
    try:
        request = os.open(_REQUEST, os.O_RDWR)
    except OSError:
        yield
        return
    try:
        os.write(request, struct.pack("i", 0))
        yield
    finally:
        os.close(request)

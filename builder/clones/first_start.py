"""The first start of an image on a host: it is booted once and its memory is saved, and its clones go on from that.

STATE/clones/.warm/KEY.refused    its memory could not be saved; why. Not tried again by itself for a week

So the first clone waits for a boot and until the guest is idle; all others, by whichever process, wait for neither.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from builder.clones import orders, saved, warm
from builder.clones.memory import Capacity
from builder.clones.orders import Order
from builder.errors import GoldenError, HostError
from builder.progress import Reporter
from builder.tools.libvirt import Connection

_REFUSED, _REFUSED_S = ".refused", 7 * 24 * 3600.0


def prepare(
    order: Order,
    *,
    state: Path,
    connection: Connection,
    reporter: Reporter,
    boot_timeout_s: float,
    capacity: Capacity | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Save the memory of the order's image, if there is none and it can be.

    What goes wrong is told, and no error: the clone boots. What the image is to blame for is remembered.
    is_stopped: whether to give up.
    """
    plain = orders.lease(order, (), (), uri=connection.uri, place=state)
    key = saved.circumstances(plain, connection).key
    if order.key is None or saved.why_not(plain) is not None:
        return
    if (saved.folder(state) / key / "warm.json").exists() or _is_refused(state, key):
        return
    try:
        warm.prepare(
            order,
            state=state,
            connection=connection,
            reporter=reporter,
            boot_timeout_s=boot_timeout_s,
            capacity=capacity,
            is_stopped=is_stopped,
        )
    except GoldenError as error:
        if is_stopped():
            return
        reporter.note(f"the memory of {order.source.build.stem} could not be saved; its clones boot: {error.what}")
        if not isinstance(error, HostError):  # a host may have room tomorrow
            refusal = _refusal(state, key)
            refusal.parent.mkdir(parents=True, exist_ok=True)
            refusal.write_text(f"{error.what}\n", encoding="utf-8")


def prepare_as_asked(
    order: Order,
    *,
    state: Path,
    connection: Connection,
    reporter: Reporter,
    boot_timeout_s: float,
    capacity: Capacity | None = None,
) -> bool:
    """Save the memory of the order's image if that was not done, because somebody asks for it.

    False, with a word, if a clone like this one has to boot whatever is saved. Raises what `warm.prepare` raises.
    """
    if (reason := saved.why_not(orders.lease(order, (), (), uri=connection.uri, place=state))) is not None:
        reporter.note(
            f"clones of {order.source.build.stem} boot: a machine like this cannot go on from memory: {reason}"
        )
        return False
    warm.prepare(
        order,
        state=state,
        connection=connection,
        reporter=reporter,
        boot_timeout_s=boot_timeout_s,
        capacity=capacity,
    )
    return True


def forget(state: Path, *, older_than_s: float = 0) -> None:
    """Remove what is remembered, or what is older than so many seconds."""
    for mark in saved.folder(state).glob(f"*{_REFUSED}"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - mark.stat().st_mtime >= older_than_s:
                mark.unlink()


def _is_refused(state: Path, key: str) -> bool:
    try:
        return time.time() - _refusal(state, key).stat().st_mtime < _REFUSED_S
    except FileNotFoundError:
        return False


def _refusal(state: Path, key: str) -> Path:
    return saved.folder(state) / f"{key}{_REFUSED}"

"""Warm starts by themselves: an image that is started again has its memory saved, and goes on from it ever after.

STATE/clones/.warm/KEY.answered   a clone in these circumstances has booted here, and answered
                   KEY.refused    its memory could not be saved; why. Not tried again by itself for a week

The first start boots: nobody knows yet whether there will be a second one. That one waits for the memory to be
saved, which costs a boot and the time until the guest is idle; all others, by whichever process, go on from it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from builder.clones import orders, saved, warm
from builder.clones.leases import Lease
from builder.clones.memory import Capacity
from builder.clones.orders import Order
from builder.errors import GoldenError
from builder.progress import Reporter
from builder.tools.libvirt import Connection

_REFUSED_S = 7 * 24 * 3600.0


def prepare_again(
    order: Order,
    *,
    state: Path,
    connection: Connection,
    reporter: Reporter,
    boot_timeout_s: float,
    capacity: Capacity | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Save the memory of the order's image, if one like it has answered here before and there is none.

    What goes wrong is told, remembered, and no error: the clone boots. is_stopped: whether to give up.
    """
    plain = orders.lease(order, (), (), uri=connection.uri, place=state)
    key = saved.circumstances(plain, connection).key
    if order.key is None or saved.why_not(plain) is not None or not _mark(state, key, "answered").exists():
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
        if not is_stopped():
            reporter.note(f"the memory of {order.source.build.stem} could not be saved; its clones boot: {error.what}")
            _mark(state, key, "refused").write_text(f"{error.what}\n", encoding="utf-8")


def prepare_now(
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


def remember(lease: Lease, *, state: Path, connection: Connection) -> None:
    """That a clone has booted and answered: from now on it pays to save the memory of its image."""
    if lease.warm is None and saved.why_not(lease) is None:
        mark = _mark(state, saved.circumstances(lease, connection).key, "answered")
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def forget(state: Path, *, older_than_s: float = 0) -> None:
    """Remove what is remembered, or what is older than so many seconds."""
    for kind in ("answered", "refused"):
        for mark in saved.folder(state).glob(f"*.{kind}"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - mark.stat().st_mtime >= older_than_s:
                    mark.unlink()


def _is_refused(state: Path, key: str) -> bool:
    try:
        return time.time() - _mark(state, key, "refused").stat().st_mtime < _REFUSED_S
    except FileNotFoundError:
        return False


def _mark(state: Path, key: str, kind: str) -> Path:
    return saved.folder(state) / f"{key}.{kind}"

"""Machines for tests until they answer: what ends the wait, and a host's hiccup, after which they boot once more."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed

from builder.errors import ToolError
from builder.harness.guest import Guest
from builder.harness.watch import HICCUP
from builder.tools import libvirt, ssh
from builder.tools.console import Console, Patterns

# For a machine that met a hiccup of its host's.
TRIES = 3


def wait_for_all(
    guests: Mapping[str, Guest],
    connection: libvirt.Connection,
    *,
    limit_s: float,
    fatal: Patterns,
    is_stopped: Callable[[], bool],
) -> None:
    """Until all answer. The first that will not, or an interrupt, ends the wait for the others, too."""
    given_up = threading.Event()

    def is_over() -> bool:
        return given_up.is_set() or is_stopped()

    with ThreadPoolExecutor(max_workers=max(1, len(guests))) as pool:
        waits = [
            pool.submit(_wait, guest, connection, limit_s=limit_s, fatal=fatal, is_stopped=is_over)
            for guest in guests.values()
        ]
        try:
            for wait in as_completed(waits):
                wait.result()
        except BaseException:
            given_up.set()
            raise


def start_again(guest: Guest, connection: libvirt.Connection) -> None:
    """Its console begins anew: what it said before is of a boot that does not count."""
    guest.is_up = False
    domain = connection.find(f"golden-{guest.address.clone}")
    if domain is not None:
        domain.destroy()
        with contextlib.suppress(FileNotFoundError):
            os.truncate(guest.address.console, 0)
        domain.start()


def _wait(
    guest: Guest,
    connection: libvirt.Connection,
    *,
    limit_s: float,
    fatal: Patterns,
    is_stopped: Callable[[], bool],
) -> float:
    """Seconds until SSH answered. A console that says that it never will ends the wait at once."""
    begin = time.monotonic()
    for remaining in reversed(range(TRIES)):
        console = Console(guest.address.console, fatal)
        try:
            _wait_once(guest, connection, console, limit_s=limit_s, is_stopped=is_stopped)
            break
        except ToolError as error:
            console.poll()
            line = console.fatal.line if console.fatal else ""
            if HICCUP in line and remaining and not is_stopped():
                start_again(guest, connection)
                continue
            said = f"{console.fatal.kind}: {line}" if console.fatal else error.what
            error.what = f"{guest.name} ({guest.image}) did not boot: {said}"
            error.details.append(("after", f"{time.monotonic() - begin:.0f} s"))
            error.details.append(("console", console.tail() or "(it said nothing)"))
            raise
    return time.monotonic() - begin


def _wait_once(
    guest: Guest,
    connection: libvirt.Connection,
    console: Console,
    *,
    limit_s: float,
    is_stopped: Callable[[], bool],
) -> None:
    domain = connection.find(f"golden-{guest.address.clone}")

    def is_alive() -> bool:
        console.poll()
        return console.fatal is None and domain is not None and domain.is_alive() and not is_stopped()

    ssh.wait_until_answers(
        guest.target,
        timeout_s=limit_s,
        is_alive=is_alive,
        note=lambda _: None,
        is_up=guest.is_up,
        login=guest.login,
    )

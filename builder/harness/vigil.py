"""Machines followed while tests run on them that nobody here carries out: pytest's."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from builder.errors import GoldenError
from builder.harness.guest import Guest
from builder.tools import libvirt
from builder.tools.console import GUEST_FATAL, Console, Patterns

_EVERY_S = 1.0


class Vigil:
    """Reads the consoles of machines inside the block, and switches a dead one off.

    So a command that waits for it ends, instead of waiting for the limit of its connection.
    """

    def __init__(self, guests: Iterable[Guest], *, fatal: Patterns = GUEST_FATAL) -> None:
        self._consoles = [(guest, Console(guest.address.console, fatal)) for guest in guests]
        self._deaths: dict[str, str] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def why(self, guest: Guest) -> str | None:
        """What it died of, as its console has it at this moment; None if it lives, or is none of these."""
        self._look()
        return self._deaths.get(guest.address.clone)

    def _follow(self) -> None:
        while not self._over.wait(_EVERY_S):
            self._look()

    def _look(self) -> None:
        with self._lock:
            for guest, console in self._consoles:
                console.poll()
                if console.fatal is not None and guest.address.clone not in self._deaths:
                    said = f"{guest.name} ({guest.image}) is dead: {console.fatal.kind}: {console.fatal.line}"
                    self._deaths[guest.address.clone] = said
                    _switch_off(guest)


def _switch_off(guest: Guest) -> None:
    with contextlib.suppress(GoldenError), libvirt.connect() as connection:
        domain = connection.find(f"golden-{guest.address.clone}")
        if domain is not None:
            domain.destroy()

"""Seeing that a guest is dead while a test runs on it, in seconds and not at the limit."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Literal

from builder.harness.guest import Guest
from builder.harness.outcome import Cause
from builder.tools import libvirt
from builder.tools.console import GUEST_FATAL, Console, Patterns

# What no test goes on after. Not a soft lockup: without an accelerator a busy host makes those by itself.
# Source: Linux, arch/x86/mm/fault.c.
_FATAL: Patterns = (
    *GUEST_FATAL,
    (
        "the kernel met a bug of its own",
        re.compile(r"BUG: (unable to handle|kernel NULL pointer)|Oops: \d{4}|kernel BUG at "),
    ),
    ("the guest's disk fails", re.compile(r"Buffer I/O error on dev(ice)? [sv]d|EXT4-fs error|XFS .*: Corruption")),
)

# With these a guest that hangs panics, by the kernel's own timer, and a panic ends it. Some kernels lack the first.
# Source: Linux, Documentation/admin-guide/sysctl/kernel.rst.
HARDENING = (
    "for setting in hung_task_panic=1 panic_on_oops=1 panic=-1; do "
    'sysctl -qw "kernel.$setting" 2>/dev/null || true; done'
)

# A panic ends its machine before the last of its console is written down.
_CONSOLE_GRACE_S = 5.0
_EVERY_S = 0.5


# Before a guest has read a byte of its disk: a host too busy to run it on time, under emulation. It is no fault of the
# image's, and does not come twice. Source: Linux, arch/x86/kernel/apic/io_apic.c, check_timer.
HICCUP = "IO-APIC + timer doesn't work"


class Lost(Exception):
    """A machine is of no use any more. Not an error of golden's: it is what became of the test."""

    def __init__(self, cause: Cause, why: str) -> None:
        super().__init__(why)
        self.cause = cause
        self.why = why


def patterns(more: Iterable[str]) -> Patterns:
    """golden's fatal patterns and those of a test."""
    return (*_FATAL, *((f"the console said what the test calls fatal, /{text}/", re.compile(text)) for text in more))


class Watch:
    """To be called while something runs; raises Lost once a console or libvirt says that it is no use."""

    def __init__(
        self,
        guests: Mapping[str, Guest],
        connection: libvirt.Connection,
        *,
        fatal: Patterns,
        stop: threading.Event,
        may_end: bool = False,
    ) -> None:
        """may_end: a machine that switches itself off has done what it should."""
        self._consoles = {name: Console(guest.address.console, fatal) for name, guest in guests.items()}
        self._domains = {name: connection.find(f"golden-{guest.address.clone}") for name, guest in guests.items()}
        self._stop = stop
        self._may_end = may_end
        self._next = 0.0
        self._begin = time.monotonic()

    def __call__(self) -> None:
        if self._stop.is_set():
            raise Lost("stopped", "interrupted")
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _EVERY_S
        for name, console in self._consoles.items():
            console.poll()
            self._look(name, console)
            domain = self._domains[name]
            if domain is None or not domain.is_alive():
                self._let_it_speak(name, console)
                if not self._may_end or _ending(console) == "restart":
                    raise self._gone(name, console)

    def look_closely(self, patience_s: float) -> None:
        """For as long as that, as a connection breaks before libvirt knows that its machine is off."""
        end = time.monotonic() + patience_s
        while True:
            self._next = 0.0
            self()
            if time.monotonic() >= end:
                return
            time.sleep(0.2)

    def is_over(self) -> bool:
        """Whether all machines are off. Raises Lost for one that is because its guest restarted."""
        is_over = all(domain is None or domain.is_off() for domain in self._domains.values())
        if is_over:
            self._next = 0.0
        self()
        return is_over

    def _look(self, name: str, console: Console) -> None:
        if console.fatal is not None:
            cause: Cause = "panic"
            seconds = time.monotonic() - self._begin
            raise Lost(cause, f"{name}: {console.fatal.kind} after {seconds:.0f} s: {console.fatal.line}")

    def _let_it_speak(self, name: str, console: Console) -> None:
        end = time.monotonic() + _CONSOLE_GRACE_S
        while time.monotonic() < end:
            console.poll()
            self._look(name, console)
            if self._may_end and _ending(console) is not None:
                return
            time.sleep(0.2)

    def _gone(self, name: str, console: Console) -> Lost:
        ending = _ending(console)
        if ending == "restart":
            return Lost("restart", f"{name}: the guest restarted by itself; may_reboot = true allows it")
        if ending == "off":
            return Lost("gone", f"{name}: the guest switched itself off")
        return Lost("gone", f"{name}: the machine went off; its console's last line: {console.last_line}")


def _ending(console: Console) -> Literal["restart", "off"] | None:
    """How the kernel said that it ends, the last time that it did. Source of the lines: Linux, kernel/reboot.c."""
    for line in reversed(console.tail().splitlines()):
        if "reboot: Restarting system" in line:
            return "restart"
        if "reboot: Power down" in line or "reboot: System halted" in line:
            return "off"
    return None

"""Reading a guest's serial console while it runs: its lines, and which of them mean that it will never get there."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|[()][0-9A-B]|[=>78cMHDE]|\][^\x07\x1b]*(\x07|\x1b\\))")
_LONGEST_LINE = 4096

# In the user's words -> what a console says then.
Patterns = tuple[tuple[str, re.Pattern[str]], ...]

# What a console says, and what that means in the user's words. Anaconda's texts are from its sources
# (pyanaconda/kickstart.py, ui/tui, errors.py); tmux says "Pane is dead" when the installer in it has ended.
FATAL: Patterns = (
    ("the kernel panicked", re.compile(r"Kernel panic - not syncing")),
    ("the installer crashed", re.compile(r"Traceback \(most recent call last\)|[Pp]ane is dead")),
    ("a disk of the guest is full", re.compile(r"No space left on device|[Nn]ot enough (free )?(disk )?space")),
    (
        "the installer refused the kickstart",
        re.compile(r"problem occurred on line \d+ of the kickstart file|[Uu]nknown command: |KickstartParseError"),
    ),
    (
        "a script of the kickstart failed",
        re.compile(r"error (code \d+ )?(running|executing|occurred while executing) the (kickstart )?script", re.I),
    ),
    (
        "the installation failed",
        re.compile(r"The following error occurred while installing|The installation was stopped due to an error", re.I),
    ),
    (
        "the installer waits for somebody to answer",
        re.compile(
            r"Please make (a|your) (selection|choice)|Please respond 'yes' or 'no'|[Pp]ress ENTER to (continue|quit)"
        ),
    ),
    (
        "the guest came no further than its emergency shell",
        re.compile(r"Entering emergency mode|You are in emergency mode|Press Enter for maintenance|Give root password"),
    ),
)


# Of a guest that runs, or boots: what its services print, even a traceback or a full disk, ends nothing. Sources:
# Linux, kernel/panic.c; systemd, emergency.service and sulogin-shell.c; Debian's initramfs-tools, functions; SeaBIOS,
# boot.c; GRUB, rescue mode; glibc, sysdeps/x86/cpu-features.c.
GUEST_FATAL: Patterns = (
    ("the kernel panicked", re.compile(r"Kernel panic - not syncing")),
    (
        "the guest came no further than its emergency shell",
        re.compile(
            r"Entering emergency mode|You are in emergency mode|Cannot open access to console, the root account"
        ),
    ),
    ("the guest did not find its root file system", re.compile(r"ALERT!.* does not exist|Dropping to a shell!")),
    (
        "the guest found nothing to boot from",
        re.compile(r"No bootable device|grub rescue>|Boot failed: not a bootable disk"),
    ),
    ("the guest's C library refuses this processor", re.compile(r"Fatal glibc error: CPU does not support")),
)


@dataclass(frozen=True)
class Fatal:
    """A line after which waiting is no use. kind: in the user's words, "the kernel panicked"."""

    kind: str
    line: str


def find_fatal(line: str, patterns: Patterns = FATAL) -> Fatal | None:
    for kind, pattern in patterns:
        if pattern.search(line):
            return Fatal(kind, line)
    return None


def _clean(line: str) -> str:
    """What may be shown at a terminal: nothing in it moves the cursor, or says that it is another's."""
    return "".join(c for c in _ESCAPES.sub("", line) if c.isprintable()).strip()


class Console:
    """Follows the log of one serial console. Nothing is read before it exists; rotation by virtlogd is followed.

    patterns: of lines that mean failure; those of an installation unless told. fatal: the first such line, or None.
    silent_s: seconds since the console last said something.
    """

    def __init__(self, log: Path, patterns: Patterns = FATAL) -> None:
        self.log = log
        self._patterns = patterns
        self.fatal: Fatal | None = None
        self.last_line = ""
        self._offset = 0
        self._inode = 0
        self._partial = ""
        self._recent: list[str] = []
        self._last_byte = time.monotonic()

    @property
    def silent_s(self) -> float:
        return time.monotonic() - self._last_byte

    def poll(self) -> list[str]:
        """The complete lines since the last call, escape sequences taken out."""
        text = self._read()
        if not text:
            return []
        self._last_byte = time.monotonic()
        *lines, self._partial = re.split(r"[\r\n]+", self._partial + text)
        self._partial = self._partial[-_LONGEST_LINE:]
        # A question stands at the end of the text without a line's end: look at what is there so far as well.
        self._look(self._partial)
        return [clean for line in lines if (clean := self._take(line))]

    def _take(self, line: str) -> str:
        clean = _clean(line)
        if clean:
            self.last_line = clean
            self._recent = [*self._recent[-200:], clean]
            self._look(clean)
        return clean

    def _look(self, line: str) -> None:
        if self.fatal is None:
            self.fatal = find_fatal(_ESCAPES.sub("", line), self._patterns)

    def tail(self, lines: int = 20) -> str:
        """The last lines, for an error's text; below the fatal line if there is one."""
        recent = [*self._recent, _clean(self._partial)] if _clean(self._partial) else self._recent
        begin = next((n for n, line in enumerate(recent) if find_fatal(line, self._patterns)), None)
        if begin is None or len(recent) - begin <= lines:
            return "\n".join(recent[-lines:] if begin is None else recent[begin:])
        return "\n".join([recent[begin], "…", *recent[2 - lines :]])

    def _read(self) -> str:
        try:
            status = self.log.stat()
        except FileNotFoundError:
            return ""
        if status.st_ino != self._inode or status.st_size < self._offset:
            self._inode, self._offset = status.st_ino, 0
        if status.st_size == self._offset:
            return ""
        with self.log.open("rb") as stream:
            stream.seek(self._offset)
            data = stream.read()
            self._offset = stream.tell()
        return data.decode(errors="replace")

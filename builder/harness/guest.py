"""A machine as a test sees it: commands, files, a testinfra host, and what it had to say when something went wrong."""

from __future__ import annotations

import functools
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from builder import run
from builder.errors import ToolError
from builder.frozen import Frozen
from builder.tools import scp, ssh

if TYPE_CHECKING:
    from testinfra.host import Host

# Of a journal that a guest filled, this much is kept.
JOURNAL_LINES = 4000

_QUESTION_S = 120.0

# Where a guest in user mode finds this host's loopback, and with it the ports of the other machines.
# Source: qemu(1), "-netdev user".
GATEWAY = "10.0.2.2"
_SSH = 22


class Ended(Frozen):
    """A command that ended. output: both streams, as they came."""

    status: int
    output: str


class Address(Frozen):
    """A running machine, as far as another process needs to know it. name: its role, "engine" or "host0".

    clone: what `golden clone` knows it by. image: IMAGE@VERSION. console: the log of its serial console.
    forwards: port of the machine -> port of this host's loopback. lan_mac: of its card on the LAN of its deployment.
    """

    name: str
    clone: str
    image: str
    port: int
    key: Path
    console: Path
    host: str = "127.0.0.1"
    forwards: dict[int, int] = Field(default_factory=dict)
    lan_mac: str | None = None

    @property
    def target(self) -> ssh.Target:
        return ssh.Target(port=self.port, key=self.key, host=self.host)


class Guest:
    """One machine of a test. host: a testinfra host; all else is for what testinfra has no words for.

    login: one that golden's own errands go along with, if there is one. is_up: whether it was up before golden asked:
    it went on from memory, or waited in a pool.
    """

    def __init__(self, address: Address, *, login: ssh.Login | None = None, is_up: bool = False) -> None:
        self.address = address
        self.login = login
        self.is_up = is_up
        self.name = address.name
        self.image = address.image
        self.target = address.target

    def __repr__(self) -> str:
        return f"<Guest {self.name}: {self.image} at port {self.address.port}>"

    @functools.cached_property
    def host(self) -> Host:
        """A testinfra host over SSH. Source: testinfra.readthedocs.io, "Connection backends"."""
        import testinfra

        words = ["-F", "/dev/null", *ssh.identity(self.target.key), *(w for it in ssh.OPTIONS for w in ("-o", it))]
        return testinfra.get_host(
            f"ssh://{self.target.user}@{self.target.host}:{self.target.port}",
            # It becomes part of a line for a shell as it is.
            ssh_extra_args=shlex.join(map(str, words)),
        )

    def place_of(self, port: int) -> tuple[str, int]:
        """Host and port at which the other machines reach a port of this one; those of user-mode networks all do.

        Raises KeyError for a port that was not asked for when the machine was made.
        """
        return GATEWAY, self.address.port if port == _SSH else self.address.forwards[port]

    def run(self, *words: str, timeout_s: float = _QUESTION_S) -> str:
        """The standard output of a command there. Raises ToolError, with what it said, unless it ends with 0."""
        return run.query(ssh.command(self.target, *words), why=f"run {words[0]!r} on {self.name}", timeout_s=timeout_s)

    def fetch(self, remote: str, local: Path) -> Path:
        """Copy a file or folder of the machine's to `local`, and return that. Raises ToolError."""
        scp.fetch(self.target, remote, local)
        return local

    def send(self, local: Path, remote: str) -> None:
        """Copy a file or folder to the machine. Raises ToolError."""
        scp.send(self.target, local, remote)

    @property
    def errands(self) -> ssh.Target:
        """For what golden itself wants of it, as little as possible being done there."""
        return self.login.target if self.login else self.target

    def settle(self) -> None:
        """What it has written is on its disk, as far as it is still able to see to that."""
        self._ask("sync")

    def console(self) -> str:
        """All that its serial console has said."""
        path = self.address.console
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def journal(self) -> str:
        """The end of its journal, or why there is none: a dead machine tells nobody."""
        return self._ask("journalctl", "--boot", "--no-pager", "--output=short-precise", f"--lines={JOURNAL_LINES}")

    def packages(self) -> str:
        """What is installed, sorted as in the image's own list; or why nobody knows."""
        return self._ask("sh", "-c", "rpm -qa | LC_ALL=C sort")

    def _ask(self, *words: str) -> str:
        try:
            return run.query(ssh.command(self.errands, *words), why=f"run {words[0]!r} on {self.name}", timeout_s=30)
        except ToolError as error:
            return f"golden: {error.what}: {dict(error.details).get('output', '').strip()}\n"

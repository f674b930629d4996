"""What a failed run of Sparrowdo says -> phase, cause, what to do next, and whether another try makes sense. Pure.

Its own exit status is 0, 1 or, for a usage that it does not know, 2. The status that counts is in its last words,
Rakudo's "The spawned command '…' exited unsuccessfully (exit code: N, signal: S)", where the command names the phase.
"""

from __future__ import annotations

import re
from typing import Literal

from builder.model import Frozen

Phase = Literal["start", "connect", "copy", "bootstrap", "tasks"]

_SPAWNED = re.compile(r"^The spawned command '(.*)' exited unsuccessfully \(exit code: (\d+), signal: \d+\)", re.M)
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

# sudo's question. Nobody can answer it, and Sparrowdo would wait for ever.
PROMPT = re.compile(r"\[sudo\] password")


class Failure(Frozen):
    """status: that of the command in the guest, or of ssh; None if no command was reached or it did not end.

    is_passing: whether the cause may be gone a little later; only then is there another try.
    is_unready: whether it is the guest that is not made for sparrowfiles, whatever they say.
    """

    phase: Phase
    status: int | None
    cause: str
    try_next: str
    is_passing: bool = False
    is_unready: bool = False

    @property
    def is_result(self) -> bool:
        """Whether a sparrowfile ran, and said no."""
        return self.phase == "tasks" and self.status is not None and not self.is_unready


class _Rule(Frozen):
    """The first rule that fits explains a failure. words: a pattern in the output, "" for any."""

    words: str
    cause: str
    try_next: str
    phases: tuple[Phase, ...] = ("start", "connect", "copy", "bootstrap", "tasks")
    statuses: tuple[int, ...] = ()
    is_passing: bool = False
    is_unready: bool = False


_SUDO = _Rule(
    words=PROMPT.pattern,
    cause="sudo in the guest asks for a password, which nobody is there to type",
    try_next="give the user '… ALL=(ALL) NOPASSWD: ALL' in /etc/sudoers.d of a layer below",
)
_NETWORK = "look at the guest's network and proxies, or put what is fetched into a layer below"

# Never tried again come first; then what may pass; then what a status alone tells.
_RULES = (
    _SUDO,
    _Rule(
        words=r"(Your OS \(.*\) )?is not supported",
        cause="Sparrowdo's bootstrap does not support this operating system",
        try_next="install Sparrow6's packages in an offline step, and say bootstrap = false; see docs/sparrowdo.md",
        phases=("bootstrap",),
    ),
    _Rule(
        words=r"Could not find Sparrow6|raku: command not found",
        cause="the guest is not bootstrapped: there is no Sparrow6 in it",
        try_next="build the image with { sparrowdo = { bootstrap = true } } among its steps",
        phases=("tasks",),
        is_unready=True,
    ),
    _Rule(
        words="",
        cause="the guest is not bootstrapped: there is no Raku in it",
        try_next="build the image with { sparrowdo = { bootstrap = true } } among its steps",
        phases=("tasks",),
        statuses=(127,),
        is_unready=True,
    ),
    _Rule(
        words=r"===SORRY!===",
        cause="Raku code does not compile",
        try_next="mend what the output names",
    ),
    _Rule(
        words=r"does not exit",
        cause="Sparrowdo did not find the sparrowfile",
        try_next="look at the log; nothing else may write to the folder that Sparrowdo runs in",
    ),
    _Rule(
        words=r"unknown plugin",
        cause="a plugin is neither in the guest's cache nor in a repository",
        try_next="name it in plugins = [...] of the image's step, or give a repository",
    ),
    _Rule(
        words=r"Failed to download metadata|mirrorlist",
        cause="the guest's package manager cannot read its repositories",
        try_next=_NETWORK,
        is_passing=True,
    ),
    _Rule(
        words=r"No candidates found",
        cause="zef finds no module of that name: its index is empty, or it has no network",
        try_next='give zef a mirror of the project\'s, zef = "FOLDER", or a network',
        is_passing=True,
    ),
    _Rule(
        words=r"Could not get lock",
        cause="another package manager is at work in the guest",
        try_next="switch off what updates the guest by itself, in a layer below",
        is_passing=True,
    ),
    _Rule(words=r"[Rr]esolv", cause="a name was not resolved in the guest", try_next=_NETWORK, is_passing=True),
    _Rule(
        words=r"Connection (timed out|reset|closed)",
        cause="a connection broke",
        try_next=_NETWORK,
        is_passing=True,
    ),
    _Rule(
        words="",
        cause="ssh does not get into the guest",
        try_next="golden clone create NAME --image IMAGE, and then golden clone ssh NAME",
        phases=("connect",),
        statuses=(255,),
        is_passing=True,
    ),
    _Rule(words="", cause="wget got nothing from the network", try_next=_NETWORK, phases=("bootstrap",), statuses=(4,)),
    _Rule(
        words="",
        cause="a package manager in the guest failed",
        try_next=_NETWORK,
        phases=("bootstrap",),
        statuses=(1,),
    ),
    _Rule(
        words=r"TASK CHECK FAIL",
        cause="the check of a task failed",
        try_next="look at what the task says, in the output",
        phases=("tasks",),
        statuses=(2,),
    ),
    _Rule(
        words="",
        cause="a hook of a task failed",
        try_next="look at what the task says, in the output",
        phases=("tasks",),
        statuses=(101,),
    ),
    _Rule(
        words="",
        cause="the connection to the guest broke, or the sparrowfile itself ended with 255",
        try_next="look at the log, and at the guest's console",
        phases=("tasks",),
        statuses=(255,),
    ),
)


def plain(output: bytes) -> str:
    """The output as text: no colours, and lines as lines, since what comes from the guest's terminal ends in CRLF."""
    return _ESCAPES.sub("", output.decode(errors="replace")).replace("\r\n", "\n").replace("\r", "\n")


def explain(output: str, *, status: int, calls: Phase) -> Failure:
    """What a run that ended with `status` means. output: as `plain` makes it. calls: the phase that it was to reach."""
    found = _SPAWNED.findall(output)
    if not found:
        if status == 2:
            return Failure(
                phase="start",
                status=None,
                cause="this Sparrowdo does not know the options that golden gives it",
                try_next="sparrowdo --version; golden knows 0.1.54",
            )
        return _first("start", None, output) or Failure(
            phase="start",
            status=None,
            cause=f"Sparrowdo ended with {status} and reached no guest",
            try_next="look at the log",
        )
    command, code = found[-1]
    phase, remote = _phase(command, calls), int(code)
    return _first(phase, remote, output) or Failure(
        phase=phase, status=remote, cause=_GENERAL[phase].format(status=remote), try_next="look at the log"
    )


def asked(calls: Phase) -> Failure:
    """A run that golden ended because sudo asked for a password."""
    return Failure(phase=calls, status=None, cause=_SUDO.cause, try_next=_SUDO.try_next)


def late(calls: Phase, timeout_s: float) -> Failure:
    """A run that golden ended because its time was over. A guest that died looks like this, too."""
    return Failure(
        phase=calls,
        status=None,
        cause=f"it was still running after {timeout_s:.0f} s, and golden ended it",
        try_next='if the output shows that it got on: timeout = "1 h" in the step',
    )


_GENERAL: dict[Phase, str] = {
    "start": "Sparrowdo ended with {status}",
    "connect": "its first command in the guest ended with {status}",
    "copy": "scp ended with {status}: is there room on the guest's disk, and an sftp server?",
    "bootstrap": "the bootstrap ended with {status} in the guest",
    "tasks": "the sparrowfile ended with {status}",
}


def _phase(command: str, calls: Phase) -> Phase:
    if command.startswith("scp"):
        return "copy"
    words: tuple[tuple[str, Phase], ...] = (
        ("bootstrap.sh", "bootstrap"),
        ("sparrowrun.sh", "tasks"),
        ("rm -rf .sparrowdo/env", "connect"),
    )
    return next((phase for word, phase in words if word in command), calls)


def _first(phase: Phase, status: int | None, output: str) -> Failure | None:
    for rule in _RULES:
        is_status = not rule.statuses or status in rule.statuses
        if phase in rule.phases and is_status and re.search(rule.words, output):
            return Failure(
                phase=phase,
                status=status,
                cause=rule.cause,
                try_next=rule.try_next,
                is_passing=rule.is_passing,
                is_unready=rule.is_unready,
            )
    return None

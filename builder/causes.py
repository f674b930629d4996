"""Why something failed, as far as that decides whether trying again may help. Pure."""

from __future__ import annotations

import re
from typing import Literal

Cause = Literal[
    "lock", "network", "mirror", "kickstart", "script", "verify", "config", "machine", "tool", "interrupted"
]

# What passes by itself. A kickstart, a script or an image that is wrong is as wrong in a minute.
PASSING: frozenset[Cause] = frozenset({"lock", "network", "mirror"})

# The first that matches is it. A script that cannot reach the network is the script's business: nobody can say whether
# what it has done so far may be done again.
_PATTERNS: tuple[tuple[Cause, re.Pattern[str]], ...] = (
    ("lock", re.compile(r"another golden is at work on it|Failed to obtain the transaction lock")),
    ("kickstart", re.compile(r"the installer (crashed|refused|waits)|the installation failed|script of the kickstart")),
    ("script", re.compile(r"\(shell\) in the guest|\(ansible\) on the guest|during: .*\d+-(run|script)\b")),
    (
        "mirror",
        re.compile(
            r"All mirrors were tried|Failed to download metadata|Cannot download|Error downloading packages"
            r"|could not read the package repository|Checksum doesn't match|Status code: (404|5\d\d)|repomd\.xml"
        ),
    ),
    (
        "network",
        re.compile(
            r"Could not resolve|Temporary failure in name resolution|Name or service not known|Network is unreachable"
            r"|No route to host|Connection (refused|reset|timed out|aborted)|Curl error|timed out|RemoteDisconnected"
            r"|Max retries exceeded|could not download|rsync error: timeout"
        ),
    ),
)

_BY_EXIT_CODE: dict[int, Cause] = {2: "config", 3: "machine", 4: "tool", 5: "verify", 130: "interrupted"}


def cause_of(exit_code: int, text: str) -> Cause:
    """exit_code: of golden's. text: the whole error that it printed.

    Of what is wrong with the project or with the result, the text says nothing that would make it pass.
    """
    if exit_code in (2, 5, 130):
        return _BY_EXIT_CODE[exit_code]
    for cause, pattern in _PATTERNS:
        if pattern.search(text):
            return cause
    return _BY_EXIT_CODE.get(exit_code, "tool")


def may_pass(cause: Cause) -> bool:
    """Whether the same thing may well succeed in a while."""
    return cause in PASSING

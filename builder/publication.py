"""What a project says of its packages once they are made: who signs them, where they go, how long they are kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from builder.frozen import Frozen

DAY_S = 86400


class Signing(Frozen):
    """The project's OpenPGP key. file: holds the secret key, armored and without a passphrase; None: gpg has it.

    key: the fingerprint of a key that gpg (or its agent, or the card behind it) has. homedir: gpg's, None for the
    user's own.
    """

    file: Path | None = None
    key: str | None = None
    homedir: Path | None = None


class Rule(Frozen):
    """keep: newest builds of each image. age_s: seconds; no build that is younger is removed."""

    keep: int = 3
    age_s: int = 7 * DAY_S


class Retention(Frozen):
    """What collecting leaves. own: channels with a rule of their own. composes: older ones to roll back to."""

    rule: Rule = Rule()
    own: Mapping[str, Rule] = {}
    composes: int = 3

    def of(self, channel: str) -> Rule:
        return self.own.get(channel, self.rule)


class Publication(Frozen):
    """signing: None where the project says that its packages are not signed.

    target: where channels are copied to besides, a folder, "rsync://HOST/MODULE/PATH" or "[USER@]HOST:/PATH".
    """

    signing: Signing | None = None
    target: str | None = None
    retention: Retention = Retention()

"""Channels: dnf repositories with a promise, `candidate` (built), `nightly` (verified), `stable` (promoted by people).

    channels/candidate/composes/20261121.1/Packages/*.rpm, repodata/    never changed once it has this name
                                           compose.json                 what it came from
    channels/candidate/key.asc                                          the public half of the key that signs
    channels/candidate/withdrawn.json                                   what a rollback took away
    channels/candidate/mirrorlist                                       one line, the newest compose's address

A client takes the mirrorlist first and then everything from one compose, so it never sees a repository change under
its hands. Measured: the only way without errors for clients while the repository is switched.
"""

from builder.channels.client import checked_url, client_config
from builder.channels.deliveries import Accepted, accept, deliver, delivered, need_folder
from builder.channels.inspection import Checked, check
from builder.channels.promotion import Promotion, RolledBack, promote, rollback
from builder.channels.publication import Published, private_channel, publish
from builder.channels.retention import Collected, collect
from builder.channels.target import push

__all__ = [
    "Accepted",
    "Checked",
    "Collected",
    "Promotion",
    "Published",
    "RolledBack",
    "accept",
    "check",
    "checked_url",
    "client_config",
    "collect",
    "deliver",
    "delivered",
    "need_folder",
    "private_channel",
    "promote",
    "publish",
    "push",
    "rollback",
]

"""What a client needs to know of a channel: the .repo file."""

from __future__ import annotations

import re
from pathlib import Path

from builder.channels.compose import KEY
from builder.errors import ConfigError
from builder.templates import render, shared

_URL = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?")


def client_config(
    channel: str, *, prefix: str, project: str, url: str, fingerprint: str | None, key_file: Path | None = None
) -> str:
    """The .repo file for clients of a channel. Raises ConfigError on a bad url.

    fingerprint: of the key that signs the channel, None if it is not signed. key_file: where the client has its public
    half; without it the client takes it from the channel.
    """
    url = checked_url(url)
    key = key_file.absolute().as_uri() if key_file else f"{url}/{channel}/{KEY}"
    return render(
        shared("repo"),
        "golden.repo.j2",
        channel=channel,
        prefix=prefix,
        project=project,
        url=url,
        key=key if fingerprint else None,
        is_key_remote=key_file is None,
        fingerprint=" ".join(re.findall("....", fingerprint)) if fingerprint else None,
    )


def checked_url(url: str) -> str:
    """The url without trailing slashes. Raises ConfigError if it cannot be an address of channels."""
    if not _URL.fullmatch(url):
        raise ConfigError(
            f"'{url}' is not an address at which channels can be served; one looks like http://mirror.example/golden",
            try_next="set url in [project] of golden.toml, or give --url",
        )
    return url.rstrip("/")

"""Package repositories as guests reach them: served by this host while they are needed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from builder import provision
from builder.media import Repository
from builder.tools import guestfs
from builder.tools.package_cache import caching
from builder.tools.webserver import serving


@contextlib.contextmanager
def served(repositories: Sequence[Repository], *, host: str, state: Path) -> Iterator[list[Repository]]:
    """The repositories at addresses of this host, while the block runs.

    Folders are served as they are, repositories of the network through the cache below `state`. host: this machine, as
    the guest knows it.
    """
    with contextlib.ExitStack() as stack:
        found = []
        for repository in repositories:
            server = (
                caching(repository.location, cache=state / "cache" / "packages")
                if repository.folder is None
                else serving(repository.folder)
            )
            found.append(at(repository, host=host, port=stack.enter_context(server).port))
        yield found


def seen_from_guest(repositories: Sequence[Repository]) -> list[Repository]:
    """What is served for libguestfs' appliance, as a running guest reaches it; what is elsewhere stays there."""
    found = []
    for repository in repositories:
        place = urlsplit(repository.location)
        is_ours = place.hostname == guestfs.HOST and place.port is not None
        found.append(at(repository, host=provision.HOST, port=place.port or 0) if is_ours else repository)
    return found


def at(repository: Repository, *, host: str, port: int) -> Repository:
    return repository.model_copy(update={"location": f"http://{host}:{port}"})

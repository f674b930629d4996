"""Package repositories as guests reach them: served by this host while they are needed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from builder.media import Repository
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


def at(repository: Repository, *, host: str, port: int) -> Repository:
    return repository.model_copy(update={"location": f"http://{host}:{port}"})

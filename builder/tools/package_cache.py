"""One download for all layers: a package repository of the network, served on loopback out of a folder of this host.

A package file is fetched once. It is asked for again when the repository's repomd.xml has changed since, as a
repository may hold other bytes under an old name; the answer is mostly "not modified". Metadata files that have their
digest in their names are kept alike, all others are asked for each time. Nothing is served whose bytes are not those
that came: each file lies beside its SHA-256. What goes on without the upstream is what needs none: the files of a
repository whose repomd.xml this process has seen.

Libraries that cache for `requests` were looked at: they hold whole bodies in memory or do not look at what they kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import requests
from pydantic import ValidationError

from builder.errors import ToolError
from builder.frozen import Frozen
from builder.store import sha256, write_atomically
from builder.tools.download import Patience, Slow, blocks, innermost, shown
from builder.tools.webserver import Server, listening

# A package that no build has asked for in this time is of a release that is over.
_KEEP_S = 30 * 86400
# As dnf's own limits are, which cannot be asked of the upstream here; and an hour for one file. Source: dnf.conf(5).
_PATIENCE = Patience(read_s=60, least_bytes_s=1000, most_s=3600)
_CHUNK = 1024 * 1024
_NAMED_BY_DIGEST = re.compile(r"[0-9a-f]{32,128}-.*")


class _Kept(Frozen):
    """What is known of a cached file. seen_with: SHA-256 of the repomd.xml that was current when it was last right."""

    sha256: str
    etag: str | None
    last_modified: str | None
    seen_with: str


@contextlib.contextmanager
def caching(upstream: str, *, cache: Path, patience: Patience = _PATIENCE) -> Iterator[Server]:
    """Serve the repository at `upstream`, an http(s) URL, on loopback while the block runs.

    cache: shared by all builds of this host, at the same time too. Files unused for 30 days are removed from it.
    Raises HostError if no address can be had. What the upstream refuses, the client is refused with the same status;
    an upstream that does not answer, or not in the time of `patience`, is a 502 that says so. The client tells
    its own user of this host's address alone: a ToolError that leaves the block is told of the upstream as well.
    """
    name = re.sub(r"[^a-z0-9.]+", "-", upstream.lower()).strip("-")[-60:]
    folder = cache / f"{name}-{hashlib.sha256(upstream.encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    _forget_unused(folder)
    mirror = _Mirror(upstream.rstrip("/"), folder, patience)
    with listening(partial(_Handler, mirror), what=shown(upstream)) as server:
        try:
            yield server
        except ToolError as error:
            error.details += [("mirror", reason) for reason in mirror.unanswered.values()][-1:]
            raise


def damaged(cache: Path) -> list[Path]:
    """The files that are not what came from their upstream; none of them is served."""
    found = []
    for facts in sorted(cache.glob("*/**/.*.json")):
        file = facts.with_name(facts.name.removeprefix(".").removesuffix(".json"))
        before = _text(facts)
        # What is being stored anew has no facts meanwhile, or other ones.
        if file.exists() and _read_kept(file) is None and before is not None and _text(facts) == before:
            found.append(file)
    return found


def _text(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _forget_unused(folder: Path) -> None:
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and time.time() - path.stat().st_mtime > _KEEP_S:
                path.unlink()


class _Refused(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class _Mirror:
    """The repository and its folder; `get` is called from many threads.

    unanswered: path -> why it was not to be had when it was asked for last, for want of an upstream that answers.
    """

    def __init__(self, upstream: str, folder: Path, patience: Patience) -> None:
        self._upstream = upstream
        self._patience = patience
        self._folder = folder
        self._repomd = ""
        self.unanswered: dict[str, str] = {}
        self._threads = threading.local()

    def get(self, path: str) -> Path:
        """The file for a path of the repository, fetched or found. Raises _Refused."""
        parts = [part for part in path.split("/") if part]
        if not parts or any(part in (".", "..") or "\0" in part or part.startswith(".") for part in parts):
            raise _Refused(HTTPStatus.NOT_FOUND, "no file of a repository has such a name")
        file = self._folder.joinpath(*parts)
        file.parent.mkdir(parents=True, exist_ok=True)
        with _locked(file):
            kept = _read_kept(file)
            is_fixed = file.suffix in (".rpm", ".drpm") or _NAMED_BY_DIGEST.fullmatch(file.name) is not None
            if kept is None or not is_fixed or not self._repomd or kept.seen_with != self._repomd:
                kept = self._fetch("/".join(parts), file, kept)
        if parts[-1] == "repomd.xml":
            self._repomd = kept.sha256
        for used in (file, _facts(file)):
            os.utime(used)
        return file

    def _fetch(self, path: str, file: Path, kept: _Kept | None) -> _Kept:
        conditions = {}
        if kept and kept.etag:
            conditions["If-None-Match"] = kept.etag
        elif kept and kept.last_modified:
            conditions["If-Modified-Since"] = kept.last_modified
        url = f"{self._upstream}/{quote(path)}"
        try:
            # identity: what is stored are the file's own bytes, not a transfer's.
            headers = {"Accept-Encoding": "identity", **conditions}
            limits_s = (self._patience.connect_s, self._patience.read_s)
            with self._session().get(url, headers=headers, stream=True, timeout=limits_s) as answer:
                if answer.status_code == HTTPStatus.NOT_MODIFIED and kept:
                    found = kept.model_copy(update={"seen_with": self._repomd})
                elif answer.status_code == HTTPStatus.OK:
                    found = self._store(answer, path, file)
                else:
                    raise _Refused(answer.status_code, f"{url} answers {answer.status_code}")
        except requests.RequestException as error:
            raise self._unanswered(path, f"{shown(self._upstream)} does not answer: {innermost(error)}") from error
        except Slow as error:
            raise self._unanswered(path, f"{shown(url)} is too slow: {error}") from error
        self.unanswered.pop(path, None)
        write_atomically(_facts(file), found.model_dump_json())
        return found

    def _unanswered(self, path: str, reason: str) -> _Refused:
        self.unanswered[path] = reason
        return _Refused(HTTPStatus.BAD_GATEWAY, reason)

    def _store(self, answer: requests.Response, path: str, file: Path) -> _Kept:
        """Write aside, look at the length, rename."""
        part = file.with_name(f".{file.name}.part")
        digest, length = hashlib.sha256(), 0
        try:
            with part.open("wb") as stream:
                for chunk in blocks(answer, self._patience):
                    stream.write(chunk)
                    digest.update(chunk)
                    length += len(chunk)
            declared = answer.headers.get("Content-Length")
            if declared is not None and int(declared) != length:
                raise self._unanswered(path, f"{shown(answer.url)} is cut short: {length} of {declared} bytes")
            # The old facts go first: no moment at which they could stand for the new bytes.
            _facts(file).unlink(missing_ok=True)
            part.rename(file)
        finally:
            part.unlink(missing_ok=True)
        return _Kept(
            sha256=digest.hexdigest(),
            etag=answer.headers.get("ETag"),
            last_modified=answer.headers.get("Last-Modified"),
            seen_with=self._repomd,
        )

    def _session(self) -> requests.Session:
        """One per thread: connections are kept open, and a session is not made for several threads."""
        if not hasattr(self._threads, "session"):
            self._threads.session = requests.Session()
        session: requests.Session = self._threads.session
        return session


def _facts(file: Path) -> Path:
    return file.with_name(f".{file.name}.json")


def _read_kept(file: Path) -> _Kept | None:
    """What is known of a file that is there with the bytes that came, None if there is none."""
    try:
        kept = _Kept.model_validate_json(_facts(file).read_bytes())
        return kept if sha256(file) == kept.sha256 else None
    except (OSError, ValidationError):
        return None


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Two that want the same file download it once: the second waits. Of other processes too."""
    with file.with_name(f".{file.name}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds that a connection may say nothing

    def __init__(self, mirror: _Mirror, *args: Any) -> None:
        self._mirror = mirror
        super().__init__(*args)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(is_head=False)

    def do_HEAD(self) -> None:
        self._answer(is_head=True)

    def _answer(self, *, is_head: bool) -> None:
        try:
            file = self._mirror.get(unquote(urlsplit(self.path).path))
            stream = file.open("rb")
        except _Refused as error:
            # One line, and a bounded one: it becomes part of a header.
            self.send_error(error.status, "".join(c if " " <= c <= "~" else "?" for c in error.reason)[:200])
            return
        with stream:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(os.fstat(stream.fileno()).st_size))
            self.end_headers()
            if not is_head:
                shutil.copyfileobj(stream, self.wfile, _CHUNK)

"""Files from web servers, by requests: resumed where they broke off, not fetched again if they have not changed."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import requests
from pydantic import ValidationError

from builder.errors import HostError, ToolError
from builder.model import Frozen
from builder.store import write_atomically
from builder.units import format_bytes, format_seconds

_BLOCK_BYTES = 256 * 1024
_LEAST_BLOCK_BYTES = 16
_MOST_TEXT_BYTES = 16 * 1024 * 1024
_NOTE_EVERY_S = 0.5
_CONTENT_RANGE = re.compile(r"bytes (?P<begin>[0-9]+)-[0-9]+/(?P<total>[0-9]+|\*)")

# Answers of servers that are busy or being mended; the others will not change by asking again.
_PASSING = {408, 429, 500, 502, 503, 504}


class Patience(Frozen):
    """connect_s, read_s: seconds for a connection, and for the next byte on it. tries: in a row that bring no new byte.

    pause_s: before the second of them; each further pause is twice as long. least_bytes_s: bytes a second, for read_s;
    a server that is slower does not count as bringing anything: it could go on for years. most_s: seconds for one try
    in all, however much it brings; None for files of any size.
    """

    connect_s: float = 20
    read_s: float = 60
    tries: int = 5
    pause_s: float = 1
    least_bytes_s: float = 512
    most_s: float | None = None


class Validators(Frozen):
    """What a server says of one state of a file, to ask later whether that is still so. Source: RFC 9110, 8.8."""

    etag: str | None = None
    last_modified: str | None = None

    @property
    def for_resuming(self) -> str | None:
        """For If-Range, which takes no weak ETag. Source: RFC 9110, 13.1.5."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified


class _Begun(Frozen):
    """What is known of a file that came in part. total_bytes: None if the server did not say."""

    validators: Validators
    total_bytes: int | None


class _Passing(Exception):
    """A failure that may be over at the next try; its text is the reason."""


class Slow(_Passing):
    """It brings something, but so little that it will never end, or not in the time that there is."""


def shown(url: str) -> str:
    """The address as it may be printed and stored: without a user's name and password, and without a query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def fetch(
    url: str,
    part: Path,
    *,
    unless: Validators | None = None,
    patience: Patience | None = None,
    note: Callable[[str], None],
) -> Validators | None:
    """Bring the file at `url` to `part`; None, and no file, if it is still the one that `unless` is about.

    What an earlier call left in `part` is gone on from, if the server's file is still the same; what is known of it
    lies beside `part` in `.json`. After an error both stay, for the next call. Proxies are those of the environment.
    note: told how far it is. Raises ToolError (the server, the network), HostError (no room).
    """
    return _Download(url, part, unless=unless, patience=patience or Patience(), note=note).run()


def text(url: str, *, limit_s: float, most_bytes: int = _MOST_TEXT_BYTES) -> str:
    """A small file in UTF-8, by one request. limit_s: seconds for its connection, its next byte, and all of it.

    Raises ToolError: the server, the network, or a file that is not small.
    """
    patience, found = Patience(read_s=limit_s, most_s=limit_s), bytearray()
    try:
        with requests.get(url, stream=True, timeout=limit_s) as answer:
            answer.raise_for_status()
            for block in blocks(answer, patience):
                found += block
                if len(found) > most_bytes:
                    raise Slow(f"it is larger than {format_bytes(most_bytes)}")
    except (requests.RequestException, Slow) as error:
        details = [("reason", str(error).replace(url, shown(url)))]
        raise ToolError(f"could not download {shown(url)}", details=details) from error
    return found.decode(errors="replace")


def blocks(answer: requests.Response, patience: Patience) -> Iterator[bytes]:
    """The body of an answer that was asked for as a stream. Raises Slow.

    Small blocks first, each as large as all before it: one that never gets full would hide how slow it is.
    """
    size, count, total = _LEAST_BLOCK_BYTES, 0, 0
    begin = since = time.monotonic()
    while block := next(answer.iter_content(size), b""):
        yield block
        count, total, now = count + len(block), total + len(block), time.monotonic()
        if now - since >= patience.read_s:
            if count < patience.least_bytes_s * (now - since):
                raise Slow(f"it brought {format_bytes(count)} in {format_seconds(now - since)}")
            since, count = now, 0
        if patience.most_s is not None and now - begin >= patience.most_s:
            raise Slow(f"it was not over after {format_seconds(now - begin)}")
        size = max(size, min(total, _BLOCK_BYTES))


class _Download:
    def __init__(
        self, url: str, part: Path, *, unless: Validators | None, patience: Patience, note: Callable[[str], None]
    ) -> None:
        self.url, self.part, self.unless = url, part, unless
        self.patience, self.note = patience, note
        self.facts = part.with_name(f"{part.name}.json")
        self.begun = self._earlier()

    def run(self) -> Validators | None:
        reasons: list[str] = []
        best = self._size() if self.begun else 0
        while True:
            try:
                return self._try()
            except _Passing as failure:
                if self._size() > best and not isinstance(failure, Slow):
                    best, reasons = self._size(), []
                reasons.append(str(failure))
            except OSError as error:
                raise HostError(f"could not write {self.part}: {error.strerror}") from error
            if len(reasons) >= self.patience.tries:
                raise self._failed(
                    f"{len(reasons)} tries failed, the last one so: {reasons[-1]}",
                    try_next="run the same command again; what has come is kept, and it goes on from there",
                )
            pause_s = self.patience.pause_s * 2 ** (len(reasons) - 1)
            self.note(f"{reasons[-1]}; again in {format_seconds(pause_s)}")
            time.sleep(pause_s)

    def _try(self) -> Validators | None:
        """One request. Raises _Passing, or ToolError where another one would end the same way."""
        offset = self._size() if self.begun and self.begun.validators.for_resuming else 0
        if self.begun and self.begun.total_bytes is not None and offset == self.begun.total_bytes:
            return self.begun.validators
        try:
            with requests.get(
                self.url,
                headers=self._headers(offset),
                stream=True,
                timeout=(self.patience.connect_s, self.patience.read_s),
            ) as answer:
                if answer.status_code == HTTPStatus.NOT_MODIFIED:
                    return None
                self._refuse(answer)
                offset = self._agreed_offset(answer, offset)
                return self._receive(answer, offset)
        except requests.exceptions.SSLError as error:  # a certificate does not get better by asking again
            raise self._failed(innermost(error)) from error
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise _Passing(innermost(error)) from error
        except requests.RequestException as error:
            raise self._failed(str(error)) from error

    def _headers(self, offset: int) -> dict[str, str]:
        # A compressed transfer has other lengths and offsets than the file.
        headers = {"Accept-Encoding": "identity"}
        if offset and self.begun:
            return headers | {"Range": f"bytes={offset}-", "If-Range": self.begun.validators.for_resuming or ""}
        if self.unless and self.unless.etag:
            headers["If-None-Match"] = self.unless.etag
        if self.unless and self.unless.last_modified:
            headers["If-Modified-Since"] = self.unless.last_modified
        return headers

    def _refuse(self, answer: requests.Response) -> None:
        code = answer.status_code
        if code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            self._forget()
            raise _Passing("the server's file is shorter than what had come of it")
        if code in _PASSING:
            raise _Passing(f"the server answered {code} {answer.reason}")
        if code not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            raise self._failed(f"the server answered {code} {answer.reason}")

    def _agreed_offset(self, answer: requests.Response, offset: int) -> int:
        """Where the answer's first byte belongs; what is known of the file is written down before any of it."""
        length = answer.headers.get("Content-Length", "")
        total = int(length) if length.isdigit() else None
        if answer.status_code == HTTPStatus.PARTIAL_CONTENT:
            match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            if match is None or int(match["begin"]) != offset:
                self._forget()
                raise _Passing("the server sent another part of the file than was asked for")
            total = None if match["total"] == "*" else int(match["total"])
        else:
            offset = 0
        validators = Validators(etag=answer.headers.get("ETag"), last_modified=answer.headers.get("Last-Modified"))
        self._need_room(total, offset)
        if offset == 0:
            self.part.write_bytes(b"")
        self.begun = _Begun(validators=validators, total_bytes=total)
        write_atomically(self.facts, self.begun.model_dump_json())
        return offset

    def _receive(self, answer: requests.Response, offset: int) -> Validators:
        assert self.begun is not None
        total = self.begun.total_bytes
        progress = _Progress(self.note, offset=offset, total=total)
        with self.part.open("ab") as stream:
            for block in blocks(answer, self.patience):
                stream.write(block)
                progress.add(len(block))
        if total is not None and self._size() != total:
            raise _Passing(f"the connection ended after {self._size()} of {total} bytes")
        return self.begun.validators

    def _need_room(self, total: int | None, offset: int) -> None:
        free = shutil.disk_usage(self.part.parent).free
        if total is not None and total - offset > free:
            raise HostError(
                f"could not download {shown(self.url)}: not enough room on the disk",
                details=[("needed", format_bytes(total - offset)), ("free", f"{format_bytes(free)} at {self.part}")],
                try_next="golden cache prune",
            )

    def _earlier(self) -> _Begun | None:
        """What an earlier call left, if it can be gone on from."""
        try:
            begun = _Begun.model_validate_json(self.facts.read_bytes())
        except (OSError, ValidationError):
            return None
        return begun if begun.validators.for_resuming and self.part.is_file() else None

    def _forget(self) -> None:
        self.begun = None
        self.part.unlink(missing_ok=True)
        self.facts.unlink(missing_ok=True)

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _failed(self, reason: str, *, try_next: str | None = None) -> ToolError:
        return ToolError(f"could not download {shown(self.url)}", details=[("reason", reason)], try_next=try_next)


class _Progress:
    """ "12.0 MiB of 1.2 GiB, 3.4 MiB/s, 5 min 52 s left", at most twice a second."""

    def __init__(self, note: Callable[[str], None], *, offset: int, total: int | None) -> None:
        self._note, self._begin, self._total = note, offset, total
        self._done = offset
        self._started = self._last = time.monotonic()

    def add(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._last < _NOTE_EVERY_S and self._done != self._total:
            return
        self._last = now
        rate = (self._done - self._begin) / max(now - self._started, 0.001)
        words = [format_bytes(self._done), f"{format_bytes(round(rate))}/s"]
        if self._total is not None:
            words[0] += f" of {format_bytes(self._total)}"
            words.append(f"{format_seconds((self._total - self._done) / max(rate, 1))} left")
        self._note(", ".join(words))


def innermost(error: requests.RequestException) -> str:
    """The innermost cause: requests and urllib3 wrap it several times."""
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    return str(cause) or type(cause).__name__

"""A mirror for tests: http with ranges, validators and conditions as real ones have them, and faults on order."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate, parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from builder.tools.webserver import listening


@dataclass
class File:
    """changed: seconds since 1970."""

    data: bytes
    changed: int = 1_700_000_000
    has_validators: bool = True

    @property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.data).hexdigest()[:16]}"'

    @property
    def last_modified(self) -> str:
        return formatdate(self.changed, usegmt=True)


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0


@dataclass
class Mirror:
    """files: path -> what is there. faults: path -> what the next answers do instead of working, first one first:
    a status code, or ("drop", n): n bytes of the body, then the connection ends. hold: answers wait for it;
    hold_after: from that many requests on it is cleared by the server itself. held: set when one waits.
    """

    url: str = ""
    files: dict[str, File] = field(default_factory=dict)
    faults: dict[str, list[int | tuple[str, int]]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    arrived: threading.Event = field(default_factory=threading.Event)
    hold: threading.Event = field(default_factory=threading.Event)
    hold_after: int | None = None
    held: threading.Event = field(default_factory=threading.Event)

    def put(self, name: str, data: bytes, **more: Any) -> str:
        """Returns its address."""
        self.files[f"/{name}"] = File(data, **more)
        return f"{self.url}/{name}"

    def asked(self, name: str) -> list[Request]:
        return [request for request in self.requests if request.path == f"/{name}"]


@contextlib.contextmanager
def mirror() -> Iterator[Mirror]:
    made = Mirror()
    made.hold.set()

    class Handler(_Handler):
        mirror = made

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def dripping() -> Iterator[str]:
    """The address of a server whose every file comes a byte at a time, each of them in time, for years."""

    class Drip(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000000000")
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b"x")
                    time.sleep(0.002)

    with listening(Drip, what="a drip") as server:
        yield server.url


@contextlib.contextmanager
def silent(greeting: bytes = b"") -> Iterator[int]:
    """The port of a server that takes every connection, says `greeting`, and nothing more while it is there."""
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    kept.append(connection)
                    connection.sendall(greeting)

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)  # wakes the one who waits for a connection
            thread.join()
            for connection in kept:
                connection.close()


class _Handler(BaseHTTPRequestHandler):
    mirror: Mirror
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        # A proxy is asked for whole addresses.
        path = self.path.removeprefix(self.mirror.url)
        request = Request(path, dict(self.headers))
        self.mirror.requests.append(request)
        self.mirror.arrived.set()
        if self.mirror.hold_after is not None and len(self.mirror.requests) > self.mirror.hold_after:
            self.mirror.hold_after = None
            self.mirror.hold.clear()
            self.mirror.held.set()
        self.mirror.hold.wait(timeout=60)
        faults = self.mirror.faults.get(path, [])
        fault = faults.pop(0) if faults else None
        file = self.mirror.files.get(path)
        if isinstance(fault, int) or file is None:
            request.status = fault if isinstance(fault, int) else 404
            self._answer(request.status, {}, b"")
            return
        request.status, headers, body = self._decide(file)
        if fault is None:
            request.sent = len(body)
            self._answer(request.status, headers, body)
            return
        request.sent = fault[1]
        self._answer(request.status, headers | {"Content-Length": str(len(body))}, body[: fault[1]])
        self.close_connection = True

    def do_HEAD(self) -> None:
        """Neither recorded nor failed on order: only virt-install asks like this."""
        file = self.mirror.files.get(self.path.removeprefix(self.mirror.url))
        self.send_response(200 if file else 404)
        self.send_header("Content-Length", str(len(file.data) if file else 0))
        self.end_headers()

    def _decide(self, file: File) -> tuple[int, dict[str, str], bytes]:
        asked = self.headers
        if not file.has_validators:
            return 200, {}, file.data
        headers = {"ETag": file.etag, "Last-Modified": file.last_modified, "Accept-Ranges": "bytes"}
        if asked["If-None-Match"]:  # goes before If-Modified-Since
            if asked["If-None-Match"] == file.etag:
                return 304, headers, b""
        elif asked["If-Modified-Since"]:
            since = parsedate_to_datetime(asked["If-Modified-Since"]).timestamp()
            if file.changed <= since:
                return 304, headers, b""
        wants_range = asked["Range"] and asked["If-Range"] in (None, file.etag, file.last_modified)
        if not wants_range:
            return 200, headers, file.data
        begin = int(asked["Range"].removeprefix("bytes=").rstrip("-"))
        total = len(file.data)
        if begin >= total:
            return 416, {"Content-Range": f"bytes */{total}"}, b""
        return 206, headers | {"Content-Range": f"bytes {begin}-{total - 1}/{total}"}, file.data[begin:]

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # the client may have given up
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

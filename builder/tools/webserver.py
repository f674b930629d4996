"""A small static web server inside this process: channels for users, folders for guests during a build."""

from __future__ import annotations

import contextlib
import io
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from builder.errors import HostError


@dataclass(frozen=True)
class Server:
    """Where a folder is being served. port: the one really taken, also when 0 was asked for."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """Without a trailing slash."""
        return f"http://{self.host}:{self.port}"


@contextlib.contextmanager
def serving(folder: Path, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[Server]:
    """Serve `folder` over http while the block runs; one thread per request, nothing is printed.

    A file called `mirrorlist` is answered with the address by which the client reached this server, so that a
    channel published for one address can be tried on any other. A Range header is ignored, as RFC 9110 allows:
    dnf asks for none. Symbolic links that lead out of the folder are not found.
    port: 0 takes a free one. Raises HostError if the folder is missing or the address cannot be had.
    """
    if not folder.is_dir():
        raise HostError(f"could not serve {folder}: there is no such folder")
    handler = partial(_Handler, directory=str(folder.resolve()))
    with listening(handler, what=str(folder), host=host, port=port) as server:
        yield server


@contextlib.contextmanager
def listening(
    handler: Callable[..., BaseHTTPRequestHandler], *, what: str, host: str = "127.0.0.1", port: int = 0
) -> Iterator[Server]:
    """Answer requests by `handler` while the block runs, each in a thread. what: is served, for the error's text.

    Raises HostError if the address cannot be had.
    """
    try:
        server = _HttpServer((host, port), handler)
    except (OSError, OverflowError, TypeError, ValueError) as error:  # also a name that cannot be encoded as one
        raise HostError(f"could not serve {what} on {host} port {port}: {error}") from error
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield Server(host=host, port=server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _HttpServer(ThreadingHTTPServer):
    request_queue_size = 64

    def server_bind(self) -> None:
        # HTTPServer's own asks DNS for this machine's name, which can take minutes without a network.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # a client that went away is no news
            super().handle_error(request, client_address)


class _Handler(SimpleHTTPRequestHandler):
    timeout = 60  # seconds that a connection may say nothing

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def send_head(self) -> io.BytesIO | BinaryIO | None:
        try:
            path = Path(self.translate_path(self.path)).resolve()
            is_inside = path.is_relative_to(self.directory)
        except (ValueError, OSError, RuntimeError):  # a NUL byte, a name too long, a loop of links
            is_inside = False
        if not is_inside:
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        if path.name == "mirrorlist" and path.is_file():
            return self._send_mirrorlist(path)
        return super().send_head()

    def _send_mirrorlist(self, path: Path) -> io.BytesIO:
        channel = PurePosixPath(self.path.partition("?")[0]).parent
        host = self.headers.get("Host") or "{}:{}".format(*self.connection.getsockname())
        here = f"http://{host}{channel}".rstrip("/")
        composes = ["/".join(line.rstrip("/").split("/")[-2:]) for line in path.read_text("utf-8").split()]
        body = "".join(f"{here}/{compose}/\n" for compose in composes).encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-cache")
        self.end_headers()
        return io.BytesIO(body)

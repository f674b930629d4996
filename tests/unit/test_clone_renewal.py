"""What the host orders of a guest that is to become a machine of its own, and hears of it."""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import pytest

from builder.clones import agent, saved
from builder.clones.saved import HostKeys, Renewal
from builder.errors import ToolError

OWN = "52:54:00:00:00:02"
KEYS: HostKeys = {"ed25519": ("private", "public")}


class Guest:
    """Its end of the second serial port: reads one line, and says `words`, each when it is let."""

    def __init__(self, path: Path, words: list[bytes]) -> None:
        self.order: dict[str, Any] = {}
        self.may_speak = threading.Semaphore(0)
        self._words = words
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rb") as lines:
            self.order = json.loads(lines.readline())
            for word in self._words:
                self.may_speak.acquire()
                with contextlib.suppress(BrokenPipeError):  # nobody listens any more
                    connection.sendall(word)

    def close(self) -> None:
        self._listener.close()
        self._thread.join(20)


@contextlib.contextmanager
def renewal(folder: Path, *words: bytes) -> Iterator[tuple[Renewal, Guest]]:
    guest = Guest(folder / "renew.sock", list(words))
    keys: Future[HostKeys] = Future()
    keys.set_result(KEYS)
    lease = argparse.Namespace(name="web1", authorized_key=None)
    memory = argparse.Namespace(mac="52:54:00:00:00:01")
    machine = argparse.Namespace(renewal=folder / "renew.sock", mac=OWN)
    made = Renewal(cast(Any, lease), cast(Any, memory), cast(Any, machine), keys)
    with contextlib.closing(guest), contextlib.closing(made):
        made.order()
        yield made, guest


def test_it_hears_when_a_login_may_begin_and_when_all_is_done(tmp_path: Path) -> None:
    # The second word comes in two pieces, the first of them together with the first word.
    with renewal(tmp_path, agent.REACHABLE + agent.DONE[:5], agent.DONE[5:]) as (made, guest):
        guest.may_speak.release()
        made.wait_until_reachable()
        guest.may_speak.release()
        made.wait()
    assert guest.order["hostname"] == "web1"
    assert guest.order["macs"] == {"52:54:00:00:00:01": OWN}
    assert guest.order["host_keys"] == {"ed25519": ["private", "public"]}


def test_what_fails_after_a_login_may_begin_is_an_error(tmp_path: Path) -> None:
    with renewal(tmp_path, agent.REACHABLE, agent.FAILED + b"OSError('full')\n") as (made, guest):
        guest.may_speak.release(2)
        made.wait_until_reachable()
        with pytest.raises(ToolError, match="'web1' was started from memory, but did not become") as caught:
            made.wait()
    assert "OSError('full')" in dict(caught.value.details)["agent"]


def test_a_guest_that_says_nothing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved, "RENEW_TIMEOUT_S", 0.2)
    with renewal(tmp_path, b"") as (made, guest):
        with pytest.raises(ToolError) as caught:
            made.wait_until_reachable()
        guest.may_speak.release()
    assert dict(caught.value.details)["agent"] == "no answer within 0 s"

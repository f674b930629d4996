"""Downloads from a real web server on this machine: resumed, not repeated, given up with a reason."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.errors import HostError, ToolError
from builder.tools import download
from builder.tools.download import Patience, Validators
from tests.mirror import Mirror, dripping, mirror

# Drops come after whole blocks: of one that is cut in the middle requests gives nothing.
DATA = os.urandom(2 * 1024**2 + 17)
QUICK = Patience(connect_s=5, read_s=5, tries=3, pause_s=0.01)


@pytest.fixture
def server() -> Iterator[Mirror]:
    with mirror() as found:
        yield found


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "x.iso"


def fetch(url: str, part: Path, *, unless: Validators | None = None) -> tuple[Validators | None, list[str]]:
    notes: list[str] = []
    return download.fetch(url, part, unless=unless, patience=QUICK, note=notes.append), notes


def failure(url: str, part: Path) -> ToolError:
    with pytest.raises(ToolError) as caught:
        fetch(url, part)
    return caught.value


def test_a_file_comes_whole_and_its_progress_is_told(server: Mirror, part: Path) -> None:
    validators, notes = fetch(server.put("x.iso", DATA), part)
    assert part.read_bytes() == DATA
    assert validators == Validators(etag=server.files["/x.iso"].etag, last_modified="Tue, 14 Nov 2023 22:13:20 GMT")
    assert notes[-1].startswith("2.0 MiB of 2.0 MiB, ")
    assert notes[-1].endswith("/s, 0.0 s left")


def test_a_dropped_connection_is_gone_on_from(server: Mirror, part: Path) -> None:
    url = server.put("x.iso", DATA)
    server.faults["/x.iso"] = [("drop", 1_048_576)]
    _, notes = fetch(url, part)
    assert part.read_bytes() == DATA
    first, second = server.asked("x.iso")
    assert "Range" not in first.headers
    assert (second.headers["Range"], second.headers["If-Range"], second.status) == (
        "bytes=1048576-",
        server.files["/x.iso"].etag,
        206,
    )
    assert second.sent == len(DATA) - 1_048_576
    assert any("again in 0.0 s" in note for note in notes)


def test_what_an_earlier_run_left_is_gone_on_from(server: Mirror, part: Path) -> None:
    url = server.put("x.iso", DATA)
    server.faults["/x.iso"] = [("drop", 524_288), 503, 503, 503]
    error = failure(url, part)
    assert error.what == f"could not download {url}"
    assert error.details == [("reason", "3 tries failed, the last one so: the server answered 503 Service Unavailable")]
    assert error.try_next == "run the same command again; what has come is kept, and it goes on from there"
    assert part.read_bytes() == DATA[:524_288]
    fetch(url, part)
    assert server.requests[-1].headers["Range"] == "bytes=524288-"
    assert part.read_bytes() == DATA


def test_a_file_that_changed_in_between_starts_anew(server: Mirror, part: Path) -> None:
    server.put("x.iso", DATA)
    server.faults["/x.iso"] = [("drop", 524_288)]
    url = f"{server.url}/x.iso"
    with pytest.raises(ToolError):
        download.fetch(url, part, patience=QUICK.model_copy(update={"tries": 1}), note=print)
    server.put("x.iso", DATA[::-1])
    fetch(url, part)
    assert (server.requests[-1].status, part.read_bytes()) == (200, DATA[::-1])


def test_a_file_that_became_shorter_starts_anew(server: Mirror, part: Path) -> None:
    url = server.put("x.iso", DATA)
    fetch(url, part)
    part.with_name("x.iso.json").write_text(part.with_name("x.iso.json").read_text().replace(str(len(DATA)), "9999999"))
    _, notes = fetch(url, part)
    assert [request.status for request in server.requests] == [200, 416, 200]
    assert notes[0].startswith("the server's file is shorter than what had come of it")
    assert part.read_bytes() == DATA


def test_a_server_without_validators_starts_anew(server: Mirror, part: Path) -> None:
    url = server.put("x.iso", DATA, has_validators=False)
    server.faults["/x.iso"] = [("drop", 1_048_576)]
    fetch(url, part)
    assert ["Range" in request.headers for request in server.requests] == [False, False]
    assert part.read_bytes() == DATA


def test_tries_that_bring_something_are_not_counted(server: Mirror, part: Path) -> None:
    url = server.put("x.iso", DATA)
    server.faults["/x.iso"] = [("drop", 262_144)] * 7
    fetch(url, part)
    assert len(server.requests) == 8
    assert part.read_bytes() == DATA


def test_an_unchanged_file_is_not_fetched_again(server: Mirror, part: Path) -> None:
    url = server.put("x.iso", DATA)
    validators, _ = fetch(url, part)
    other = part.with_name("y.iso")
    assert fetch(url, other, unless=validators) == (None, [])
    assert (server.requests[-1].status, other.exists()) == (304, False)
    date_alone = Validators(last_modified=validators.last_modified if validators else None)
    assert fetch(url, other, unless=date_alone)[0] is None
    server.put("x.iso", DATA[:-1], changed=1_800_000_000)
    assert fetch(url, other, unless=validators)[0] is not None
    assert other.read_bytes() == DATA[:-1]


@pytest.mark.parametrize(("code", "text"), [(404, "404 Not Found"), (403, "403 Forbidden")])
def test_a_refusal_is_final(server: Mirror, part: Path, code: int, text: str) -> None:
    url = server.put("x.iso", DATA)
    server.faults["/x.iso"] = [code]
    error = failure(url, part)
    assert error.details == [("reason", f"the server answered {text}")]
    assert (len(server.requests), part.exists()) == (1, False)


def test_no_server(server: Mirror, part: Path) -> None:
    with mirror() as gone:
        url = gone.put("x.iso", DATA)
    reason = dict(failure(url, part).details)["reason"]
    assert reason.startswith("3 tries failed, the last one so: ")
    assert "Connection refused" in reason


def test_a_silent_server_is_given_up(server: Mirror, part: Path) -> None:
    url = server.put("x.iso", DATA)
    server.hold.clear()
    with pytest.raises(ToolError) as caught:
        download.fetch(url, part, patience=Patience(read_s=0.2, tries=2, pause_s=0.01), note=print)
    assert dict(caught.value.details)["reason"] == "2 tries failed, the last one so: timed out"


def test_a_file_larger_than_the_disk(server: Mirror, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1024

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage)
    with pytest.raises(HostError, match="not enough room on the disk") as caught:
        fetch(server.put("x.iso", DATA), part)
    assert caught.value.try_next == "golden cache prune"
    assert not part.exists()


def test_a_proxy_is_used_and_no_proxy_heeded(server: Mirror, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mirror() as proxy:
        server.put("x.iso", DATA)
        proxy.files["http://mirror.example/x.iso"] = server.files["/x.iso"]
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        fetch("http://mirror.example/x.iso", part)
        assert part.read_bytes() == DATA
        assert [request.path for request in proxy.requests] == ["http://mirror.example/x.iso"]
        fetch(f"{server.url}/x.iso", part.with_name("y.iso"))
        assert (len(proxy.requests), len(server.requests)) == (1, 1)


def test_names_and_passwords_in_addresses_are_not_shown() -> None:
    assert download.shown("https://me:secret@mirror.example/a/x.iso?token=1") == "https://mirror.example/a/x.iso"


def test_a_server_that_drips_is_given_up(part: Path) -> None:
    """Each byte comes in time, and yet it would take years; that it brings something does not count."""

    with dripping() as url, pytest.raises(ToolError) as caught:
        patience = Patience(read_s=0.3, tries=2, pause_s=0.01, least_bytes_s=10**9)
        download.fetch(f"{url}/x.iso", part, patience=patience, note=print)
    assert dict(caught.value.details)["reason"].startswith("2 tries failed, the last one so: it brought ")


def test_what_comes_fast_enough_and_never_ends_is_given_up(part: Path) -> None:
    with dripping() as url, pytest.raises(ToolError) as caught:
        patience = Patience(read_s=0.3, tries=2, pause_s=0.01, least_bytes_s=0, most_s=0.5)
        download.fetch(f"{url}/x.iso", part, patience=patience, note=print)
    assert dict(caught.value.details)["reason"].startswith("2 tries failed, the last one so: it was not over after ")


def test_a_small_file_has_a_limit_for_all_of_it_and_for_its_size(server: Mirror) -> None:
    url = server.put("repomd.xml", b"<repomd/>" * 100)
    assert download.text(url, limit_s=60) == "<repomd/>" * 100
    with pytest.raises(ToolError, match="could not download") as large:
        download.text(url, limit_s=60, most_bytes=899)
    assert large.value.details == [("reason", "it is larger than 899 B")]
    with dripping() as drip, pytest.raises(ToolError, match="could not download") as slow:
        download.text(f"{drip}/repomd.xml", limit_s=0.3)
    assert dict(slow.value.details)["reason"].startswith("it ")


def test_a_small_file_of_a_silent_server_is_given_up(server: Mirror) -> None:
    url = server.put("repomd.xml", b"<repomd/>")
    server.hold.clear()
    with pytest.raises(ToolError, match="could not download") as silent:
        download.text(url, limit_s=0.2)
    assert "timed out" in dict(silent.value.details)["reason"]
    assert len(server.requests) == 1


def test_without_a_name_service_the_tries_end(part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", gone)
    with pytest.raises(ToolError, match=r"could not download http://mirror\.example/x\.iso") as caught:
        download.fetch("http://mirror.example/x.iso", part, patience=Patience(tries=3, pause_s=0.01), note=print)
    reason = dict(caught.value.details)["reason"]
    assert reason.startswith("3 tries failed, the last one so: ")
    assert "Temporary failure in name resolution" in reason
    with pytest.raises(ToolError, match=r"could not download http://mirror\.example/repomd\.xml") as one:
        download.text("http://mirror.example/repomd.xml", limit_s=5)
    assert "Temporary failure in name resolution" in dict(one.value.details)["reason"]

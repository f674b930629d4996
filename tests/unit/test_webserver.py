"""The web server serves its folder, all of it, and nothing beside it."""

from __future__ import annotations

import http.client
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from builder.errors import HostError
from builder.tools.webserver import serving


def get(url: str, **headers: str) -> bytes:
    with urlopen(Request(url, headers=headers), timeout=10) as answer:
        return bytes(answer.read())


def status_of(port: int, target: str) -> int:
    """The answer to a target sent as it is; urlopen would tidy `..` up."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest("GET", target)
    connection.endheaders()
    status = connection.getresponse().status
    connection.close()
    return status


def test_files_and_folders_are_served_while_the_block_runs(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/file.rpm").write_bytes(b"\0payload" * 100_000)
    with serving(tmp_path) as server:
        assert server.url == f"http://127.0.0.1:{server.port}"
        assert get(f"{server.url}/deep/file.rpm") == b"\0payload" * 100_000
        assert b"file.rpm" in get(f"{server.url}/deep/")
    with pytest.raises(OSError, match="refused"):
        get(f"{server.url}/deep/file.rpm")


def test_nothing_outside_the_folder_is_served(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("no")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path / "secret")
    (inside / "loop").symlink_to("loop")
    (inside / "good").symlink_to("file")
    (inside / "file").write_text("yes")
    with serving(inside) as server:
        for target in ("/../secret", "/%2e%2e/secret", "//../secret", "/link", "/loop", "/%00", f"/{'x' * 5000}"):
            assert status_of(server.port, target) == 404, target
        assert get(f"{server.url}/good") == b"yes"


def test_a_folder_reached_by_a_link_is_served(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_text("yes")
    (tmp_path / "link").symlink_to("real")
    with serving(tmp_path / "link") as server:
        assert get(f"{server.url}/file") == b"yes"


@pytest.mark.parametrize("published", ["https://mirror.example/golden/candidate", "http://127.0.0.1:1/candidate"])
def test_a_mirrorlist_names_the_server_as_the_client_reached_it(tmp_path: Path, published: str) -> None:
    (tmp_path / "candidate").mkdir()
    (tmp_path / "candidate/mirrorlist").write_text(f"{published}/composes/20261121.1/\n")
    with serving(tmp_path) as server:
        url = f"{server.url}/candidate/mirrorlist"
        assert get(url).decode() == f"{server.url}/candidate/composes/20261121.1/\n"
        assert get(url, Host="web:81").decode() == "http://web:81/candidate/composes/20261121.1/\n"
    with serving(tmp_path / "candidate") as server:
        assert get(f"{server.url}/mirrorlist?x=1").decode() == f"{server.url}/composes/20261121.1/\n"


def test_a_missing_file_is_404(tmp_path: Path) -> None:
    with serving(tmp_path) as server, pytest.raises(HTTPError, match="404"):
        get(f"{server.url}/nothing")


def test_a_missing_folder_and_a_taken_port_are_errors_for_people(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="there is no such folder"), serving(tmp_path / "none"):
        pass
    with serving(tmp_path) as server:
        taken = rf"could not serve .* on 127\.0\.0\.1 port {server.port}: .*in use"
        with pytest.raises(HostError, match=taken), serving(tmp_path, port=server.port):
            pass

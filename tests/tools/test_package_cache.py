"""The host's package cache, between a real web server and real clients."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import createrepo_c
import pytest
import requests

from builder import mirrors, provision
from builder.errors import GoldenError, ToolError
from builder.media import Repository
from builder.night_steps import Retries, attempt
from builder.nights import Attempt
from builder.run import query, run
from builder.tools import guestfs, lent_repositories
from builder.tools.download import Patience
from builder.tools.package_cache import caching
from builder.tools.webserver import Server, listening
from tests.mirror import dripping, silent


@dataclass
class Upstream:
    """A server that counts. answers: path -> status of each request, in order."""

    folder: Path
    url: str = ""
    answers: dict[str, list[int]] = field(default_factory=dict)
    cut_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Counting(SimpleHTTPRequestHandler):
    def __init__(self, upstream: Upstream, *args: Any) -> None:
        self._upstream = upstream
        super().__init__(*args, directory=str(upstream.folder))

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        with self._upstream.lock:
            self._upstream.answers.setdefault(self.path, []).append(int(code))

    def copyfile(self, source: Any, outputfile: Any) -> None:
        data = source.read()
        outputfile.write(data[: len(data) - self._upstream.cut_bytes])


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Upstream]:
    folder = tmp_path / "upstream"
    (folder / "repodata").mkdir(parents=True)
    (folder / "Packages").mkdir()
    (folder / "Packages" / "a b+1.rpm").write_bytes(b"package" * 1000)
    (folder / "repodata" / "repomd.xml").write_text("one")
    made = Upstream(folder)
    with listening(partial(_Counting, made), what="a test") as server:
        made.url = server.url
        yield made


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def get(server: Server, path: str, status: int = 200) -> bytes:
    answer = requests.get(f"{server.url}/{path}", timeout=20)
    assert answer.status_code == status, answer.text
    return answer.content


def change(path: Path, text: str, *, after_s: float) -> None:
    """New bytes at a new time: the server tells by whole seconds."""
    path.write_text(text)
    later = time.time() + after_s
    os.utime(path, (later, later))


RPM = "Packages/a%20b%2B1.rpm"


def night(upstream: Upstream, cache: Path) -> bytes:
    """One build's worth of requests, through a cache of its own process."""
    with caching(upstream.url, cache=cache) as server:
        get(server, "repodata/repomd.xml")
        return get(server, RPM)


def test_a_package_is_downloaded_once_for_all_builds(upstream: Upstream, cache: Path) -> None:
    assert night(upstream, cache) == night(upstream, cache) == night(upstream, cache) == b"package" * 1000
    assert upstream.answers["/" + RPM] == [200]
    assert upstream.answers["/repodata/repomd.xml"] == [200, 304, 304]


def test_many_at_once_download_once(upstream: Upstream, cache: Path) -> None:
    with caching(upstream.url, cache=cache) as server, ThreadPoolExecutor(8) as pool:
        get(server, "repodata/repomd.xml")
        assert set(pool.map(lambda _: get(server, RPM), range(16))) == {b"package" * 1000}
    assert upstream.answers["/" + RPM] == [200]


def test_a_changed_repository_has_its_packages_asked_for_again(upstream: Upstream, cache: Path) -> None:
    night(upstream, cache)
    change(upstream.folder / "repodata" / "repomd.xml", "two", after_s=10)
    night(upstream, cache)
    night(upstream, cache)
    assert upstream.answers["/" + RPM] == [200, 304]
    change(upstream.folder / "repodata" / "repomd.xml", "three", after_s=20)
    change(upstream.folder / "Packages" / "a b+1.rpm", "rebuilt under its old name", after_s=20)
    assert night(upstream, cache) == b"rebuilt under its old name"


def test_a_damaged_file_is_downloaded_again(upstream: Upstream, cache: Path) -> None:
    night(upstream, cache)
    (file,) = cache.glob("*/Packages/a b+1.rpm")
    file.write_bytes(b"packagE" * 1000)
    assert night(upstream, cache) == b"package" * 1000
    assert upstream.answers["/" + RPM] == [200, 200]


def test_a_file_that_came_cut_short_is_refused_and_not_kept(upstream: Upstream, cache: Path) -> None:
    upstream.cut_bytes = 1
    with caching(upstream.url, cache=cache) as server:
        answer = requests.get(f"{server.url}/{RPM}", timeout=20)
    assert (answer.status_code, "cut short" in answer.reason or "IncompleteRead" in answer.reason) == (502, True)
    assert [path for path in cache.rglob("*") if path.suffix in (".rpm", ".part")] == []


def test_what_the_upstream_refuses_is_refused(upstream: Upstream, cache: Path) -> None:
    with caching(upstream.url, cache=cache) as server:
        get(server, "Packages/none.rpm", status=404)
        get(server, "..%2f..%2fsecret", status=404)
        get(server, ".hidden", status=404)


def test_an_upstream_that_is_gone_is_named(tmp_path: Path, cache: Path) -> None:
    with listening(partial(_Counting, Upstream(tmp_path)), what="a test") as gone:
        pass
    with caching(gone.url, cache=cache) as server:
        answer = requests.get(f"{server.url}/repodata/repomd.xml", timeout=20)
    assert answer.status_code == 502
    assert answer.reason.startswith(f"{gone.url} does not answer")


@pytest.mark.parametrize("patience", [Patience(read_s=0.2, least_bytes_s=10**9), Patience(read_s=0.2, most_s=0.3)])
def test_an_upstream_that_drips_is_given_up(cache: Path, patience: Patience) -> None:
    """What comes is enough to keep a connection alive, and never a package; whoever waits for it is told."""
    with dripping() as url, caching(url, cache=cache, patience=patience) as server:
        answer = requests.get(f"{server.url}/{RPM}", timeout=60)
    assert answer.status_code == 502
    assert f"{url}/{RPM} is too slow: it " in answer.reason
    assert [path for path in cache.rglob("*") if path.suffix in (".rpm", ".part")] == []


# Of an upstream: not a word in this time.
_SHORT = Patience(connect_s=5, read_s=0.3)
_BEGUN = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n<repomd>"


@pytest.mark.parametrize("greeting", [b"", _BEGUN])
def test_an_upstream_that_is_silent_is_given_up(cache: Path, greeting: bytes) -> None:
    """At once, or in the middle of a file."""
    with silent(greeting) as port, caching(f"http://127.0.0.1:{port}", cache=cache, patience=_SHORT) as server:
        answer = requests.get(f"{server.url}/repodata/repomd.xml", timeout=60)
    assert answer.status_code == 502
    assert answer.reason == f"http://127.0.0.1:{port} does not answer: timed out"
    assert [path for path in cache.rglob("*") if path.name == "repomd.xml"] == []


@contextlib.contextmanager
def stalled() -> Iterator[tuple[str, str]]:
    with silent() as port:
        yield f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port} does not answer: timed out"


@contextlib.contextmanager
def nameless() -> Iterator[tuple[str, str]]:
    """A name that no name service is there for."""
    ask = socket.getaddrinfo

    def gone(host: Any, *words: Any, **more: Any) -> Any:
        if host == "mirror.example":
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return ask(host, *words, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", gone)
        yield (
            "http://me:secret@mirror.example",
            "mirror.example does not answer: [Errno -3] Temporary failure in name resolution",
        )


@pytest.mark.parametrize("gone", [stalled, nameless])
def test_an_installation_without_its_mirror_says_so_and_is_tried_again_so_often(
    tmp_path: Path, cache: Path, gone: Callable[[], contextlib.AbstractContextManager[tuple[str, str]]]
) -> None:
    """The real dnf: its limits hold, the mirror is named, which dnf does not know of, and a night's tries end."""
    attempts: list[Attempt] = []

    def install(number: int) -> None:
        dnf = ["dnf", "-y", f"--installroot={tmp_path / str(number)}", "--releasever=9", "--disableplugin=*"]
        dnf += [f"--setopt=cachedir={tmp_path}/cache-{number}", "--setopt=varsdir=/dev/null"]
        with gone() as (url, told), caching(url, cache=cache, patience=_SHORT) as server:
            words = [
                "--setopt=reposdir=/dev/null",
                "--nogpgcheck",
                f"--repofrompath=tiny,{server.url}",
                "install",
                "tiny",
            ]
            try:
                run([*dnf, *words, "install", "tiny"], why="install", timeout_s=300, log=tmp_path / f"{number}.log")
            finally:
                told_of.append(told)

    def failed(_number: int, error: GoldenError) -> Attempt:
        attempts.append(attempt("build", error))
        return attempts[-1]

    told_of: list[str] = []
    with pytest.raises(ToolError, match="could not install") as error:
        Retries(1, 0).tried(install, failed=failed, note=lambda _: None)
    details = dict(error.value.details)
    assert "Status code: 502" in details["output"] and "tiny" in details["output"]
    assert details["mirror"].endswith(told_of[-1]) and "secret" not in details["mirror"]
    assert [it.cause for it in attempts] == ["mirror", "mirror"]


def test_a_mirror_that_answered_again_is_not_blamed(upstream: Upstream, cache: Path) -> None:
    with (
        pytest.raises(ToolError) as error,
        caching(upstream.url, cache=cache) as server,
    ):
        upstream.cut_bytes = 1
        get(server, RPM, status=502)
        upstream.cut_bytes = 0
        get(server, RPM)
        raise ToolError("could not install: a conflict")
    assert error.value.details == []


def test_what_nobody_asked_for_in_a_month_is_removed(upstream: Upstream, cache: Path) -> None:
    night(upstream, cache)
    (file,) = cache.glob("*/Packages/a b+1.rpm")
    long_ago = time.time() - 31 * 86400
    os.utime(file, (long_ago, long_ago))
    with caching(upstream.url, cache=cache):
        assert not file.exists()
        assert list(cache.glob("*/repodata/repomd.xml"))


@pytest.fixture
def href(tmp_path: Path, upstream: Upstream) -> str:
    """Where the package "tiny" lies in the upstream, a repository made by the real tools."""
    spec = tmp_path / "tiny.spec"
    spec.write_text(
        "Name: tiny\nVersion: 1\nRelease: 1\nSummary: s\nLicense: MIT\nBuildArch: noarch\n"
        "%description\n-\n%install\nmkdir -p %{buildroot}/tiny\n%files\n/tiny\n"
    )
    packages = upstream.folder / "Packages"
    macros = ["--define", f"_topdir {tmp_path / 'rpm'}", "--define", f"_rpmdir {packages}"]
    query(["rpmbuild", "-bb", *macros, spec], why="build an RPM")
    (rpm,) = packages.rglob("tiny*.rpm")
    href = str(rpm.relative_to(upstream.folder))
    (upstream.folder / "repodata" / "repomd.xml").unlink()
    with createrepo_c.RepositoryWriter(str(upstream.folder), num_packages=1) as writer:
        writer.add_pkg(createrepo_c.package_from_rpm(str(rpm), location_href=href))
    return href


def install_tiny(root: Path, *words: str) -> None:
    dnf = ["dnf", "-y", f"--installroot={root}", "--releasever=9", "--disableplugin=*"]
    dnf += [f"--setopt=cachedir={root}-cache", "--setopt=varsdir=/dev/null"]
    query([*dnf, *words, "install", "tiny"], why="install", timeout_s=120)
    assert (root / "tiny").is_dir()


def test_dnf_installs_through_it(tmp_path: Path, upstream: Upstream, cache: Path, href: str) -> None:
    """The real dnf, twice, from a repository made by the real tools; the second time without a download."""
    for turn in ("first", "second"):
        with caching(upstream.url, cache=cache) as server:
            words = ["--setopt=reposdir=/dev/null", "--nogpgcheck", f"--repofrompath=tiny,{server.url}"]
            install_tiny(tmp_path / turn, *words)
    assert upstream.answers["/" + href] == [200]


def test_what_a_running_guest_installs_comes_through_it_too(
    tmp_path: Path, upstream: Upstream, href: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images whose online steps install the same: the real dnf, with its own repository beside those lent to it."""
    monkeypatch.setattr(provision, "HOST", "127.0.0.1")  # as which guests know this host
    with listening(partial(_Counting, own := Upstream(upstream.folder)), what="a test") as direct:
        for image in ("first", "second"):
            files = tmp_path / f"{image}.repos.d"
            files.mkdir()
            (files / "own.repo").write_text(f"[own]\nname=own\nbaseurl={direct.url}\ngpgcheck=0\n")
            wanted = [Repository(name="tiny", location=upstream.url)]
            with mirrors.served(wanted, host=guestfs.HOST, state=tmp_path / "state") as found:
                (files / "golden.repo").write_text(lent_repositories.text(mirrors.seen_from_guest(found)))
                install_tiny(tmp_path / image, f"--setopt=reposdir={files}")
    assert upstream.answers["/" + href] == [200]
    assert "/repodata/repomd.xml" in own.answers
    assert "/" + href not in own.answers

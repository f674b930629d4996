"""`golden package`, `publish` and `repo` as typed: what they print, write and answer."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import click
import pytest
from click.testing import CliRunner, Result

from builder.cli.package import package
from builder.cli.publish import publish, repo
from builder.cli.session import Session
from builder.errors import ConfigError, GoldenError, HostError, VerifyError
from builder.model import Build
from builder.progress import Reporter
from builder.publication import Publication, Signing
from builder.store import Store
from tests.builds import add_build, make_project


@pytest.fixture
def session(store: Store, tmp_path: Path, reporter: Reporter, signing: Signing) -> Session:
    found = Session(file=tmp_path / "golden.toml", state=store.state, reporter=reporter)
    # as if golden.toml had been read
    project = make_project(tmp_path, url="http://mirror.example/golden")
    found.__dict__["project"] = project.model_copy(update={"publication": Publication(signing=signing)})
    return found


def call(session: Session, command: click.Command, *words: str) -> Result:
    result = CliRunner().invoke(command, words, obj=session)
    if isinstance(result.exception, GoldenError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def as_json(session: Session, command: click.Command, *words: str) -> Any:
    return json.loads(call(session, command, *words, "--json").stdout)


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_package_then_publish_then_check(session: Session, chain: dict[str, Build]) -> None:
    packaged = as_json(session, package, "sandbox-bootstrapped")
    assert [found["id"]["image"] for found in packaged] == ["sandbox-base", "sandbox-upgrade", "sandbox-bootstrapped"]
    assert all(found["is_new"] and found["size_bytes"] > 0 for found in packaged)
    again = call(session, package, "sandbox-bootstrapped").stdout
    assert again.count("there already") == 6

    published = as_json(session, publish, "sandbox-bootstrapped")
    compose = published["compose"]
    assert published["url"] == f"http://mirror.example/golden/candidate/composes/{compose}/"
    assert (published["packages"], len(published["new"])) == (6, 6)
    assert "nothing new to publish" in call(session, publish, "sandbox-bootstrapped").stdout
    assert as_json(session, repo, "check")["compose"] == compose
    assert f"channel 'candidate' is sound: compose {compose}, 6 RPMs" in call(session, repo, "check").stdout


def test_without_names_the_newest_build_of_every_image_is_meant(session: Session, chain: dict[str, Build]) -> None:
    add_build(session.store, "sandbox-base", version="20261122.1")
    stems = [f"{found['id']['image']}-{found['id']['version']}" for found in as_json(session, package)]
    assert sorted(stems) == sorted([*(build.stem for build in chain.values()), "sandbox-base-20261122.1"])
    assert "published 10 new RPMs" in call(session, publish).stdout


def test_dry_runs_write_nothing(session: Session, chain: dict[str, Build]) -> None:
    before = files(session.state)
    printed = call(session, package, "--dry-run", "sandbox-upgrade").stdout
    assert [line for line in printed.splitlines() if line.startswith("# ")] == [
        "# sandbox-base-20261121.1",
        "# sandbox-upgrade-20261121.1",
    ]
    assert printed.count(" rpmbuild -bb ") == 2
    assert files(session.state) == before

    call(session, package, "sandbox-upgrade")
    before = files(session.state)
    printed = call(session, publish, "--dry-run", "sandbox-upgrade").stdout
    assert "would publish 4 new RPMs: channel 'candidate'" in printed
    assert call(session, package, "--dry-run", "sandbox-upgrade").stdout == ""
    assert files(session.state) == before


def test_publishing_what_is_not_packaged_says_what_to_type(session: Session, chain: dict[str, Build]) -> None:
    with pytest.raises(ConfigError, match=r"there are no packages of 'sandbox-base-20261121\.1' yet") as refused:
        call(session, publish, "sandbox-upgrade")
    assert refused.value.try_next == "golden package sandbox-upgrade"


def test_packaging_what_is_not_built_says_what_to_type(session: Session) -> None:
    with pytest.raises(ConfigError, match="there is no build of 'sandbox-base' yet"):
        call(session, package, "sandbox-base")
    with pytest.raises(ConfigError, match="no image of this project is built yet"):
        call(session, package)
    with pytest.raises(ConfigError, match=r"there is no image 'sandbox-bse' in golden\.toml"):
        call(session, package, "sandbox-bse")


@pytest.mark.parametrize("name", ["../stable", "a/b", ".hidden", ""])
def test_a_channel_is_a_name_not_a_path(session: Session, name: str) -> None:
    result = call(session, publish, "--channel", name)
    assert result.exit_code == 2
    assert "is not a name" in result.output


def test_check_of_a_damaged_channel_fails(session: Session, chain: dict[str, Build]) -> None:
    call(session, package, "sandbox-base")
    call(session, publish, "sandbox-base")
    (rpm,) = session.store.channels.rglob("golden-sandbox-base-image-*.rpm")
    rpm.unlink()
    with pytest.raises(VerifyError, match="is not sound") as refused:
        call(session, repo, "check")
    assert refused.value.details == [("gone", str(rpm))]
    assert refused.value.exit_code == 5


def test_client_config_goes_to_the_terminal_or_a_file(session: Session, tmp_path: Path) -> None:
    printed = call(session, repo, "client-config").stdout
    assert "mirrorlist=http://mirror.example/golden/candidate/mirrorlist\n" in printed
    target = tmp_path / "golden.repo"
    assert call(session, repo, "client-config", "-o", str(target)).stdout == ""
    assert target.read_text() == printed
    with pytest.raises(HostError, match=r"could not write .*: No such file or directory"):
        call(session, repo, "client-config", "-o", str(tmp_path / "none/golden.repo"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_answers_until_it_is_told_to_end(
    session: Session, chain: dict[str, Build], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    call(session, package, "sandbox-base")
    call(session, publish, "sandbox-base")
    answers: list[str] = []

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def ask_then_end() -> None:
        """Stands in for the wait: at this point the server answers; then a real signal comes."""
        with urlopen(f"http://127.0.0.1:{port}/candidate/mirrorlist", timeout=10) as answer:
            answers.append(answer.read().decode())
        signal.raise_signal(number)

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setattr(signal, "pause", ask_then_end)
    before = signal.signal(number, interrupt)
    try:
        result = call(session, repo, "serve", "--port", str(port))
    finally:
        signal.signal(number, before)
    assert result.exit_code == 0
    assert f"at http://127.0.0.1:{port}; Ctrl-C ends it\nended\n" in result.output
    assert answers[0].startswith(f"http://127.0.0.1:{port}/candidate/composes/")

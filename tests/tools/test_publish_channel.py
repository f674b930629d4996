"""Channels made of real RPMs: complete or refused, immutable, and switched at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.channels import Checked, Published, check, publication, publish
from builder.channels import compose as composes
from builder.errors import HostError, VerifyError
from builder.locks import lock
from builder.model import Build
from builder.package import package
from builder.progress import Reporter
from builder.store import Store, sha256
from builder.tools import createrepo
from builder.tools.openpgp import Signer
from tests.builds import add_chain

URL = "http://mirror.example/golden"


@pytest.fixture
def rpms_of(store: Store, reporter: Reporter, signer: Signer) -> Callable[..., list[Path]]:
    """The RPMs of builds and all they stand on, parents first, image package before link package."""

    def make(*builds: Build) -> list[Path]:
        packaged = package(store, builds, prefix="golden", reporter=reporter, signer=signer)
        return [path for found in packaged for path in (found.image_rpm, found.link_rpm)]

    return make


def tree(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file below a folder: inode and bytes."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, sha256(path))
        for path in folder.rglob("*")
        if path.is_file()
    }


def candidate(store: Store) -> Path:
    return store.channels / "candidate"


@pytest.fixture
def publish_candidate(signer: Signer) -> Callable[..., Published]:
    def publish_there(store: Store, rpms: list[Path]) -> Published:
        return publish(store, "candidate", rpms, url=URL, signer=signer)

    return publish_there


@pytest.fixture
def check_candidate(signer: Signer) -> Callable[..., Checked]:
    def check_there(store: Store) -> Checked:
        return check(store, "candidate", signer=signer)

    return check_there


def test_a_first_publication_is_whole_and_sound(
    store: Store,
    chain: dict[str, Build],
    rpms_of: Callable[..., list[Path]],
    publish_candidate: Callable[..., Published],
    check_candidate: Callable[..., Checked],
) -> None:
    rpms = rpms_of(*chain.values())
    found = publish_candidate(store, rpms)
    assert (found.packages, found.new) == (8, tuple(path.name for path in rpms))
    assert (candidate(store) / "mirrorlist").read_text() == f"{URL}/candidate/composes/{found.compose}/\n"
    compose = candidate(store) / "composes" / found.compose
    assert sorted(path.name for path in (compose / "Packages").glob("*.rpm")) == sorted(found.new)
    assert all(path.samefile(compose / "Packages" / path.name) for path in rpms)
    assert {package.file_name: package.sha256 for package in createrepo.read(compose)} == {
        path.name: sha256(path) for path in rpms
    }
    assert check_candidate(store).packages == 8


def test_publishing_the_same_again_changes_nothing(
    store: Store,
    chain: dict[str, Build],
    rpms_of: Callable[..., list[Path]],
    publish_candidate: Callable[..., Published],
) -> None:
    rpms = rpms_of(chain["sandbox-upgrade"])
    first = publish_candidate(store, rpms)
    before = tree(store.channels)
    second = publish_candidate(store, rpms)
    assert (second.compose, second.new, second.packages) == (first.compose, (), 4)
    assert tree(store.channels) == before


def test_a_new_address_reaches_clients_without_a_new_compose(
    store: Store,
    chain: dict[str, Build],
    rpms_of: Callable[..., list[Path]],
    publish_candidate: Callable[..., Published],
    signer: Signer,
) -> None:
    rpms = rpms_of(chain["sandbox-base"])
    first = publish_candidate(store, rpms)
    publish(store, "candidate", rpms, url="http://moved.example", signer=signer)
    expected = f"http://moved.example/candidate/composes/{first.compose}/\n"
    assert (candidate(store) / "mirrorlist").read_text() == expected


def test_a_later_publication_keeps_what_there_was_and_reads_only_what_is_new(
    store: Store,
    chain: dict[str, Build],
    rpms_of: Callable[..., list[Path]],
    monkeypatch: pytest.MonkeyPatch,
    publish_candidate: Callable[..., Published],
    check_candidate: Callable[..., Checked],
) -> None:
    first = publish_candidate(store, rpms_of(chain["sandbox-bootstrapped"]))
    before = tree(candidate(store) / "composes" / first.compose)
    rpms = rpms_of(chain["sandbox-tools-installed"])
    read: list[str] = []
    real_read, real_sha256 = createrepo.read_rpm, publication.sha256
    monkeypatch.setattr(createrepo, "read_rpm", lambda path, **how: (read.append(path.name), real_read(path, **how))[1])
    monkeypatch.setattr(publication, "sha256", lambda path: (read.append(path.name), real_sha256(path))[1])
    second = publish_candidate(store, rpms)
    assert read == [path.name for path in rpms if "tools-installed" in path.name]
    assert (second.packages, len(second.new)) == (8, 2)
    assert tree(candidate(store) / "composes" / first.compose) == before
    assert check_candidate(store).compose == second.compose != first.compose


@pytest.mark.parametrize("left_out", ["sandbox-base-image", "sandbox-upgrade-image", "sandbox-bootstrapped-image"])
def test_a_set_that_is_not_complete_is_refused(
    store: Store,
    chain: dict[str, Build],
    rpms_of: Callable[..., list[Path]],
    left_out: str,
    publish_candidate: Callable[..., Published],
) -> None:
    rpms = rpms_of(chain["sandbox-bootstrapped"])
    some = [path for path in rpms if left_out not in path.name]
    assert len(some) == 5
    with pytest.raises(VerifyError, match="would not be complete; nothing was published") as refused:
        publish_candidate(store, some)
    assert any(f"requires golden-{left_out}-20261121.1 = 20261121.1-1" in text for _, text in refused.value.details)
    assert not store.channels.exists()


def test_other_bytes_under_a_published_name_are_refused(
    store: Store,
    chain: dict[str, Build],
    rpms_of: Callable[..., list[Path]],
    publish_candidate: Callable[..., Published],
) -> None:
    rpms = rpms_of(chain["sandbox-base"])
    publish_candidate(store, rpms)
    before = tree(store.channels)
    data = rpms[0].read_bytes()
    rpms[0].unlink()
    rpms[0].write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(VerifyError, match="was published before with other bytes"):
        publish_candidate(store, rpms)
    assert tree(store.channels) == before


def test_a_copy_of_a_published_rpm_is_the_same_rpm(
    store: Store,
    chain: dict[str, Build],
    rpms_of: Callable[..., list[Path]],
    publish_candidate: Callable[..., Published],
) -> None:
    rpms = rpms_of(chain["sandbox-base"])
    publish_candidate(store, rpms)
    data = rpms[0].read_bytes()
    rpms[0].unlink()
    rpms[0].write_bytes(data)
    assert publish_candidate(store, rpms).new == ()


def test_a_file_that_is_no_rpm_is_refused(store: Store, publish_candidate: Callable[..., Published]) -> None:
    store.rpms.mkdir(parents=True)
    (store.rpms / "x.rpm").write_bytes(b"no")
    with pytest.raises(VerifyError, match=r"x\.rpm cannot be read as an RPM"):
        publish_candidate(store, [store.rpms / "x.rpm"])


@pytest.mark.parametrize("where", ["write", "rename", "mirrorlist"])
def test_an_interrupted_publication_leaves_clients_on_the_old_one_and_the_next_succeeds(
    store: Store,
    chain: dict[str, Build],
    rpms_of: Callable[..., list[Path]],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    publish_candidate: Callable[..., Published],
    check_candidate: Callable[..., Checked],
) -> None:
    publish_candidate(store, rpms_of(chain["sandbox-base"]))
    line = (candidate(store) / "mirrorlist").read_text()

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    rpms = rpms_of(chain["sandbox-upgrade"])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        match where:
            case "write":
                patch.setattr(createrepo, "write", interrupt)
            case "rename":
                patch.setattr(Path, "rename", interrupt)
            case _:
                patch.setattr(composes, "switch", interrupt)
        publish_candidate(store, rpms)
    assert (candidate(store) / "mirrorlist").read_text() == line
    assert check_candidate(store).packages == 2
    assert len(publish_candidate(store, rpms).new) == 2
    assert check_candidate(store).packages == 4
    assert not list((candidate(store) / "composes").glob(".*"))


def test_two_publications_at_once_are_refused(
    store: Store,
    chain: dict[str, Build],
    rpms_of: Callable[..., list[Path]],
    publish_candidate: Callable[..., Published],
) -> None:
    rpms = rpms_of(chain["sandbox-base"])
    busy = lock(store.root / "publish-candidate.lock", what="the channel")
    with busy, pytest.raises(HostError, match="could not lock the channel 'candidate'") as refused:
        publish_candidate(store, rpms)
    assert f"pid {os.getpid()}" in dict(refused.value.details)["holder"]


def test_check_finds_all_damage_at_once(
    store: Store,
    chain: dict[str, Build],
    rpms_of: Callable[..., list[Path]],
    publish_candidate: Callable[..., Published],
    check_candidate: Callable[..., Checked],
) -> None:
    rpms = rpms_of(chain["sandbox-upgrade"])
    publish_candidate(store, rpms)
    rpms[0].chmod(0o644)
    with rpms[0].open("r+b") as stream:  # a hard link: the compose has these bytes, too
        stream.write(b"X")
    compose = composes.current(candidate(store))
    assert compose
    (compose / "Packages" / rpms[3].name).unlink()
    with pytest.raises(VerifyError, match="is not sound") as refused:
        check_candidate(store)
    assert sorted(label for label, _ in refused.value.details) == ["damaged", "gone"]


def test_check_finds_damaged_metadata(
    store: Store,
    chain: dict[str, Build],
    rpms_of: Callable[..., list[Path]],
    publish_candidate: Callable[..., Published],
    check_candidate: Callable[..., Checked],
) -> None:
    publish_candidate(store, rpms_of(chain["sandbox-base"]))
    compose = composes.current(candidate(store))
    assert compose
    (primary,) = (compose / "repodata").glob("*primary*")
    primary.write_bytes(b"")
    with pytest.raises(VerifyError, match=r"the metadata of .* cannot be read"):
        check_candidate(store)


def test_versions_of_an_image_gather_in_the_channel(
    store: Store, rpms_of: Callable[..., list[Path]], publish_candidate: Callable[..., Published]
) -> None:
    for version in ("20261121.1", "20261121.2"):
        publish_candidate(store, rpms_of(add_chain(store, "sandbox-base", version=version)["sandbox-base"]))
    compose = composes.current(candidate(store))
    assert compose
    assert sorted(path.name for path in (compose / "Packages").glob("*.rpm")) == [
        "golden-sandbox-base-20261121.1-1.noarch.rpm",
        "golden-sandbox-base-20261121.2-1.noarch.rpm",
        "golden-sandbox-base-image-20261121.1-20261121.1-1.noarch.rpm",
        "golden-sandbox-base-image-20261121.2-20261121.2-1.noarch.rpm",
    ]

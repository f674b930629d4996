"""The real dnf as client of a channel: over http, by the mirrorlist, into a root of its own."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.errors import ToolError
from builder.model import Build
from builder.package import package
from builder.progress import Reporter
from builder.publish import client_config, publish
from builder.run import query
from builder.store import Store, sha256
from builder.tools import createrepo, dnf
from builder.tools.webserver import serving
from tests.builds import add_build, add_chain, backing_chain

LEAF = "golden-sandbox-bootstrapped"


@dataclass
class Client:
    """A root with nothing in it, and dnf for it."""

    folder: Path
    url: str

    def __post_init__(self) -> None:
        self.folder.mkdir()
        text = client_config("candidate", prefix="golden", project="demo", url=self.url)
        self.repo_file.write_text(text)

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def repo_file(self) -> Path:
        return self.folder / "golden-candidate.repo"

    @property
    def images(self) -> Path:
        return self.root / "usr/share/golden/images"

    def install(self, *packages: str) -> None:
        dnf.install_into_root(
            packages, root=self.root, repo_file=self.repo_file, cache=self.folder / "cache", log=self.folder / "dnf.log"
        )

    def dnf(self, *words: str) -> str:
        argv = dnf.argv("--refresh", *words, root=self.root, repo_file=self.repo_file, cache=self.folder / "cache")
        return query(argv, why=f"dnf {words[0]}", timeout_s=120)

    def rpm(self, *words: str) -> list[str]:
        return sorted(query(["rpm", f"--root={self.root}", *words], why="ask rpm").splitlines())

    def names(self) -> list[str]:
        return self.rpm("-qa", "--qf", "%{NAME}\n")


@pytest.fixture
def client(store: Store, tmp_path: Path) -> Iterator[Client]:
    store.channels.mkdir(parents=True)
    with serving(store.channels) as server:
        yield Client(tmp_path / "client", server.url)


def rpms_of(store: Store, reporter: Reporter, *builds: Build) -> list[Path]:
    """The RPMs of builds and all they stand on, parents first."""
    packaged = package(store, builds, prefix="golden", reporter=reporter)
    return [path for found in packaged for path in (found.image_rpm, found.link_rpm)]


def publish_builds(store: Store, reporter: Reporter, *builds: Build) -> None:
    # An address nobody listens on: what the server answers must be its own.
    publish(store, "candidate", rpms_of(store, reporter, *builds), url="http://127.0.0.1:1/elsewhere")


def image_packages(*images: str, version: str = "20261121.1") -> list[str]:
    return [f"golden-{image}-image-{version}" for image in images]


CHAIN = ("sandbox-base", "sandbox-bootstrapped", "sandbox-upgrade")


def test_installing_the_leaf_brings_all_parents_and_nothing_else(
    store: Store, chain: dict[str, Build], reporter: Reporter, client: Client
) -> None:
    publish_builds(store, reporter, *chain.values())
    client.install(LEAF)
    assert client.names() == sorted([LEAF, *image_packages(*CHAIN)])
    files = {path.name: path for path in client.images.iterdir()}
    assert sorted(files) == sorted(
        [f"{image}-20261121.1.{suffix}" for image in CHAIN for suffix in ("qcow2", "packages", "json")]
        + ["sandbox-bootstrapped.qcow2"]
    )
    link = files.pop("sandbox-bootstrapped.qcow2")
    assert link.readlink() == Path("sandbox-bootstrapped-20261121.1.qcow2")
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o444}
    assert {name: sha256(path) for name, path in files.items()} == {name: sha256(store.images / name) for name in files}
    assert backing_chain(link)[1:] == ["sandbox-upgrade-20261121.1.qcow2", "sandbox-base-20261121.1.qcow2"]
    # prints what differs, and ends with an error if anything does
    assert client.rpm("--verify", "--all") == []


def test_upgrade_moves_the_link_and_downgrade_moves_it_back(
    store: Store, chain: dict[str, Build], reporter: Reporter, client: Client
) -> None:
    publish_builds(store, reporter, chain["sandbox-bootstrapped"])
    client.install(LEAF)
    newer = add_chain(store, "sandbox-base", "sandbox-upgrade", "sandbox-bootstrapped", version="20261122.1")
    publish_builds(store, reporter, newer["sandbox-bootstrapped"])
    link = client.images / "sandbox-bootstrapped.qcow2"
    old, new = "sandbox-bootstrapped-20261121.1.qcow2", "sandbox-bootstrapped-20261122.1.qcow2"

    client.dnf("upgrade")
    assert link.readlink() == Path(new)
    assert client.names() == sorted([LEAF, *image_packages(*CHAIN), *image_packages(*CHAIN, version="20261122.1")])
    assert sha256(client.images / old) == chain["sandbox-bootstrapped"].id.sha256
    assert backing_chain(client.images / old)[1:] == [
        "sandbox-upgrade-20261121.1.qcow2",
        "sandbox-base-20261121.1.qcow2",
    ]

    client.dnf("downgrade", LEAF)
    assert link.readlink() == Path(old)
    assert (client.images / new).exists()
    assert client.rpm("--verify", "--all") == []

    client.dnf("upgrade")
    client.dnf("autoremove")
    assert client.names() == sorted([LEAF, *image_packages(*CHAIN, version="20261122.1")])


def test_two_versions_are_installed_side_by_side(store: Store, reporter: Reporter, client: Client) -> None:
    for version in ("20261121.1", "20261121.2"):
        publish_builds(store, reporter, add_build(store, "sandbox-base", version=version))
    wanted = ["golden-sandbox-base-image-20261121.1", "golden-sandbox-base-image-20261121.2"]
    client.install(*wanted)
    assert client.names() == wanted
    assert client.rpm("--verify", "--all") == []


def test_a_repository_with_another_base_under_the_same_version_cannot_be_installed_from(
    store: Store, chain: dict[str, Build], reporter: Reporter, client: Client, tmp_path: Path
) -> None:
    """`golden publish` refuses such a set; mixed by other means, dnf refuses it by the image id."""
    other = Store(tmp_path, "other")
    wrong = rpms_of(other, reporter, add_build(other, "sandbox-base"))
    right = rpms_of(store, reporter, chain["sandbox-upgrade"])
    compose = store.channels / "candidate/composes/20261121.1"
    (compose / "Packages").mkdir(parents=True)
    for path in [*wrong, *right[2:]]:
        shutil.copy(path, compose / "Packages")
    found = [createrepo.read_rpm(path, href=f"Packages/{path.name}") for path in (compose / "Packages").iterdir()]
    assert len(found) == 4
    createrepo.write(compose, found)
    (store.channels / "candidate/mirrorlist").write_text("http://mirror.example/candidate/composes/20261121.1/\n")
    with pytest.raises(ToolError) as refused:
        client.install("golden-sandbox-upgrade")
    assert "nothing provides golden-image-id(golden-sandbox-base-image-2026" in dict(refused.value.details)["output"]
    client.install("golden-sandbox-base")


def test_a_client_in_a_loop_sees_no_error_while_the_channel_is_published_to(
    store: Store, reporter: Reporter, client: Client
) -> None:
    publish_builds(store, reporter, add_build(store, "sandbox-base", version="20261121.1"))
    counts: list[int] = []
    wrong: list[ToolError] = []
    has_answer, is_over = threading.Event(), threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            try:
                counts.append(len(client.dnf("repoquery", "--quiet", "golden-sandbox-base").split()))
            except ToolError as error:
                wrong.append(error)
            has_answer.set()

    asking = threading.Thread(target=ask)
    asking.start()
    assert has_answer.wait(timeout=60)
    for count in range(2, 12):
        publish_builds(store, reporter, add_build(store, "sandbox-base", version=f"20261121.{count}"))
    is_over.set()
    asking.join()
    assert not [dict(error.details) for error in wrong]
    assert counts[0] == 1
    assert len(counts) > 1
    assert counts == sorted(counts)
    assert len(client.dnf("repoquery", "--quiet", "golden-sandbox-base").split()) == 11

"""The real dnf as client of a channel: over http, by the mirrorlist, into a root of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from builder.errors import ToolError
from builder.model import Build
from builder.store import Store, sha256
from builder.tools import createrepo
from tests.builds import add_build, add_chain, backing_chain
from tests.clients import Client
from tests.tools.conftest import Publisher

LEAF = "golden-sandbox-bootstrapped"


def image_packages(*images: str, version: str = "20261121.1") -> list[str]:
    return [f"golden-{image}-image-{version}" for image in images]


SUFFIXES = ("qcow2", "packages", "json", "cdx.json", "intoto.jsonl")
CHAIN = ("sandbox-base", "sandbox-bootstrapped", "sandbox-upgrade")


def test_installing_the_leaf_brings_all_parents_and_nothing_else(
    store: Store, chain: dict[str, Build], publisher: Publisher, client: Client
) -> None:
    publisher.publish(*chain.values())
    client.install(LEAF)
    assert client.names() == sorted([LEAF, *image_packages(*CHAIN)])
    files = {path.name: path for path in client.images.iterdir()}
    assert sorted(files) == sorted(
        [f"{image}-20261121.1.{suffix}" for image in CHAIN for suffix in SUFFIXES] + ["sandbox-bootstrapped.qcow2"]
    )
    link = files.pop("sandbox-bootstrapped.qcow2")
    assert link.readlink() == Path("sandbox-bootstrapped-20261121.1.qcow2")
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o444}
    made = {path.name: sha256(path) for path in store.images.iterdir()}
    assert {name: sha256(path) for name, path in files.items() if name in made} == {
        name: digest for name, digest in made.items() if name in files
    }
    assert {name.split(".", 2)[2] for name in files if name not in made} == {"cdx.json", "intoto.jsonl"}
    assert backing_chain(link)[1:] == ["sandbox-upgrade-20261121.1.qcow2", "sandbox-base-20261121.1.qcow2"]
    # prints what differs, and ends with an error if anything does
    assert client.rpm("--verify", "--all") == []


def test_upgrade_moves_the_link_and_downgrade_moves_it_back(
    store: Store, chain: dict[str, Build], publisher: Publisher, client: Client
) -> None:
    publisher.publish(chain["sandbox-bootstrapped"])
    client.install(LEAF)
    newer = add_chain(store, "sandbox-base", "sandbox-upgrade", "sandbox-bootstrapped", version="20261122.1")
    publisher.publish(newer["sandbox-bootstrapped"])
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


def test_two_versions_are_installed_side_by_side(store: Store, publisher: Publisher, client: Client) -> None:
    for version in ("20261121.1", "20261121.2"):
        publisher.publish(add_build(store, "sandbox-base", version=version))
    wanted = ["golden-sandbox-base-image-20261121.1", "golden-sandbox-base-image-20261121.2"]
    client.install(*wanted)
    assert client.names() == wanted
    assert client.rpm("--verify", "--all") == []


def test_a_repository_with_another_base_under_the_same_version_cannot_be_installed_from(
    store: Store, chain: dict[str, Build], publisher: Publisher, client: Client, tmp_path: Path
) -> None:
    """`golden publish` refuses such a set; mixed by other means, dnf refuses it by the image id."""
    other = Store(tmp_path, "other")
    wrong = publisher.rpms(add_build(other, "sandbox-base"), store=other)
    right = publisher.rpms(chain["sandbox-upgrade"])
    compose = store.channels / "candidate/composes/20261121.1"
    (compose / "Packages").mkdir(parents=True)
    for path in [*wrong, *right[2:]]:
        shutil.copy(path, compose / "Packages")
    found = [
        createrepo.read_rpm(path, href=f"Packages/{path.name}") for path in sorted((compose / "Packages").glob("*.rpm"))
    ]
    assert len(found) == 4
    createrepo.write(compose, found)
    publisher.signer.sign(compose / "repodata/repomd.xml", compose / "repodata/repomd.xml.asc")
    (store.channels / "candidate/key.asc").write_text(publisher.signer.public_key)
    (store.channels / "candidate/mirrorlist").write_text("http://mirror.example/candidate/composes/20261121.1/\n")
    with pytest.raises(ToolError) as refused:
        client.install("golden-sandbox-upgrade")
    assert "nothing provides golden-image-id(golden-sandbox-base-image-2026" in dict(refused.value.details)["output"]
    client.install("golden-sandbox-base")

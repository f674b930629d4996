"""`golden status` on a slave: dnf-installed images, a channel that moved on, and a clone that holds an old version."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder import clones
from builder.clones import holds
from builder.progress import Reporter
from builder.store import Store
from builder.tools.libvirt import Connection
from builder.tools.openpgp import Signer
from tests.builds import add_chain
from tests.clients import Client
from tests.tools.conftest import Publisher

LEAF = "golden-sandbox-bootstrapped"
CHAIN = ("sandbox-base", "sandbox-upgrade", "sandbox-bootstrapped")
OLD, NEW = "20261121.1", "20261122.1"


@pytest.fixture
def store(open_path: Path) -> Store:
    return Store(open_path / "state", "demo")


@pytest.fixture
def slave(store: Store, served: str, signer: Signer, publisher: Publisher, open_path: Path) -> Client:
    """It installed the leaf, and the channel has a newer one."""
    client = Client(open_path / "slave", served, signer)
    publisher.publish(*add_chain(store, *CHAIN, version=OLD).values())
    client.install(LEAF)
    publisher.publish(*add_chain(store, *CHAIN, version=NEW).values())
    return client


@pytest.fixture
def lease(slave: Client, store: Store, connection: Connection) -> Iterator[clones.Lease]:
    """Of a clone that is off, on the version that is installed first."""
    source = clones.locate("sandbox-bootstrapped", None, images=slave.images, builds=None)
    order = clones.Order(name=f"held-{os.getpid()}", source=source, memory_mib=64, cpus=1, accelerator="tcg", key=None)
    (made,) = clones.make([order], state=store.state, connection=connection, reporter=Reporter("quiet"))
    yield made
    clones.destroy(made.name, state=store.state, connection=connection)


def status(slave: Client, store: Store, *words: str) -> str:
    options = ["--images", str(slave.images), *words]
    ended = subprocess.run(
        [sys.executable, "-m", "builder", "status", *options],
        env=os.environ | {"GOLDEN_STATE": str(store.state), "GOLDEN_PROGRESS": "plain", "GOLDEN_FILE": "/none"},
        capture_output=True,
        text=True,
        check=False,
    )
    print(ended.stdout, ended.stderr)
    assert ended.returncode == 0
    return ended.stdout + (ended.stderr if "--json" not in words else "")


def facts(slave: Client, store: Store) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(status(slave, store, "--repo-file", str(slave.repo_file), "--json"))
    return found


def test_an_image_that_is_behind_the_channel(slave: Client, store: Store) -> None:
    found = facts(slave, store)
    images = {one["image"]: one for one in found["images"]}
    assert set(images) == set(CHAIN)
    for one in images.values():
        assert (one["version"], one["channel"], one["is_behind"], one["is_free"]) == (OLD, NEW, True, False)
        assert one["age_s"] > 86400
    assert (found["leases"], found["garbage"], found["free_bytes"]) == ([], [], 0)
    assert "behind: dnf upgrade" in status(slave, store, "--repo-file", str(slave.repo_file))


def test_an_old_version_can_go_when_nobody_uses_it(slave: Client, store: Store) -> None:
    slave.dnf("upgrade")
    found = facts(slave, store)
    old = [one for one in found["images"] if one["version"] == OLD]
    assert len(old) == 3
    assert all(one["is_free"] and not one["is_current"] for one in old)
    assert all(not one["is_behind"] for one in found["images"])
    assert found["free_bytes"] == sum(one["size_bytes"] for one in old)
    said = status(slave, store, "--repo-file", str(slave.repo_file))
    assert said.count("could be freed") == 4
    slave.dnf("autoremove")
    assert facts(slave, store)["free_bytes"] == 0


def test_an_old_version_that_a_clone_stands_on_stays(slave: Client, store: Store, lease: clones.Lease) -> None:
    slave.dnf("upgrade")
    found = facts(slave, store)
    old = [one for one in found["images"] if one["version"] == OLD]
    assert [one["used_by"] for one in old] == [[lease.name]] * 3
    assert not any(one["is_free"] for one in old)
    (told,) = found["leases"]
    assert (told["clone"], told["image"], told["version"], told["owner"]) == (
        lease.name,
        "sandbox-bootstrapped",
        OLD,
        None,
    )
    said = status(slave, store, "--no-channel")
    assert "old, in use" in said
    assert f"lease: {lease.name} on sandbox-bootstrapped {OLD}, 64 MiB, kept until destroyed" in said


def test_an_old_version_that_another_users_machine_runs_on_stays(
    slave: Client, store: Store, lease: clones.Lease, connection: Connection, open_path: Path
) -> None:
    """As seen from another state directory, which knows nothing of the clone."""
    slave.dnf("upgrade")
    other = Store(open_path / "other", "demo")
    assert all(one["is_free"] for one in facts(slave, other)["images"] if one["version"] == OLD)
    clones.start(lease.name, state=store.state, connection=connection, reporter=Reporter("quiet"), is_cold=True)
    found = facts(slave, other)
    old = [one for one in found["images"] if one["version"] == OLD]
    assert [(one["used_by"], one["is_free"]) for one in old] == [([lease.domain_name], False)] * 3
    assert (found["leases"], found["free_bytes"]) == ([], 0)
    said = status(slave, other, "--no-channel")
    assert f"leases are those of {other.state}; of others, what runs is counted" in said
    # From its own it has its own name, once.
    assert [it["used_by"] for it in facts(slave, store)["images"] if it["version"] == OLD] == [[lease.name]] * 3


def test_an_old_version_that_a_bundle_stands_on_stays(
    slave: Client, store: Store, lease: clones.Lease, tmp_path: Path
) -> None:
    disks = tmp_path / "bundle/disks"
    disks.mkdir(parents=True)
    holds.hold(lease.model_copy(update={"name": "gone"}), disks, state=store.state)
    slave.dnf("upgrade")
    old = [one for one in facts(slave, store)["images"] if one["version"] == OLD]
    assert [one["held_by"] for one in old] == [[str(disks.parent)]] * 3
    assert not any(one["is_free"] for one in old)
    assert f"{lease.name}, 1 bundle " in status(slave, store, "--no-channel")
    disks.rmdir()
    assert not any(one["held_by"] for one in facts(slave, store)["images"])


def test_a_channel_that_does_not_answer_is_told(slave: Client, store: Store, tmp_path: Path) -> None:
    dead = tmp_path / "dead.repo"
    dead.write_text(slave.repo_file.read_text().replace(slave.url, "http://127.0.0.1:1"))
    said = status(slave, store, "--repo-file", str(dead))
    assert "which versions the channel has is not known: could not ask which images the channel has" in said
    assert OLD in said


def test_a_link_that_leads_nowhere_is_told(slave: Client, store: Store) -> None:
    (slave.images / f"sandbox-bootstrapped-{OLD}.qcow2").unlink()
    assert "sandbox-bootstrapped.qcow2 leads to a file that is gone" in status(slave, store, "--no-channel")


def test_a_slave_with_nothing(store: Store, slave: Client) -> None:
    slave.dnf("remove", "golden-*")
    assert "no image is installed; dnf install 'golden-*'" in status(slave, store, "--no-channel")

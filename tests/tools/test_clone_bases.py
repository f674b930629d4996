"""Clones whose images are upgraded, removed, changed or lost below them: real rpm and dnf, no guests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder import clones
from builder.clones import Lease, Order, collection, pins
from builder.errors import ConfigError, VerifyError
from builder.progress import Reporter
from builder.store import Store
from builder.tools import qcow2
from builder.tools.libvirt import Connection, connect
from builder.tools.openpgp import Signer
from builder.tools.webserver import serving
from tests.builds import add_chain
from tests.clients import Client
from tests.tools.conftest import Publisher

LEAF = "golden-sandbox-bootstrapped"
CHAIN = ("sandbox-base", "sandbox-upgrade", "sandbox-bootstrapped")


@dataclass
class Host:
    """A machine with installed images and clones of them."""

    store: Store
    publisher: Publisher
    client: Client
    connection: Connection
    prefix: str

    @property
    def state(self) -> Path:
        return self.store.state

    def publish(self, version: str) -> None:
        self.publisher.publish(add_chain(self.store, *CHAIN, version=version)["sandbox-bootstrapped"])

    def make(self, *names: str, images: Path | None = None, reporter: Reporter | None = None) -> list[Lease]:
        source = clones.locate("sandbox-bootstrapped", None, images=images or self.client.images, builds=None)
        return clones.make(
            [
                Order(name=f"{self.prefix}{name}", source=source, memory_mib=64, cpus=1, accelerator="tcg", key=None)
                for name in names
            ],
            state=self.state,
            connection=self.connection,
            reporter=reporter or Reporter("quiet"),
        )

    def start(self, lease: Lease) -> Lease:
        return clones.start(
            lease.name, state=self.state, connection=self.connection, reporter=Reporter("quiet"), is_cold=True
        )

    def golden(self, *words: str) -> tuple[int, str, str]:
        argv = [sys.executable, "-m", "builder", "--state", str(self.state), "--progress", "quiet", *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def host(open_path: Path, reporter: Reporter, signer: Signer) -> Iterator[Host]:
    store = Store(open_path / "state", "demo")
    store.channels.mkdir(parents=True)
    with serving(store.channels) as server, connect() as connection:
        publisher = Publisher(store, reporter, signer)
        client = Client(open_path / "client", server.url, signer)
        host = Host(store, publisher, client, connection, f"test-{os.urandom(3).hex()}-")
        host.publish("20261121.1")
        host.client.install(LEAF)
        yield host
        for name in clones.names(host.state):
            clones.destroy(name, state=host.state, connection=connection)


def test_twenty_clones_outlive_an_upgrade_and_autoremove(host: Host) -> None:
    made = host.make(*map(str, range(20)))
    for lease in made[:2]:
        host.start(lease)
    host.publish("20261122.1")
    host.client.dnf("upgrade")
    host.client.dnf("autoremove")
    assert collection.collect(host.state, connection=host.connection, is_dry=False, note=print) == []
    # The images of the clones are gone from the host, by their packages and by their names …
    assert not [name for name in host.client.names() if name.endswith("20261121.1")]
    assert not list(host.client.images.glob("*20261121.1*"))
    # … and every clone, started or not, has all of its files, byte by byte.
    for lease in made:
        clones.check(lease.pins, what=lease.name, is_full=True)
        qcow2.verify_chain(clones.directory(host.state, lease.name) / "disk.qcow2", [p.path for p in lease.pins])
    assert clones.is_running(made[0], host.connection)
    clones.stop(made[0].name, state=host.state, connection=host.connection, timeout_s=1, is_forced=True)
    for lease in (made[0], made[-1]):
        assert clones.is_running(host.start(lease), host.connection)
    # A new clone is of the new image; the old files go with the last clone of the old one.
    assert host.make("new")[0].image.version == "20261122.1"
    for lease in made:
        clones.destroy(lease.name, state=host.state, connection=host.connection)
    assert {path.name for path in pins.folder(host.state).rglob("*.qcow2")} == {
        f"{it}-20261122.1.qcow2" for it in CHAIN
    }


def change(file: Path) -> None:
    file.chmod(0o644)
    with file.open("ab") as stream:
        stream.write(b"more")


def test_a_changed_base_is_refused_at_start_and_repaired_from_the_package(host: Host) -> None:
    (lease,) = host.make("one")
    base = lease.pins[-1]
    change(base.path)
    with pytest.raises(VerifyError, match="stands on an image file that was changed") as caught:
        host.start(lease)
    assert caught.value.try_next == "golden doctor, which says how to repair it"
    _, out, _ = host.golden("doctor", "--json")
    (found,) = [it for it in json.loads(out)["findings"] if it["check"] == f"clone {lease.name}"]
    assert found["remedy"] == (
        f"dnf reinstall golden-sandbox-base-image-20261121.1 && golden clone repair {lease.name}"
    )
    # Nothing to be had from what is there now …
    with pytest.raises(VerifyError, match="is not to be had"):
        clones.repair(lease, state=host.state)
    # … but after what doctor says.
    host.client.dnf("reinstall", "golden-sandbox-base-image-20261121.1")
    assert host.golden("clone", "repair", lease.name)[:2] == (0, f"{lease.name}: {base.path}\n")
    assert host.golden("clone", "check", "--full")[:2] == (0, "1 clones stand on whole images\n")
    assert clones.is_running(host.start(lease), host.connection)


def test_a_base_that_is_gone_is_refused_at_start_and_linked_anew(host: Host) -> None:
    (lease,) = host.make("one")
    shutil.rmtree(pins.folder(host.state))
    with pytest.raises(VerifyError, match="stands on an image file that is gone"):
        host.start(lease)
    (fault,) = clones.faults(host.state)
    assert fault.remedy == f"golden clone repair {lease.name}"
    assert len(clones.repair(lease, state=host.state)) == 3
    assert clones.faults(host.state) == []
    assert clones.is_running(host.start(lease), host.connection)


def test_rot_that_only_reading_finds_is_found_by_a_full_check(host: Host) -> None:
    (lease,) = host.make("one")
    file = lease.pins[0].path
    status = file.stat()
    file.chmod(0o644)
    with file.open("r+b") as stream:
        stream.seek(status.st_size // 2)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 1]))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert host.golden("clone", "check", lease.name)[0] == 0
    code, _, err = host.golden("clone", "check", "--full", lease.name)
    assert (code, err.splitlines()[0]) == (
        5,
        f"golden: error: the clone '{lease.name}' stands on an image file that was changed",
    )


def test_images_on_another_file_system_are_used_in_place_with_a_word(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    """/dev/shm is one: tmpfs, on every Linux."""
    with tempfile.TemporaryDirectory(prefix="golden-test-", dir="/dev/shm") as name:
        folder = Path(name)
        folder.chmod(0o755)
        images = folder / "images"
        shutil.copytree(host.client.images, images, symlinks=True)
        (lease,) = host.make("one", images=images, reporter=Reporter("plain"))
        assert "keep its package with: dnf mark install" in capsys.readouterr().err
        assert not any(pin.is_held for pin in lease.pins)
        assert clones.is_running(host.start(lease), host.connection)
        clones.stop(lease.name, state=host.state, connection=host.connection, timeout_s=1, is_forced=True)
        shutil.rmtree(images)
        with pytest.raises(VerifyError, match="stands on an image file that is gone"):
            host.start(lease)
        assert clones.faults(host.state)[0].remedy == (
            f"dnf install golden-sandbox-bootstrapped-image-20261121.1 && golden clone repair {lease.name}"
        )


def test_seventy_clones_take_less_than_1_mib_each(host: Host) -> None:
    """How long they take is measured by benchmarks/clones.py."""
    made = host.make(*map(str, range(70)))
    sizes = [
        sum(file.stat().st_blocks * 512 for file in clones.directory(host.state, lease.name).iterdir())
        for lease in made
    ]
    assert len({lease.uuid for lease in made}) == 70
    assert max(sizes) < 1024**2


def test_of_several_clones_all_are_made_or_none(host: Host) -> None:
    host.make("two")
    with pytest.raises(ConfigError, match=r"there is a clone .* already"):
        host.make("one", "two", "three")
    assert clones.names(host.state) == [f"{host.prefix}two"]

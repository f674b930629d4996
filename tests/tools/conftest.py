"""A store with the sandbox's tree as small real qcow2 files, new for each test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.channels import Published, publish
from builder.model import Build
from builder.package import package
from builder.progress import Reporter
from builder.publication import Signing
from builder.store import Store
from builder.tools import openpgp
from builder.tools.libvirt import Connection, connect
from builder.tools.openpgp import Signer
from builder.tools.webserver import serving
from tests.builds import add_chain
from tests.clients import Client


@pytest.fixture
def store(tmp_path: Path) -> Store:
    # A blank and a percent sign: paths are quoted for shells, macros and URLs, or a test here fails.
    return Store(tmp_path / "state of 100%x", "demo")


@pytest.fixture
def chain(store: Store) -> dict[str, Build]:
    """image -> build; the files of all four lie in `store`."""
    return add_chain(store)


@pytest.fixture
def reporter() -> Reporter:
    return Reporter("quiet")


@pytest.fixture(scope="module")
def connection() -> Iterator[Connection]:
    with connect() as connection:
        yield connection


@pytest.fixture(scope="session")
def signing(tmp_path_factory: pytest.TempPathFactory) -> Signing:
    """A project's key, made once."""
    file = tmp_path_factory.mktemp("keys") / "signing.asc"
    openpgp.make_key(file, name=openpgp.owner("demo"))
    return Signing(file=file)


@pytest.fixture(scope="session")
def signer(signing: Signing) -> Iterator[Signer]:
    """That key, ready to sign."""
    with openpgp.opened(signing) as opened:
        assert opened is not None
        yield opened


@pytest.fixture
def served(store: Store) -> Iterator[str]:
    """The address at which the store's channels are served."""
    store.channels.mkdir(parents=True, exist_ok=True)
    with serving(store.channels) as server:
        yield server.url


@pytest.fixture
def client(served: str, tmp_path: Path, signer: Signer) -> Client:
    """A machine that installs from the channel `candidate`."""
    return Client(tmp_path / "client", served, signer)


@dataclass
class Publisher:
    """Packages builds, signs and publishes them."""

    store: Store
    reporter: Reporter
    signer: Signer

    def rpms(self, *builds: Build, store: Store | None = None) -> list[Path]:
        """The RPMs of builds and all they stand on, parents first, the image's before the link's."""
        packaged = package(store or self.store, builds, prefix="golden", reporter=self.reporter, signer=self.signer)
        return [path for found in packaged for path in (found.image_rpm, found.link_rpm)]

    def publish(self, *builds: Build, channel: str = "candidate") -> Published:
        return self.publish_rpms(self.rpms(*builds), channel=channel)

    def publish_rpms(self, rpms: list[Path], *, channel: str = "candidate") -> Published:
        # An address nobody listens on: what the server answers must be its own.
        return publish(self.store, channel, rpms, url="http://127.0.0.1:1/elsewhere", signer=self.signer)


@pytest.fixture
def publisher(store: Store, reporter: Reporter, signer: Signer) -> Publisher:
    return Publisher(store, reporter, signer)

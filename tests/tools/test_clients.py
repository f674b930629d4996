"""What happens to a client, a real dnf over http, while images are rebuilt, channels change, and others meddle."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from builder.channels import compose as composes
from builder.channels import rollback
from builder.channels.compose import Origin
from builder.errors import ToolError
from builder.model import Build
from builder.store import Store, sha256
from builder.tools import createrepo
from tests.builds import add_build, add_chain, backing_chain
from tests.clients import Client
from tests.tools.conftest import Publisher

LEAF = "golden-sandbox-bootstrapped"
OLD, NEW = "20261121.1", "20261122.1"


def link(client: Client) -> str:
    return (client.images / "sandbox-bootstrapped.qcow2").readlink().name


def stands_on(client: Client) -> list[str]:
    """The files of the chain that the client's link leads to, its own first, each there and intact."""
    return [link(client), *backing_chain(client.images / "sandbox-bootstrapped.qcow2")[1:]]


def output(error: ToolError) -> str:
    return dict(error.details)["output"]


@pytest.fixture
def installed(chain: dict[str, Build], publisher: Publisher, client: Client) -> Client:
    """A machine that has the chain of the first night."""
    publisher.publish(chain["sandbox-bootstrapped"])
    client.install(LEAF)
    return client


def test_a_new_upgrade_and_bootstrapped_on_an_old_base(
    store: Store, chain: dict[str, Build], publisher: Publisher, installed: Client
) -> None:
    base = chain["sandbox-base"]
    before = sha256(installed.images / f"sandbox-base-{OLD}.qcow2")
    upgrade = add_build(store, "sandbox-upgrade", version=NEW, parent=base)
    publisher.publish(add_build(store, "sandbox-bootstrapped", version=NEW, parent=upgrade))
    said = installed.dnf("upgrade")
    assert "sandbox-base" not in said  # 1 GiB that is there already is not fetched again
    assert stands_on(installed) == [
        f"sandbox-bootstrapped-{NEW}.qcow2",
        f"sandbox-upgrade-{NEW}.qcow2",
        f"sandbox-base-{OLD}.qcow2",
    ]
    assert sha256(installed.images / f"sandbox-base-{OLD}.qcow2") == before == base.id.sha256
    assert installed.rpm("--verify", "--all") == []


def test_the_base_rebuilt_as_well(store: Store, publisher: Publisher, installed: Client) -> None:
    newer = add_chain(store, "sandbox-base", "sandbox-upgrade", "sandbox-bootstrapped", version=NEW)
    publisher.publish(newer["sandbox-bootstrapped"])
    installed.dnf("upgrade")
    assert stands_on(installed) == [f"sandbox-{layer}-{NEW}.qcow2" for layer in ("bootstrapped", "upgrade", "base")]
    assert len(list(installed.images.glob(f"*-{OLD}.qcow2"))) == 3  # clones of them may run
    assert installed.rpm("--verify", "--all") == []


@pytest.mark.parametrize("left_out", ["golden-sandbox-base-image", "golden-sandbox-upgrade-image", f"{LEAF}-image"])
def test_a_chain_published_in_part_by_accident_leaves_the_client_with_the_old_one(
    store: Store, publisher: Publisher, installed: Client, left_out: str
) -> None:
    """golden refuses to publish such a set, so it is put together by hand, and signed."""
    newer = add_chain(store, "sandbox-base", "sandbox-upgrade", "sandbox-bootstrapped", version=NEW)
    rpms = [path for path in publisher.rpms(newer["sandbox-bootstrapped"]) if not path.name.startswith(left_out)]
    assert len(rpms) == 5
    channel = store.channels / "candidate"
    current = composes.need_current(channel)
    packages = {package.file_name: package for package in createrepo.read(current)}
    folders = dict.fromkeys(packages, current / "Packages")
    for path in rpms:
        packages[path.name] = createrepo.read_rpm(path, href=f"Packages/{path.name}")
        folders[path.name] = path.parent
    compose = current.with_name("20991231.1")
    origin = Origin(previous=current.name, why="by accident", made=composes.now())
    composes.write(compose, list(packages.values()), folders, origin=origin, signer=publisher.signer)
    composes.switch(channel, url=composes.address("http://elsewhere.example", compose), signer=publisher.signer)

    installed.dnf("upgrade", "--nobest", LEAF)
    with pytest.raises(ToolError) as refused:  # --best is EL's default: dnf says what is wrong, and changes nothing
        installed.dnf("upgrade", "--best", LEAF)
    assert "nothing provides golden-" in output(refused.value)
    assert stands_on(installed) == [f"sandbox-{layer}-{OLD}.qcow2" for layer in ("bootstrapped", "upgrade", "base")]
    assert installed.rpm("--verify", "--all") == []


def test_a_tampered_rpm_is_refused(store: Store, chain: dict[str, Build], publisher: Publisher, client: Client) -> None:
    """Its checksum is wrong; and if whoever did it writes fitting metadata, those are not signed."""
    publisher.publish(chain["sandbox-base"])
    compose = composes.need_current(store.channels / "candidate")
    (rpm,) = (compose / "Packages").glob("golden-sandbox-base-image-*.rpm")
    tamper(rpm)
    with pytest.raises(ToolError) as refused:
        client.install("golden-sandbox-base")
    assert "checksum doesn't match" in output(refused.value).lower()
    assert not client.names()

    createrepo.write(compose, rewritten(compose))  # repomd.xml.asc goes with the old repodata
    with pytest.raises(ToolError) as refused:
        client.dnf("install", "golden-sandbox-base")
    assert "repomd.xml.asc" in output(refused.value)
    assert not client.names()


def test_a_tampered_rpm_is_refused_by_its_own_signature_even_in_signed_metadata(
    store: Store, chain: dict[str, Build], publisher: Publisher, client: Client
) -> None:
    publisher.publish(chain["sandbox-base"])
    compose = composes.need_current(store.channels / "candidate")
    (rpm,) = (compose / "Packages").glob("golden-sandbox-base-image-*.rpm")
    tamper(rpm)
    createrepo.write(compose, rewritten(compose))
    publisher.signer.sign(compose / "repodata/repomd.xml", compose / "repodata/repomd.xml.asc")
    with pytest.raises(ToolError) as refused:
        client.install("golden-sandbox-base")
    # dnf 4's words, dnf 5's words.
    assert any(words in output(refused.value) for words in ("GPG check FAILED", "PGP check for package"))
    assert not client.names()


def test_tampered_metadata_is_refused(
    store: Store, chain: dict[str, Build], publisher: Publisher, client: Client
) -> None:
    publisher.publish(chain["sandbox-base"])
    repomd = composes.need_current(store.channels / "candidate") / "repodata/repomd.xml"
    repomd.write_text(repomd.read_text().replace("<revision>", "<revision>1"))
    with pytest.raises(ToolError) as refused:
        client.install("golden-sandbox-base")
    assert "signature" in output(refused.value).lower()
    assert not client.names()


def test_a_client_in_a_loop_sees_no_error_during_fifty_publications(
    store: Store, publisher: Publisher, client: Client
) -> None:
    """Signed metadata, as by default: that is where other ways of switching a repository fail."""
    builds = [add_build(store, "sandbox-base", version=f"20261121.{count}") for count in range(1, 52)]
    rpms = publisher.rpms(*builds)  # two of each build, oldest first: made before, so that they come fast
    publisher.publish(builds[0])
    counts: list[int] = []
    wrong: list[str] = []
    has_answer, is_over = threading.Event(), threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            try:
                counts.append(len(client.dnf("repoquery", "--quiet", "golden-sandbox-base").split()))
            except ToolError as error:
                wrong.append(output(error))
            has_answer.set()

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        assert has_answer.wait(timeout=120)
        for number in range(1, 51):
            publisher.publish_rpms(rpms[2 * number : 2 * number + 2])
    finally:
        is_over.set()
        asking.join()
    assert not wrong
    assert counts == sorted(counts)
    assert len(set(counts)) > 2, counts  # it really asked while the channel changed
    assert len(client.dnf("repoquery", "--quiet", "golden-sandbox-base").split()) == 51


def test_a_rollback_takes_new_machines_back_at_once_and_others_by_distro_sync(
    store: Store, chain: dict[str, Build], publisher: Publisher, installed: Client, tmp_path: Path
) -> None:
    newer = add_chain(store, "sandbox-base", "sandbox-upgrade", "sandbox-bootstrapped", version=NEW)
    publisher.publish(newer["sandbox-bootstrapped"])
    installed.dnf("upgrade")
    assert link(installed) == f"sandbox-bootstrapped-{NEW}.qcow2"
    found = rollback(store, "candidate", prefix="golden", url="http://elsewhere.example")
    assert set(found.withdrawn) == {build.stem for build in newer.values()}

    installed.dnf("upgrade")
    assert link(installed) == f"sandbox-bootstrapped-{NEW}.qcow2"
    installed.dnf("distro-sync")
    assert stands_on(installed) == [f"sandbox-{layer}-{OLD}.qcow2" for layer in ("bootstrapped", "upgrade", "base")]
    fresh = Client(tmp_path / "fresh", installed.url, publisher.signer)
    fresh.install(LEAF)
    assert link(fresh) == f"sandbox-bootstrapped-{OLD}.qcow2"


def test_a_machine_without_the_key_installs_nothing(
    chain: dict[str, Build], publisher: Publisher, client: Client, store: Store
) -> None:
    publisher.publish(chain["sandbox-base"])
    (store.channels / "candidate/key.asc").unlink()
    with pytest.raises(ToolError) as refused:
        client.install("golden-sandbox-base")
    assert "key.asc" in output(refused.value)
    assert not client.names()


def tamper(rpm: Path) -> None:
    """Other bytes in the payload's end, in a file of its own: composes share files with the store."""
    data = bytearray(rpm.read_bytes())
    data[-100] ^= 1
    rpm.unlink()
    rpm.write_bytes(data)


def rewritten(compose: Path) -> list[createrepo.Package]:
    """Metadata that fit what lies in a compose now."""
    paths = sorted((compose / "Packages").glob("*.rpm"))
    for path in (compose / "repodata").iterdir():
        path.unlink()
    return [createrepo.read_rpm(path, href=f"Packages/{path.name}") for path in paths]

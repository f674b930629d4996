"""Collecting over real channels and stores: what goes is gone everywhere, what stays still installs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from builder.channels import Collected, check, collect, promote, publish
from builder.channels import compose as composes
from builder.channels.sets import members
from builder.errors import HostError
from builder.locks import lock
from builder.progress import Reporter
from builder.publication import Retention, Rule
from builder.run import query
from builder.store import Store
from builder.tools import createrepo
from builder.tools.openpgp import Signer
from tests.builds import TREE, add_build, add_chain, verify_builds
from tests.clients import Client
from tests.tools.conftest import Publisher

URL = "http://mirror.example/golden"
NIGHTS = [f"2026112{day}.1" for day in range(1, 6)]
CHAIN = ("sandbox-base", "sandbox-upgrade", "sandbox-bootstrapped")
# The builds of these tests were finished in 2024, so none is young unless the rule says so.
LATER = datetime.now(UTC) + timedelta(days=2)


def collecting(store: Store, publisher: Publisher, *, leased: dict[str, str] | None = None, **how: object) -> Collected:
    retention = how.pop("retention", Retention(rule=Rule(keep=2, age_s=60), composes=1))
    found: Collected = collect(
        store,
        prefix="golden",
        retention=retention,  # type: ignore[arg-type]
        images=set(TREE),
        leased=leased or {},
        url=URL,
        signer=publisher.signer,
        now=LATER,
        **how,  # type: ignore[arg-type]
    )
    return found


def stems(store: Store, channel: str) -> set[str]:
    return set(members(createrepo.read(composes.need_current(store.channels / channel)), prefix="golden"))


def everything(store: Store) -> list[Path]:
    return sorted(path for path in store.root.rglob("*") if path.suffix != ".lock" and path.name != "lock")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, signer: Signer) -> Store:
    """Five nights of a chain in `candidate`; the first two were good and are in `nightly`."""
    store = Store(tmp_path_factory.mktemp("nights"), "demo")
    publisher = Publisher(store, Reporter("quiet"), signer)
    for night in NIGHTS:
        made = add_chain(store, *CHAIN, version=night)
        publisher.publish(made["sandbox-bootstrapped"])
        if night in NIGHTS[:2]:
            verify_builds(store, *made.values())
            promote(store, (), prefix="golden", url=URL, signer=signer)
    return store


@pytest.fixture
def nights(store: Store, made: Store) -> None:
    """A copy of it for one test, its hard links kept."""
    store.root.parent.mkdir(parents=True)
    query(["cp", "-a", made.root, store.root], why="copy a store")


def test_the_newest_the_last_good_and_what_is_published_stays(
    store: Store, nights: None, publisher: Publisher, served: str, tmp_path: Path
) -> None:
    before = everything(store)
    planned = collecting(store, publisher, is_dry_run=True)
    assert everything(store) == before

    done = collecting(store, publisher)
    assert done.removed == planned.removed
    assert stems(store, "nightly") == {f"{image}-{night}" for image in CHAIN for night in NIGHTS[:2]}
    # The newest two, and the last good ones, which are of the second night.
    kept = {f"{image}-{night}" for image in CHAIN for night in (NIGHTS[1], NIGHTS[3], NIGHTS[4])}
    assert stems(store, "candidate") == kept
    # The first night's are in a channel still.
    assert {build.stem for build in store.builds()} == kept | {f"{image}-{NIGHTS[0]}" for image in CHAIN}
    gone = {f"{image}-{NIGHTS[2]}" for image in CHAIN}
    for path in everything(store):
        assert not any(stem in path.name for stem in gone) or "composes" in path.parts, path
    for channel in ("candidate", "nightly"):
        check(store, channel, signer=publisher.signer)
        client = Client(tmp_path / channel, served, publisher.signer, channel=channel)
        client.install("golden-sandbox-bootstrapped")
        assert client.rpm("--verify", "--all") == []


def test_old_composes_go_and_with_them_their_bytes(store: Store, nights: None, publisher: Publisher) -> None:
    size = sum(path.stat().st_size for path in store.rpms.glob(f"*{NIGHTS[2]}*.rpm"))
    done = collecting(store, publisher)
    assert list(store.channels.rglob(f"*{NIGHTS[2]}*.rpm"))  # a rollback leads to the compose before, which has them
    composed = [verdict for verdict in done.verdicts if verdict.where == "composes of candidate" and verdict.stays]
    assert [verdict.reasons for verdict in composed] == [("a rollback leads to it",), ("clients see it",)]
    newest = add_build(store, "sandbox-base", version="20261126.1")
    publisher.publish(newest)
    assert collecting(store, publisher).freed_bytes >= size > 0
    assert not list(store.root.rglob(f"*{NIGHTS[2]}*"))


def test_a_lease_holds_a_build_and_what_it_stands_on(store: Store, nights: None, publisher: Publisher) -> None:
    leaf = f"sandbox-upgrade-{NIGHTS[2]}"
    done = collecting(store, publisher, leased={leaf: "the clone web1 uses it"})
    reasons = {verdict.name: verdict.reasons for verdict in done.verdicts if verdict.where == "builds"}
    assert "the clone web1 uses it" in reasons[leaf]
    assert {leaf, f"sandbox-base-{NIGHTS[2]}"} <= {build.stem for build in store.builds()}
    assert {leaf, f"sandbox-base-{NIGHTS[2]}"} <= stems(store, "candidate")
    assert f"sandbox-bootstrapped-{NIGHTS[2]}" not in stems(store, "candidate")


def test_a_channel_has_a_rule_of_its_own(store: Store, nights: None, publisher: Publisher) -> None:
    retention = Retention(rule=Rule(keep=5, age_s=60), own={"candidate": Rule(keep=1, age_s=60)}, composes=1)
    collecting(store, publisher, retention=retention)
    assert {stem.rpartition("-")[2] for stem in stems(store, "candidate")} == {NIGHTS[1], NIGHTS[4]}
    assert len(store.builds()) == 15


def test_what_is_young_stays(store: Store, nights: None, publisher: Publisher) -> None:
    retention = Retention(rule=Rule(keep=1, age_s=3650 * 86400), composes=9)
    assert collecting(store, publisher, retention=retention).removed == []
    assert len(stems(store, "candidate")) == 15


def test_orphans_go(store: Store, nights: None, publisher: Publisher) -> None:
    retention = Retention(rule=Rule(keep=9, age_s=60), composes=9)
    store.facts(store.builds()[0]).unlink()  # cut off: what is left is of no build
    (store.rpms / "golden-gone-base-20200101.1-1.noarch.rpm").write_bytes(b"")
    (store.rpms / "golden-gone-base-image-20200101.1-20200101.1-1.noarch.cdx.json").write_bytes(b"")
    (store.verified / "gone-base-20200101.1.json").write_bytes(b"")
    (store.logs / "gone-base-20200101.1").mkdir(parents=True)
    (store.channels / "candidate/composes/.20991231.1.part").mkdir()
    (store.logs / "not-a-build").mkdir()
    names = {verdict.name for verdict in collecting(store, publisher, retention=retention).removed}
    assert {
        "rpms/golden-gone-base-20200101.1-1.noarch.rpm",
        "rpms/golden-gone-base-image-20200101.1-20200101.1-1.noarch.cdx.json",
        "verified/gone-base-20200101.1.json",
        "logs/gone-base-20200101.1",
        "channels/candidate/composes/.20991231.1.part",
    } <= names
    assert not list(store.root.rglob("*gone*"))
    assert (store.logs / "not-a-build").exists()
    assert collecting(store, publisher, retention=retention).removed == []


def test_a_private_channel_goes_when_its_builds_may(store: Store, publisher: Publisher) -> None:
    base = add_build(store, "sandbox-base")
    leaf = add_build(store, "sandbox-base-private-pr-7", parent=base)
    publish(store, "sandbox-base-private-pr-7", publisher.rpms(leaf), url=URL, signer=publisher.signer)
    publisher.publish(base)
    done = collecting(store, publisher)
    assert f"{leaf.stem}" in {verdict.name for verdict in done.removed}
    assert composes.names(store.channels) == ["candidate"]
    assert [build.stem for build in store.builds()] == [base.stem]


def test_collecting_waits_for_nobody_and_says_who_is_at_work(store: Store, nights: None, publisher: Publisher) -> None:
    before = everything(store)
    with (
        lock(store.root / "publish-nightly.lock", what="x"),
        pytest.raises(HostError, match="could not lock the channel 'nightly': another golden is at work on it"),
    ):
        collecting(store, publisher)
    assert everything(store) == before

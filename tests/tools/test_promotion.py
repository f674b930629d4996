"""Sets from channel to channel: verified or held back, whole or not at all; and back again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder.channels import check, promote, rollback
from builder.channels import compose as composes
from builder.channels.promotion import Promotion
from builder.errors import ConfigError, HostError, VerifyError
from builder.locks import lock
from builder.model import Build
from builder.publication import Signing
from builder.store import Store
from builder.tools import createrepo, openpgp
from tests.builds import add_build, add_chain, verify_builds
from tests.tools.conftest import Publisher

URL = "http://mirror.example/golden"
NEW = "20261122.1"


def promoting(store: Store, publisher: Publisher, *images: str, **how: object) -> Promotion:
    found: Promotion = promote(store, images, prefix="golden", url=URL, signer=publisher.signer, **how)  # type: ignore[arg-type]
    return found


def names(store: Store, channel: str) -> set[str]:
    compose = composes.need_current(store.channels / channel)
    return {package.file_name.removesuffix("-1.noarch.rpm") for package in createrepo.read(compose)}


@pytest.fixture
def published(chain: dict[str, Build], publisher: Publisher) -> dict[str, Build]:
    """The whole tree is in `candidate`."""
    publisher.publish(*chain.values())
    return chain


def test_verified_sets_go_and_an_unverified_branch_does_not_hold_them_back(
    store: Store, published: dict[str, Build], publisher: Publisher
) -> None:
    good = ["sandbox-base", "sandbox-upgrade", "sandbox-bootstrapped"]
    verify_builds(store, *(published[image] for image in good))
    found = promoting(store, publisher)
    assert sorted(found.promoted) == sorted(published[image].stem for image in good)
    assert found.held == {"sandbox-tools-installed-20261121.1": "sandbox-tools-installed-20261121.1 was not verified"}
    assert len(names(store, "nightly")) == 6
    assert check(store, "nightly", signer=publisher.signer).attested == 3
    source = composes.need_current(store.channels / "candidate") / "Packages"
    for path in (composes.need_current(store.channels / "nightly") / "Packages").iterdir():
        assert path.samefile(source / path.name)


def test_a_parent_that_failed_holds_back_all_that_stands_on_it(
    store: Store, published: dict[str, Build], publisher: Publisher
) -> None:
    verify_builds(store, *published.values())
    verify_builds(store, published["sandbox-upgrade"], passed=False)
    found = promoting(store, publisher)
    assert found.promoted == ("sandbox-base-20261121.1",)
    assert set(found.held.values()) == {"sandbox-upgrade-20261121.1 did not pass its verification"}
    assert names(store, "nightly") == {
        "golden-sandbox-base-20261121.1",
        "golden-sandbox-base-image-20261121.1-20261121.1",
    }


def test_a_record_of_other_bytes_or_a_damaged_one_does_not_count(
    store: Store, published: dict[str, Build], publisher: Publisher
) -> None:
    base = published["sandbox-base"]
    record = verify_builds(store, base)
    record.write_text(json.dumps({**json.loads(record.read_text()), "sha256": "0" * 64}))
    found = promoting(store, publisher, "sandbox-base")
    assert found.held[base.stem] == f"the verification record of {base.stem} is of other bytes"
    record.write_text("{")
    assert "is damaged" in promoting(store, publisher, "sandbox-base").held[base.stem]
    assert not (store.channels / "nightly").exists()


def test_unverified_on_demand(store: Store, published: dict[str, Build], publisher: Publisher) -> None:
    found = promoting(store, publisher, "sandbox-bootstrapped", is_unverified=True)
    assert found.promoted == ("sandbox-bootstrapped-20261121.1",)
    assert len(names(store, "nightly")) == 6  # the chain came along


def test_a_failed_night_leaves_the_old_set_and_the_next_good_one_comes_whole(
    store: Store, published: dict[str, Build], publisher: Publisher
) -> None:
    verify_builds(store, *published.values())
    promoting(store, publisher)
    upgrade = add_build(store, "sandbox-upgrade", version=NEW, parent=published["sandbox-base"])
    leaf = add_build(store, "sandbox-bootstrapped", version=NEW, parent=upgrade)
    publisher.publish(leaf)
    verify_builds(store, upgrade)
    verify_builds(store, leaf, passed=False)
    found = promoting(store, publisher)
    assert found.promoted == (upgrade.stem,)
    assert leaf.stem in found.held
    assert f"golden-sandbox-bootstrapped-{NEW}" not in names(store, "nightly")
    verify_builds(store, leaf)
    assert promoting(store, publisher).promoted == (leaf.stem,)
    assert promoting(store, publisher).promoted == ()


def test_a_dry_run_writes_nothing(store: Store, published: dict[str, Build], publisher: Publisher) -> None:
    verify_builds(store, *published.values())
    before = sorted(store.channels.rglob("*"))
    assert len(promoting(store, publisher, is_dry_run=True).promoted) == 4
    assert sorted(store.channels.rglob("*")) == before


def test_what_cannot_be_promoted_is_said(store: Store, published: dict[str, Build], publisher: Publisher) -> None:
    with pytest.raises(
        ConfigError, match=r"the channel 'candidate' has no 'sandbox-bse', did you mean 'sandbox-base'\?"
    ):
        promoting(store, publisher, "sandbox-bse")
    with pytest.raises(ConfigError, match="nothing was published to the channel 'nightly' yet"):
        promoting(store, publisher, source="nightly", target="stable")
    with pytest.raises(ConfigError, match="cannot be promoted to itself"):
        promoting(store, publisher, source="nightly", target="nightly")
    with (
        lock(store.root / "publish-nightly.lock", what="x"),
        pytest.raises(HostError, match="could not lock the channel 'nightly'"),
    ):
        promoting(store, publisher)


@pytest.fixture
def two_nights(store: Store, published: dict[str, Build], publisher: Publisher) -> dict[str, Build]:
    """`nightly` got the tree, and then a newer base; these are the builds of the second night."""
    verify_builds(store, *published.values())
    promoting(store, publisher)
    newer = add_chain(store, "sandbox-base", version=NEW)
    verify_builds(store, *newer.values())
    publisher.publish(*newer.values())
    promoting(store, publisher)
    return newer


def test_a_rollback_shows_the_compose_before_and_what_it_took_back_stays_away(
    store: Store, two_nights: dict[str, Build], publisher: Publisher
) -> None:
    channel = store.channels / "nightly"
    current = composes.need_current(channel)
    mirrorlist = (channel / "mirrorlist").read_text()
    found = rollback(store, "nightly", prefix="golden", url=URL, is_dry_run=True)
    assert (channel / "mirrorlist").read_text() == mirrorlist
    assert rollback(store, "nightly", prefix="golden", url=URL) == found
    assert found.withdrawn == (f"sandbox-base-{NEW}",)
    assert composes.need_current(channel).name == found.compose < current.name == found.before
    assert current.is_dir()
    assert check(store, "nightly", signer=publisher.signer).packages == 8

    held = promoting(store, publisher).held
    assert list(held) == [f"sandbox-base-{NEW}"]
    assert f"was taken back with compose {current.name}" in held[f"sandbox-base-{NEW}"]
    assert promoting(store, publisher, is_again=True).promoted == (f"sandbox-base-{NEW}",)
    assert promoting(store, publisher).held == {}


def test_a_rollback_after_a_rollback_and_a_promotion_does_not_lead_to_what_was_taken_back(
    store: Store, two_nights: dict[str, Build], publisher: Publisher
) -> None:
    first = rollback(store, "nightly", prefix="golden", url=URL)
    third = add_chain(store, "sandbox-base", version="20261123.1")
    verify_builds(store, *third.values())
    publisher.publish(*third.values())
    promoting(store, publisher)
    assert rollback(store, "nightly", prefix="golden", url=URL).compose == first.compose


def test_a_rollback_to_a_compose_by_name(store: Store, two_nights: dict[str, Build], publisher: Publisher) -> None:
    first, second = composes.versions(store.channels / "nightly")
    assert rollback(store, "nightly", to=first, prefix="golden", url=URL).compose == first
    assert rollback(store, "nightly", to=second, prefix="golden", url=URL).withdrawn == ()
    assert promoting(store, publisher).held == {}  # clients see it again
    with pytest.raises(ConfigError, match=r"has no compose 20200101\.1 to go back to") as refused:
        rollback(store, "nightly", to="20200101.1", prefix="golden", url=URL)
    assert refused.value.try_next == f"--to one of: {first}"
    with pytest.raises(ConfigError, match=r"see compose .* now"):
        rollback(store, "nightly", to=second, prefix="golden", url=URL)


def test_there_is_no_rollback_of_the_first_compose(store: Store, published: dict[str, Build]) -> None:
    with pytest.raises(ConfigError, match="there is no compose before"):
        rollback(store, "candidate", prefix="golden", url=URL)


def test_the_record_of_the_tests_travels_with_the_package(
    store: Store, chain: dict[str, Build], publisher: Publisher
) -> None:
    verify_builds(store, chain["sandbox-base"])
    publisher.publish(chain["sandbox-base"])
    promoting(store, publisher)
    (tests,) = (composes.need_current(store.channels / "nightly") / "Packages").glob("*.tests.json")
    assert json.loads(tests.read_text())["passed"] is True


def test_a_new_key_signs_all_of_a_channel_or_nothing(
    store: Store, published: dict[str, Build], publisher: Publisher, tmp_path: Path
) -> None:
    file = tmp_path / "new.asc"
    openpgp.make_key(file, name="another")
    with openpgp.opened(Signing(file=file)) as signer:
        assert signer is not None
        other = Publisher(store, publisher.reporter, signer)
        with pytest.raises(
            VerifyError, match="not all RPMs of the channel 'candidate' are signed with the project's key"
        ):
            other.publish(published["sandbox-base"])
        found = other.publish(*published.values())  # packaging signs them all again
        assert len(found.new) == 8
        assert check(store, "candidate", signer=signer).key == signer.fingerprint

"""Private builds: refused by package and publish, and under names that no upgrade leads to if allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.errors import ConfigError
from builder.model import Build
from builder.package import package, plan
from builder.progress import Reporter
from builder.store import Store, write_atomically
from builder.tools import rpm
from tests.builds import add_build


def make_private(store: Store, build: Build) -> Build:
    made = build.model_copy(update={"private": True})
    write_atomically(store.facts(build), made.model_dump_json() + "\n", mode=0o444)
    return made


@pytest.fixture
def leaf(store: Store, chain: dict[str, Build]) -> Build:
    return make_private(
        store, add_build(store, "sandbox-bootstrapped-private-pr-42", parent=chain["sandbox-bootstrapped"])
    )


def requires(path: Path) -> set[str]:
    return {name for name in rpm.ask(path, r"[%{REQUIRENAME}\n]").split() if name.startswith("golden")}


def test_a_private_build_is_refused(store: Store, leaf: Build, reporter: Reporter) -> None:
    with pytest.raises(ConfigError, match="private builds are not packaged or published unless you say so") as caught:
        package(store, [leaf], prefix="golden", reporter=reporter, signer=None)
    assert leaf.stem in caught.value.what
    assert str(caught.value.try_next).startswith("--allow-private")
    assert not list(store.rpms.glob("*.rpm"))


def test_what_stands_on_a_private_build_is_refused(store: Store, chain: dict[str, Build], reporter: Reporter) -> None:
    """Also if its own facts say nothing, as those of a build made by hand."""
    make_private(store, chain["sandbox-upgrade"])
    with pytest.raises(ConfigError, match=f"unless you say so: {chain['sandbox-upgrade'].stem}"):
        plan(store, [chain["sandbox-tools-installed"]], prefix="golden", signer=None)
    assert len(plan(store, [chain["sandbox-base"]], prefix="golden", signer=None)) == 1


def test_allowed_it_has_names_of_its_own_and_the_public_parents(store: Store, leaf: Build, reporter: Reporter) -> None:
    *_, parent, made = package(store, [leaf], prefix="golden", reporter=reporter, signer=None, allow_private=True)
    assert made.link_rpm.name.startswith("golden-private-sandbox-bootstrapped-private-pr-42-2")
    assert parent.link_rpm.name.startswith("golden-sandbox-bootstrapped-2")
    assert f"golden-sandbox-bootstrapped-image-{parent.id.version}" in requires(made.image_rpm)
    for path in (made.image_rpm, made.link_rpm):
        tags = "[%{PROVIDENAME} ][%{OBSOLETENAME} ]"
        names = [name for name in rpm.ask(path, tags).split() if not name.startswith("golden-image-id(")]
        assert names and all(name.startswith("golden-private-") for name in names)


def test_a_private_parent_is_required_by_its_private_name(
    store: Store, chain: dict[str, Build], reporter: Reporter
) -> None:
    upgrade = make_private(store, chain["sandbox-upgrade"])
    child = make_private(store, chain["sandbox-bootstrapped"])
    base, parent, made = package(store, [child], prefix="golden", reporter=reporter, signer=None, allow_private=True)
    assert base.link_rpm.name.startswith("golden-sandbox-base-")
    assert f"golden-private-sandbox-upgrade-image-{upgrade.version}" in requires(made.image_rpm)
    provided = rpm.ask(parent.image_rpm, r"[%{PROVIDENAME}\n]").split()
    assert requires(made.image_rpm) - requires(made.link_rpm) <= set(provided)

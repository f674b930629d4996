"""What bisect asks, and what it does to a clone."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import culprits, verdicts
from builder.errors import ConfigError
from builder.media import Repository
from builder.packages import Change, compare
from builder.store import Store
from builder.verdicts import Check
from tests.unit.test_verify import add, verdict

BEFORE = ["bash-5.1-1.x86_64", "jq-1.6-1.x86_64", "kernel-5.14-1.x86_64", "less-1:600-1.x86_64"]
AFTER = ["bash-5.2-1.x86_64", "kernel-5.14-1.x86_64", "kernel-5.14-2.x86_64", "less-1:600-2.x86_64", "tree-2-1.noarch"]


def test_dnf_is_given_whole_names_and_what_went_is_removed() -> None:
    text = culprits.script(compare(BEFORE, AFTER), [Repository(name="updates", location="http://10.0.2.2:1")])
    install, remove = text.splitlines()
    assert install.startswith("dnf -y '--disablerepo=*' '--enablerepo=golden-*'")
    assert install.endswith(
        "install --allowerasing bash-5.2-1.x86_64 kernel-5.14-1.x86_64 kernel-5.14-2.x86_64 less-1:600-2.x86_64"
        " tree-2-1.noarch"
    )
    assert remove == "dnf -y remove jq.x86_64"


def test_what_came_along_is_seen() -> None:
    changes = compare(BEFORE, AFTER)
    now = ["bash-5.2-1.x86_64", "jq-1.6-1.x86_64", "kernel-5.14-1.x86_64", "less-1:600-1.x86_64", "tree-2-1.noarch"]
    assert {change.name for change in culprits.applied(changes, BEFORE, now)} == {"bash.x86_64", "tree.noarch"}
    assert culprits.applied(changes, BEFORE, BEFORE) == frozenset()


def refused(store: Store) -> str:
    with pytest.raises(ConfigError) as caught:
        culprits.ask(store, store.builds("sandbox-base")[-1])
    return caught.value.what


def test_there_must_be_something_to_look_for(tmp_path: Path) -> None:
    store = Store(tmp_path, "demo")
    bad = add(store, "20261121.2", "bash-5.2-1.x86_64\n")
    assert "was not verified yet" in refused(store)
    verdicts.write(store, verdict(bad), bad)
    assert "is what it promises" in refused(store)
    verdicts.write(store, verdict(bad, passed=False), bad)
    assert "there is no older build of 'sandbox-base' that is good" in refused(store)
    good = add(store, "20261121.1", "bash-5.2-1.x86_64\n")
    verdicts.write(store, verdict(good), good)
    assert "has the same packages as 'sandbox-base-20261121.1'" in refused(store)
    size = Check(name="budget: size is below 1 MiB", result="failed")
    verdicts.write(store, verdict(bad, passed=False).model_copy(update={"tests": (size,)}), bad)
    assert "is over its budget, which no clone can show" in refused(store)


def test_the_difference_is_what_is_looked_at(tmp_path: Path) -> None:
    store = Store(tmp_path, "demo")
    good, bad = add(store, "20261121.1", "bash-5.1-1.x86_64\n"), add(store, "20261121.2", "bash-5.2-1.x86_64\n")
    verdicts.write(store, verdict(good), good)
    verdicts.write(store, verdict(bad, passed=False), bad)
    question = culprits.ask(store, bad)
    assert question.changes == (Change(kind="upgraded", name="bash.x86_64", before="5.1-1", after="5.2-1"),)
    assert question.tests == {"command succeeds: raku"}

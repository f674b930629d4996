"""The host was rebooted, or its clock was set back: what was true before is not believed, and nothing is overtaken."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from builder.channels.retention import Candidate, mark
from builder.clones.leases import owner
from builder.model import ImageId
from builder.publication import Rule
from builder.store import Store, version_after

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def test_an_owner_of_before_the_reboot_is_dead_though_its_number_lives() -> None:
    here = owner(os.getpid())
    assert here is not None and here.is_alive()
    assert not here.model_copy(update={"boot": "00000000-0000-0000-0000-000000000000"}).is_alive()


def test_a_lock_of_before_the_reboot_is_free_whoever_it_names(tmp_path: Path) -> None:
    store = Store(tmp_path, "demo")
    store.root.mkdir()
    (store.root / "lock").write_text("pid 1 since 2020-01-01 00:00:00Z: golden build\n")
    with store.lock():
        assert (store.root / "lock").read_text().startswith(f"pid {os.getpid()} ")


def test_versions_go_up_though_the_clock_went_back() -> None:
    assert version_after(["20261121.1", "20261121.9", "20261121.10"], now=LONG_AGO) == "20261121.11"


def test_what_seems_to_come_from_the_future_stays() -> None:
    ids = [ImageId(image="x-base", version=f"2026112{day}.1", sha256="0" * 64) for day in (1, 2, 3)]
    finished_s = datetime(2026, 11, 21, tzinfo=UTC).timestamp()
    candidates = {
        id.stem: Candidate(id=id, needs=(), distribution="x", finished_s=finished_s, is_good=False) for id in ids
    }
    rule = Rule(keep=1, age_s=60)
    kept = mark(candidates, rule=rule, now_s=LONG_AGO.timestamp(), images=["x-base"], held={})
    assert set(kept) == set(candidates)

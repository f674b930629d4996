"""Pools of clones that are ready, by the command line and by several processes at once; machines without guests."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from builder import clones
from builder.cli import golden as command
from builder.clones import collection, pools, ready
from builder.clones.memory import Capacity, declared
from builder.clones.pools import Filled, Pool
from builder.errors import ConfigError
from builder.progress import Reporter
from builder.store import Store
from builder.tools.libvirt import connect
from tests.builds import add_chain
from tests.tools.test_clone_life import Command

IMAGE = "sandbox-base"
SMALL = ("--memory", "64 MiB")


@pytest.fixture
def golden(open_path: Path) -> Iterator[Command]:
    store = Store(open_path / "state", "demo")
    install(store)
    with connect() as connection:
        yield Command(store, connection)
        more = {"state": store.state, "connection": connection, "reporter": Reporter("quiet")}
        for one in pools.pools(store.state):
            pools.declare(one.model_copy(update={"ready": 0}), state=store.state)
            pools.fill(one.name, time_factor=1, **more)  # type: ignore[arg-type]  # waits for who is filling it
        for name in clones.names(store.state):
            clones.destroy(name, state=store.state, connection=connection)


def install(store: Store, version: str = "20261121.1") -> None:
    build = add_chain(store, IMAGE, version=version)[IMAGE]
    link = store.images / f"{IMAGE}.qcow2"
    link.unlink(missing_ok=True)
    link.symlink_to(f"{build.stem}.qcow2")


def pool(golden: Command, count: int) -> Filled:
    """Without guests nothing answers: a clone is ready as soon as it is on."""
    wanted = Pool(
        image=IMAGE,
        images=golden.store.images,
        project=None,
        ready=count,
        memory_mib=64,
        accelerator="tcg",
        key=None,
        is_waited=False,
    )
    pools.declare(wanted, state=golden.state)
    return fill(golden)


def fill(golden: Command) -> Filled:
    more = {"state": golden.state, "connection": golden.connection, "reporter": Reporter("quiet")}
    filled = pools.fill(IMAGE, time_factor=1, **more)  # type: ignore[arg-type]
    assert filled is not None
    return filled


def take(golden: Command, *words: str) -> Any:
    return golden.json("create", "--image", IMAGE, "--from-pool", "--no-wait", *SMALL, *words)


def collect(golden: Command, *, is_dry: bool = False) -> set[tuple[str, str, str]]:
    found = collection.collect(golden.state, connection=golden.connection, is_dry=is_dry, note=print)
    return {(it.kind, it.name, it.reason) for it in found if it.kind != "links"}


def eventually(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def waiting(golden: Command) -> list[str]:
    return [lease.name for lease in ready.waiting(golden.state)]


def test_one_that_waits_is_taken_and_the_pool_is_filled_again_by_itself(golden: Command) -> None:
    words = ("pool", IMAGE, "--ready", "2", "--no-wait", *SMALL)
    planned = golden.json(*words, "--dry-run")
    assert (planned["made"], planned["ready"], pools.pools(golden.state), waiting(golden)) == (["", ""], 0, [], [])
    made = golden.json(*words)
    first, second = made["made"]
    assert (made["ready"], made["wanted"], made["removed"]) == (2, 2, [])
    assert [(it["name"], it["waiting"]) for it in golden.json("pool")] == [(IMAGE, [first, second])]
    taken = take(golden)
    assert (taken["name"], taken["pool"], taken["state"]) == (first, None, "running")
    assert clones.find(golden.state, first).owner is not None
    eventually(lambda: len(waiting(golden)) == 2)
    assert first not in waiting(golden) and second in waiting(golden)
    assert {(it["name"], it["state"], it["pool"]) for it in golden.json("list")} == {
        (first, "running", None),
        *((name, "running", IMAGE) for name in waiting(golden)),
    }
    given_up = golden.json("pool", IMAGE, "--ready", "0")
    assert given_up["ready"] == 0
    assert {reason for _, reason in given_up["removed"]} == {"it waits in a pool that is gone"}
    assert clones.names(golden.state) == [first]


def test_several_processes_never_get_the_same_one(golden: Command) -> None:
    made = pool(golden, 3).made
    words = ("create", "--image", IMAGE, "--from-pool", "--no-wait", *SMALL, "--json")
    processes = [golden.started(*words) for _ in range(3)]
    said = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    got = {json.loads(out)["name"] for out, _ in said}
    assert len(got) == 3
    assert got & set(made)
    eventually(lambda: len(waiting(golden)) == 3)
    assert not got & set(waiting(golden))


def test_what_fits_no_order_is_not_handed_out_and_one_is_made(golden: Command) -> None:
    (made,) = pool(golden, 1).made
    code, out, err = golden("create", "--image", IMAGE, "--from-pool", "--memory", "65 MiB", "--no-wait", "--json")
    assert (code, json.loads(out)["name"]) == (0, f"{IMAGE}-1")
    assert "is ready, or none like this: it is made" in err
    both = take(golden, "--count", "2")
    assert [it["name"] for it in both] == [made, f"{IMAGE}-2"]


def test_another_version_replaces_those_that_wait(golden: Command) -> None:
    (old,) = pool(golden, 1).made
    install(golden.store, "20261122.1")
    assert ready.take(order(golden), state=golden.state, connection=golden.connection) is None
    assert collect(golden, is_dry=True) == {("clone", old, "it waits in a pool that is of 20261122.1 now")}
    filled = fill(golden)
    assert (filled.ready, [name for name, _ in filled.removed]) == (1, [old])
    assert {clones.find(golden.state, name).image.version for name in waiting(golden)} == {"20261122.1"}


def order(golden: Command) -> clones.Order:
    source = clones.locate(IMAGE, None, images=golden.store.images, builds=None)
    return clones.Order(name=golden.prefix, source=source, memory_mib=64, cpus=1, accelerator="tcg", key=None)


def test_one_whose_base_changed_or_that_is_off_is_never_handed_out(golden: Command) -> None:
    changed, off = pool(golden, 2).made
    clones.stop(off, state=golden.state, connection=golden.connection, timeout_s=1, is_forced=True)
    (held,) = clones.find(golden.state, changed).pins
    with held.path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"else")
    assert ready.take(order(golden), state=golden.state, connection=golden.connection) is None
    assert collect(golden) == {
        ("clone", changed, "it waits in a pool, and an image file below it is gone or changed"),
        ("clone", off, "it waits in a pool, and is off"),
    }


def test_a_pool_whose_image_is_gone_is_collected(golden: Command) -> None:
    (made,) = pool(golden, 1).made
    (golden.store.images / f"{IMAGE}.qcow2").unlink()
    gone = {("pool", IMAGE, "its image is gone"), ("clone", made, "it waits in a pool whose image is gone")}
    assert collect(golden, is_dry=True) == gone
    collect(golden)
    assert (pools.pools(golden.state), clones.names(golden.state)) == ([], [])


def test_those_that_wait_give_way_where_memory_is_short(golden: Command) -> None:
    """On an account of their own: machines of others come and go, and count."""
    first, second = pool(golden, 2).made
    more = {"state": golden.state, "connection": golden.connection}
    full = Capacity(total_mib=sum(declared().values()))
    said: list[str] = []
    too_much = ready.give_way(10 * 1024**2, full, **more, note=said.append)  # type: ignore[arg-type]
    assert (too_much, said, waiting(golden)) == ([], [], [first, second])
    ready.give_way(128, full.model_copy(update={"total_mib": 64}), **more, note=said.append)  # type: ignore[arg-type]
    assert (said, waiting(golden)) == ([], [first, second])
    given = ready.give_way(64, Capacity(total_mib=sum(declared().values())), **more, note=said.append)  # type: ignore[arg-type]
    assert given[0] == second
    assert said[0] == f"{second}, which waited in a pool, gives way: its memory is needed"
    assert clones.names(golden.state) == sorted({first, second} - set(given))


def test_a_refill_that_was_killed_leaves_what_gc_finds(golden: Command) -> None:
    """Until it is ready a clone is the refilling process's."""
    with golden.started("pool", IMAGE, "--ready", "1", "--no-wait", *SMALL) as filling:
        eventually(lambda: bool(clones.names(golden.state)))
        filling.kill()
        filling.communicate()
    collect(golden)
    assert clones.names(golden.state) == waiting(golden)
    assert fill(golden).ready == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pool", "sandbox-upgrade"], "there is no pool of 'sandbox-upgrade'"),
        (["pool", "sandbox-bsae", "--ready", "1", "--no-wait"], "there is no image 'sandbox-bsae'"),
        (["pool", IMAGE, "--ready", "1"], "waiting for SSH needs a key, and there is no project that has one"),
        (["pool", IMAGE, "--keep"], "--keep is for all pools"),
        (["create", "x", "--image", IMAGE, "--from-pool", "--no-wait"], "--from-pool and a NAME exclude each other"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, words: list[str], message: str) -> None:
    words = ["--file", "/no/golden.toml", "--state", str(tmp_path), "clone", *words]
    ended = CliRunner().invoke(command, words, standalone_mode=False)
    assert isinstance(ended.exception, ConfigError)
    assert message in ended.exception.what


def test_the_service_fills_what_others_have_taken_and_ends_when_told(golden: Command) -> None:
    pool(golden, 1)
    with golden.started("pool", "--keep") as service:
        (lease,) = ready.waiting(golden.state)
        assert ready.discard(golden.state, lease.name, connection=golden.connection)
        eventually(lambda: len(waiting(golden)) == 1)
        service.terminate()
        service.communicate(timeout=60)
    assert service.returncode == 130

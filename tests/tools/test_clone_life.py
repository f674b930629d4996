"""Clones by the command line: many at once, off and on, snapshots, owners, garbage, memory; without guests."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builder import clones, soundness
from builder.clones import collection, first_start, saved, snapshots, warm
from builder.clones.layout import machine
from builder.clones.leases import lock
from builder.clones.memory import declared
from builder.errors import HostError, ToolError
from builder.progress import Reporter
from builder.store import Store
from builder.tools import qcow2, qemu_img, ssh
from builder.tools.domain import domain_xml
from builder.tools.libvirt import Connection, connect
from tests.builds import add_chain
from tests.tools.test_corruption import flip

IMAGE = "sandbox-bootstrapped"


class Command:
    """`golden --state … clone`, on a store that serves as the folder of installed images."""

    def __init__(self, store: Store, connection: Connection) -> None:
        self.store, self.connection = store, connection
        self.state = store.state
        self.prefix = f"test-{os.urandom(3).hex()}"

    def started(self, *words: str | Path, **variables: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "builder", "--state", self.state, "--progress", "plain", "clone", *words]
        environment = os.environ | {"GOLDEN_IMAGES_DIR": str(self.store.images), **variables}
        return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    def __call__(self, *words: str | Path, **variables: str) -> tuple[int, str, str]:
        with self.started(*words, **variables) as process:
            out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def json(self, *words: str | Path) -> Any:
        code, out, err = self(*words, "--json")
        assert code == 0, err
        return json.loads(out)

    def create(self, *words: str | Path) -> Any:
        return self.json("create", *words, "--image", IMAGE, "--memory", "64 MiB")


@pytest.fixture
def golden(open_path: Path) -> Iterator[Command]:
    store = Store(open_path / "state", "demo")
    for build in add_chain(store, "sandbox-base", "sandbox-upgrade", IMAGE).values():
        (store.images / f"{build.image}.qcow2").symlink_to(f"{build.stem}.qcow2")
    with connect() as connection:
        yield Command(store, connection)
        for name in clones.names(store.state):
            clones.destroy(name, state=store.state, connection=connection)


def test_several_are_made_started_stopped_and_listed(golden: Command) -> None:
    made = golden.create(golden.prefix, "--count", "3", "--no-start")
    names = [f"{golden.prefix}-{number}" for number in (1, 2, 3)]
    assert [(clone["name"], clone["state"]) for clone in made] == [(name, "off") for name in names]
    assert golden.connection.find(f"golden-{names[0]}") is None
    golden.json("start", names[0], names[2], "--no-wait")
    assert [clone["state"] for clone in golden.json("list")] == ["running", "off", "running"]
    assert golden.json("stop", "--force", names[0])["stopped"] == [names[0]]
    assert [clone["state"] for clone in golden.json("list")] == ["off", "off", "running"]
    golden.json("start", names[2], "--no-wait")  # nothing happens
    assert golden.json("destroy", *names)["destroyed"] == names


def test_a_guest_that_hears_no_power_button_is_not_waited_for_beyond_the_limit(golden: Command) -> None:
    (made,) = [golden.create(golden.prefix, "--no-wait")]
    with connect() as connection, pytest.raises(Exception, match="is still on after 1 s") as caught:
        clones.stop(made["name"], state=golden.state, connection=connection, timeout_s=1)
    assert caught.value.try_next == f"golden clone stop --force {golden.prefix}"  # type: ignore[attr-defined]


def test_cards_disks_and_a_seed_are_the_machines(golden: Command, open_path: Path) -> None:
    (open_path / "user-data").write_text("#cloud-config\npackages: [tree]\n")
    words = ("--network", "user", "--network", "network=default", "--forward", "8080", "--disk", "1 GiB")
    words += ("--firmware", "uefi", "--cpus", "2", "--user-data", str(open_path / "user-data"), "--no-start")
    made = golden.create(golden.prefix, *words)
    assert [card["kind"] for card in made["nics"]] == ["user", "network"]
    assert (made["forwards"][0]["guest_port"], made["firmware"], made["cpus"]) == (8080, "uefi", 2)
    place = clones.directory(golden.state, golden.prefix)
    assert qemu_img.info(place / "extra-1.qcow2").virtual_bytes == 1024**3
    argv = ["xorriso", "-osirrox", "on", "-indev", place / "seed.iso", "-pvd_info", "-extract", "/", open_path / "seed"]
    found = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert "Volume Id    : CIDATA" in found.stdout
    assert (open_path / "seed/user-data").read_text() == "#cloud-config\npackages: [tree]\n"
    meta = json.loads((open_path / "seed/meta-data").read_text())
    assert meta == {"instance-id": made["uuid"], "local-hostname": golden.prefix}
    # libvirt takes the definition; its default network does not run everywhere, so the machine is not started.
    lease = clones.find(golden.state, golden.prefix)
    domain = golden.connection.define(domain_xml(machine(lease, place)))
    assert domain.xml().count("<disk type='file'") == 3
    assert "<source network='default'/>" in domain.xml()


def test_a_uefi_machine_has_variables_of_its_own_and_its_firmware_speaks_on_the_console(golden: Command) -> None:
    """The image has nothing to boot, which the firmware says. The sandbox's disks have no EFI partition."""
    golden.json("create", golden.prefix, "--image", IMAGE, "--memory", "256 MiB", "--firmware", "uefi", "--no-wait")
    place = clones.directory(golden.state, golden.prefix)
    assert (place / "nvram.fd").stat().st_size > 0
    deadline = time.monotonic() + 300
    while b"BdsDxe" not in clones.console_log(golden.state, golden.prefix).read_bytes():
        assert time.monotonic() < deadline
        time.sleep(1)
    golden.json("destroy", golden.prefix)
    assert not place.exists()


def test_a_forwarded_port_leads_to_the_machine_and_a_taken_one_is_named(golden: Command) -> None:
    made = golden.create(golden.prefix, "--forward", "80", "--no-wait")
    with socket.create_connection(("127.0.0.1", made["forwards"][0]["host_port"]), timeout=5):
        pass
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        words = ("create", f"{golden.prefix}-2", "--image", IMAGE, "--forward", f"{port}:80", "--no-wait")
        code, _, err = golden(*words, "--memory", "64 MiB")
    assert (code, err.splitlines()[-2]) == (
        3,
        f"golden: error: could not start '{golden.prefix}-2': port {port} of this host is taken",
    )
    assert clones.names(golden.state) == [golden.prefix]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--network", "tap0"], "'tap0' is no network; write user, network=NAME, bridge=NAME or lan=NAME"),
        (["--forward", "x"], "'x' is no port; write [HOST_PORT:]GUEST_PORT, and /udp for UDP"),
        (["--disk", "1G"], "'1G' is not a size"),
        (["--network", "bridge=virbr0", "--forward", "80"], "ports are forwarded by a card in user mode"),
        (["--count", "2", "--forward", "8080:80"], "port 8080 of this host cannot lead to 2 clones"),
        (["--owner", "999999999"], "there is no process 999999999 to own the clone"),
        (["--memory", "1024 TiB"], "--memory with less, or fewer clones at a time"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(golden: Command, words: list[str], message: str) -> None:
    code, _, err = golden("create", golden.prefix, "--image", IMAGE, "--no-wait", *words)
    assert code in (2, 3)
    assert message in err
    assert clones.names(golden.state) == []


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("sandbox-bootstraped", "there is no image 'sandbox-bootstraped', neither installed"),
        (f"{IMAGE}@20991231.1", f"there is no image '{IMAGE}' 20991231.1, neither installed"),
    ],
)
def test_unknown_images_and_versions_are_refused(golden: Command, image: str, message: str) -> None:
    code, _, err = golden("create", golden.prefix, "--image", image, "--no-wait")
    assert code == 2
    assert message in err


def test_without_libvirt_every_command_says_what_to_start(golden: Command, tmp_path: Path) -> None:
    golden.create(golden.prefix, "--no-start")
    away = {"GOLDEN_LIBVIRT_URI": f"qemu+unix:///system?socket={tmp_path}/none"}
    for words in (["create", "x", "--image", IMAGE, "--no-wait"], ["gc"]):
        code, _, err = golden(*words, **away)
        assert code == 3
        assert "libvirt is not reachable at" in err
        assert "libvirtd" in err


def test_several_have_room_together_or_not_at_all(golden: Command) -> None:
    words = ("--count", "2", "--image", IMAGE, "--memory", "64 MiB", "--host-memory", "100 MiB", "--no-wait")
    code, _, err = golden("create", golden.prefix, *words)
    both = f"{golden.prefix}-1, {golden.prefix}-2 would need 128 MiB of memory, and golden's machines have 100 MiB"
    assert (code, both in err) == (3, True), err
    assert golden.json("list") == []


def test_memory_is_shared_by_all_and_waited_for_if_wanted(golden: Command, open_path: Path) -> None:
    """One takes, unused, all that there is to be; machines of others, which come and go, have room when it is gone."""
    golden.json("create", golden.prefix, "--image", IMAGE, "--memory", "8 GiB", "--no-wait")
    assert declared()[f"golden-{golden.prefix}"] == 8192
    words = ("create", f"{golden.prefix}-2", "--image", IMAGE, "--memory", "64 MiB", "--no-wait")
    limit = "8 GiB"
    code, _, err = golden(*words, "--host-memory", limit)
    assert (code, err.count(f"there is no memory for {golden.prefix}-2: 64 MiB are needed")) == (3, 1)
    assert f"golden-{golden.prefix} 8192" in err
    with golden.started(*words, "--host-memory", limit, "--wait-memory", "900s") as waiting:
        assert waiting.stderr is not None
        assert any("waiting for 64 MiB of memory" in line for line in iter(waiting.stderr.readline, ""))
        golden.json("destroy", golden.prefix)
        _, err = waiting.communicate(timeout=1000)
    assert waiting.returncode == 0, err


def test_a_snapshot_of_one_that_is_off_and_of_one_that_is_on(golden: Command) -> None:
    name, place = golden.prefix, clones.directory(golden.state, golden.prefix)
    golden.create(name, "--no-start", "--disk", "1 MiB")
    before = (place / "disk.qcow2").read_bytes()
    assert golden.json("snapshot", name, "clean")[0]["has_memory"] is False
    subprocess.run(["qemu-io", "-c", "write -q 0 64k", place / "disk.qcow2"], check=True)
    golden.json("start", name, "--no-wait")
    assert golden.json("snapshot", name, "busy")[0]["has_memory"] is True
    assert golden.json("list")[0]["state"] == "running"
    assert [it["name"] for it in golden.json("snapshot", name)] == ["clean", "busy"]
    code, _, err = golden("snapshot", name, "busy")
    assert (code, f"'{name}' has a snapshot 'busy' already" in err) == (2, True)
    assert golden.json("revert", name, "clean")["state"] == "off"
    assert (place / "disk.qcow2").read_bytes() == before
    assert golden.json("revert", name, "busy")["state"] == "running"
    code, _, err = golden("revert", name, "bussy")
    assert (code, f"'{name}' has no snapshot 'bussy', did you mean 'busy'?" in err) == (2, True)


def test_one_that_stood_still_when_golden_was_killed_goes_on(golden: Command) -> None:
    """Its memory lay in a snapshot that never was, and the next one would have begun by removing it."""
    golden.create(golden.prefix, "--no-wait")
    code, _, _ = golden("snapshot", golden.prefix, "one", GOLDEN_FAULT="snapshot.saved:kill")
    assert (code, golden.json("list")[0]["state"]) == (-signal.SIGKILL, "off")
    assert golden.json("snapshot", golden.prefix, "one")[0]["has_memory"] is True
    assert golden.json("list")[0]["state"] == "running"


def test_one_that_stood_still_when_golden_was_killed_is_started_from_where_it_was(golden: Command) -> None:
    golden.create(golden.prefix, "--no-wait")
    code, _, _ = golden("snapshot", golden.prefix, "one", GOLDEN_FAULT="snapshot.saved:kill")
    assert code == -signal.SIGKILL
    golden.json("start", golden.prefix, "--no-wait")
    assert golden.json("list")[0]["state"] == "running"
    # QEMU was given a memory to begin with.
    subprocess.run(["pgrep", "-f", f"guest=golden-{golden.prefix},.* -incoming "], check=True)
    assert list((clones.directory(golden.state, golden.prefix) / "snapshots").iterdir()) == []


def test_the_memory_of_one_whose_libvirt_went_away_while_it_stood_still_is_kept(
    golden: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden.create(golden.prefix, "--no-wait")

    def no_libvirt(*_: object) -> None:
        raise ToolError("libvirt is gone")

    with monkeypatch.context() as gone, pytest.raises(ToolError, match="libvirt is gone") as told:
        gone.setattr(Connection, "restore", no_libvirt)
        snapshots.take(
            golden.prefix, "one", state=golden.state, connection=golden.connection, reporter=Reporter("quiet")
        )
    assert told.value.try_next == f"golden clone start {golden.prefix}, by which it goes on from where it stands still"
    assert golden.json("list")[0]["state"] == "off"
    assert golden.json("snapshot", golden.prefix, "one")[0]["has_memory"] is True
    assert golden.json("list")[0]["state"] == "running"


@pytest.mark.parametrize("file", ["memory", "disk.qcow2"])
def test_a_snapshot_with_a_flipped_byte_is_never_gone_back_to(golden: Command, file: str) -> None:
    name, place = golden.prefix, clones.directory(golden.state, golden.prefix)
    golden.create(name, "--no-wait")
    golden.json("snapshot", name, "one")
    assert deeply(golden) == []
    path = place / "snapshots/one" / file
    flip(path)
    before = (place / "disk.qcow2").stat()
    code, _, err = golden("revert", name, "one")
    assert (code, f"the snapshot 'one' is damaged: {path} was changed after it was taken" in err) == (5, True)
    # The clone is what it was.
    after = (place / "disk.qcow2").stat()
    assert (golden.json("list")[0]["state"], after.st_ino) == ("running", before.st_ino)
    assert deeply(golden) == [f"snapshot one of {name}"]
    path.unlink()
    code, _, err = golden("revert", name, "one")
    assert (code, f"{path} is gone" in err, f"rm -r {path.parent}" in err) == (5, True, True)


def test_the_facts_of_a_snapshot_with_a_flipped_byte_are_named(golden: Command) -> None:
    name, place = golden.prefix, clones.directory(golden.state, golden.prefix)
    golden.create(name, "--no-start")
    golden.json("snapshot", name, "one")
    facts = place / "snapshots/one/snapshot.json"
    flip(facts, at=0)
    for words in (("snapshot", name), ("revert", name, "one")):
        code, _, err = golden(*words)
        assert (code, f"the facts of a snapshot are damaged: {facts}" in err) == (5, True), err
    assert deeply(golden) == [f"snapshot one of {name}"]
    # One that an earlier golden took has no digests, and is as good as it was.
    flip(facts, at=0)
    facts.write_text(json.dumps({k: v for k, v in json.loads(facts.read_text()).items() if k != "crc32"}))
    assert golden.json("revert", name, "one")["state"] == "off"


def deeply(golden: Command) -> list[str]:
    """What `golden doctor --deep` finds wrong."""
    found = soundness.examine(golden.state, reporter=Reporter("quiet"))
    return [finding.check for finding in found if finding.state != "ok"]


# --- saved memory, of machines that have no agent in them -----------------------------------------------------------


@pytest.fixture
def memory(golden: Command, monkeypatch: pytest.MonkeyPatch) -> saved.Saved:
    """Saved as soon as the machine is on; what a guest would do is left out."""
    monkeypatch.setattr(ssh, "wait_until_answers", lambda *_words, **_more: 1.0)
    monkeypatch.setattr(warm._Preparation, "_prepare_guest", lambda _self, _machine: ())
    source = clones.locate(IMAGE, None, images=golden.store.images, builds=None)
    order = clones.Order(name="x", source=source, memory_mib=64, cpus=1, accelerator="tcg", key=Path("/no/key"))
    more = {"state": golden.state, "connection": golden.connection, "reporter": Reporter("quiet")}
    found, is_new = warm.prepare(order, boot_timeout_s=1, **more)  # type: ignore[arg-type]
    assert is_new
    assert warm.prepare(order, boot_timeout_s=1, **more) == (found, False)  # type: ignore[arg-type]
    return found


def test_a_clone_whose_guest_does_not_become_its_own_boots_with_a_word(
    golden: Command, memory: saved.Saved, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(saved, "RENEW_TIMEOUT_S", 0.5)
    made = golden.create(golden.prefix, "--no-start")
    lease = clones.start(golden.prefix, state=golden.state, connection=golden.connection, reporter=Reporter("plain"))
    assert "boots: it cannot go on from saved memory: " in (said := capsys.readouterr().err)
    assert f"'{golden.prefix}' was started from memory, but did not become a machine of its own" in said
    assert lease.warm is None
    assert clones.is_running(lease, golden.connection)
    disk = clones.directory(golden.state, golden.prefix) / "disk.qcow2"
    qcow2.verify_chain(disk, [pin.path for pin in lease.pins])
    assert [pin.original for pin in lease.pins] == [Path(file) for file in made["files"]]


def test_where_qemu_may_not_map_it_the_memory_is_libvirts(
    golden: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file stays the asker's, and QEMU runs as another user: refused by the kernel, as by a host's policy."""
    monkeypatch.setattr(Connection, "qemu_user", lambda _self: None)
    monkeypatch.setattr(ssh, "wait_until_answers", lambda *_words, **_more: 1.0)
    monkeypatch.setattr(warm._Preparation, "_prepare_guest", lambda _self, _machine: ())
    more = {"state": golden.state, "connection": golden.connection}
    memory, _ = warm.prepare(ordered(golden), boot_timeout_s=1, reporter=Reporter("plain"), **more)  # type: ignore[arg-type]
    assert "each start will read the whole memory: QEMU cannot map it here: " in capsys.readouterr().err
    assert not memory.is_mapped
    monkeypatch.setattr(saved.Renewal, "_wait_for", lambda _self, _word: None)
    golden.create(golden.prefix, "--no-start")
    lease = clones.start(golden.prefix, reporter=Reporter("quiet"), **more)  # type: ignore[arg-type]
    assert lease.warm == memory.circumstances.key
    assert clones.is_running(lease, golden.connection)


def test_a_clone_that_went_on_from_a_mapped_memory_is_reverted(
    golden: Command, memory: saved.Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert memory.is_mapped
    monkeypatch.setattr(saved.Renewal, "_wait_for", lambda _self, _word: None)
    golden.create(golden.prefix, "--no-start")
    lease = clones.start(golden.prefix, state=golden.state, connection=golden.connection, reporter=Reporter("quiet"))
    assert lease.warm == memory.circumstances.key
    assert golden.json("snapshot", golden.prefix, "one")[0]["has_memory"] is True
    golden.json("revert", golden.prefix, "one")
    assert clones.is_running(lease, golden.connection)
    # Its file is in use: nobody collects it.
    assert golden.json("gc", "--memory") == []
    golden.json("destroy", golden.prefix)
    assert [it["kind"] for it in golden.json("gc", "--memory")] == ["memory", "links"]


def test_memory_of_other_circumstances_is_not_used_and_is_collected(golden: Command, memory: saved.Saved) -> None:
    (place,) = saved.places(golden.state)
    assert golden.json("gc", "--dry-run") == []
    # Another amount of memory is other circumstances: it boots, without a try, and says why.
    golden.json("create", golden.prefix, "--image", IMAGE, "--memory", "65 MiB", "--no-start")
    code, _, err = golden("start", golden.prefix, "--no-wait")
    assert code == 0
    assert f"{golden.prefix} boots: memory of {memory.stem} is saved, but it does not fit: memory 64 → 65 MiB" in err
    assert clones.find(golden.state, golden.prefix).warm is None
    # So is another host's kernel.
    other = memory.model_copy(update={"circumstances": memory.circumstances.model_copy(update={"kernel": "0.0"})})
    (place / "warm.json").write_text(other.model_dump_json())
    (found,) = [it for it in golden.json("gc") if it["kind"] == "memory"]
    assert (found["name"], found["reason"]) == (
        place.name,
        "this host has another QEMU, libvirt, kernel or processor now",
    )
    assert saved.places(golden.state) == []


def test_saved_memory_whose_facts_are_damaged_is_named(golden: Command, memory: saved.Saved) -> None:
    assert deeply(golden) == []
    flip(saved.folder(golden.state) / memory.circumstances.key / "warm.json", at=0)
    assert deeply(golden) == [f"memory {memory.circumstances.key}"]
    # It is as if it were not there.
    assert saved.find(golden.state, memory.circumstances) is None


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--disk", "1 MiB"), "it has extra disks or a seed"),
        (("--seed",), "it has extra disks or a seed"),
        (("--network", "user", "--network", "lan=x"), "it has other network cards than the one in user mode"),
    ],
)
def test_who_asks_for_a_warm_start_of_what_cannot_have_one_gets_a_boot_and_a_word(
    golden: Command, words: tuple[str, ...], reason: str
) -> None:
    made = ("create", golden.prefix, "--image", IMAGE, "--memory", "64 MiB", "--no-wait", *words)
    code, _, err = golden(*made, GOLDEN_WARM="1")
    assert code == 0, err
    assert err.count(f"boot: a machine like this cannot go on from memory: {reason}") == 1
    lease = clones.find(golden.state, golden.prefix)
    assert lease.warm is None
    assert clones.is_running(lease, golden.connection)
    assert saved.places(golden.state) == []


def ordered(golden: Command) -> clones.Order:
    source = clones.locate(IMAGE, None, images=golden.store.images, builds=None)
    return clones.Order(
        name=golden.prefix, source=source, memory_mib=64, cpus=1, accelerator="tcg", key=Path("/no/key")
    )


def test_the_memory_of_an_image_is_saved_by_itself_at_its_first_start(
    golden: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "wait_until_answers", lambda *_words, **_more: 1.0)
    monkeypatch.setattr(warm._Preparation, "_prepare_guest", lambda _self, _machine: ())
    more: dict[str, Any] = {"state": golden.state, "connection": golden.connection}
    prepare = functools.partial(
        first_start.prepare, ordered(golden), reporter=Reporter("quiet"), boot_timeout_s=1, **more
    )
    prepare()
    (place,) = saved.places(golden.state)
    made = (place / "warm.json").stat().st_mtime_ns
    prepare()
    assert (place / "warm.json").stat().st_mtime_ns == made
    golden.json("gc", "--memory")
    assert list(saved.folder(golden.state).iterdir()) == []


@pytest.mark.parametrize(
    ("error", "times"),
    [
        (ToolError("its guest takes no agent"), 1),
        (HostError("there is no memory"), 2),  # there may be, the next time
    ],
)
def test_memory_that_cannot_be_saved_is_told_and_its_clones_boot(
    golden: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, times: int
) -> None:
    def refuse(*_words: object, **_more: object) -> None:
        raise error

    monkeypatch.setattr(warm, "prepare", refuse)
    more: dict[str, Any] = {"state": golden.state, "connection": golden.connection}
    for _ in range(2):
        first_start.prepare(ordered(golden), reporter=Reporter("plain"), boot_timeout_s=1, **more)
    said = capsys.readouterr().err
    assert said.count(f"could not be saved; its clones boot: {error}") == times


# --- owners and garbage -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def a_process() -> Iterator[subprocess.Popen[bytes]]:
    """One that lives until it is killed, or until the block ends."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            yield process
        finally:
            process.kill()


def test_clones_of_a_dead_owner_are_collected_and_others_are_not(golden: Command) -> None:
    with a_process() as owner:
        golden.create("orphan-" + golden.prefix, "--owner", str(owner.pid), "--no-wait")
        golden.create("kept-" + golden.prefix, "--keep", "--no-start")
        golden.create("mine-" + golden.prefix, "--owner", str(os.getpid()), "--no-start")
        assert golden.json("gc") == []
    (found,) = golden.json("gc", "--dry-run")
    assert (found["kind"], found["name"]) == ("clone", "orphan-" + golden.prefix)
    assert found["reason"] == f"its owner, process {owner.pid}, is dead"
    assert len(golden.json("list")) == 3
    golden.json("gc")
    assert [clone["name"] for clone in golden.json("list")] == ["kept-" + golden.prefix, "mine-" + golden.prefix]
    assert golden.connection.find("golden-orphan-" + golden.prefix) is None
    assert golden.json("gc") == []


OWNER = """if True:
    import sys
    from pathlib import Path
    from builder import clones
    from builder.clones import Order
    from builder.tools.libvirt import connect

    name, state, images = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    source = clones.locate("sandbox-bootstrapped", None, images=images, builds=None)
    order = Order(name=name, source=source, memory_mib=64, cpus=1, accelerator="tcg", key=None)
    with connect() as connection, clones.running([order], state=state, connection=connection, boot_timeout_s=None):
        print("on", flush=True)
        sys.stdin.read()
"""


def test_clones_of_a_killed_owner_go_when_the_next_one_is_made(golden: Command) -> None:
    """Also the name is free again; and clones of those that live stay."""
    golden.create("mine-" + golden.prefix, "--owner", str(os.getpid()), "--no-start")
    argv = [sys.executable, "-c", OWNER, golden.prefix, golden.state, golden.store.images]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "on\n"
        owner.kill()
        owner.wait(timeout=60)
    assert [it["state"] for it in golden.json("list")] == ["off", "running"]
    code, _, err = golden("create", golden.prefix, "--image", IMAGE, "--memory", "64 MiB", "--no-start")
    assert (code, err.count(f"{golden.prefix} is removed: its owner, process {owner.pid}, is dead")) == (0, 1)
    assert golden.connection.find(f"golden-{golden.prefix}") is None
    assert [it["name"] for it in golden.json("list")] == ["mine-" + golden.prefix, golden.prefix]


def test_clones_of_a_dead_owner_go_where_memory_is_short(golden: Command) -> None:
    golden.create(golden.prefix, "--no-start")
    with a_process() as owner:
        words = ("create", f"{golden.prefix}-big", "--image", IMAGE, "--memory", "8 GiB", "--no-wait")
        golden.json(*words, "--owner", str(owner.pid))
    code, _, err = golden("start", golden.prefix, "--no-wait", "--host-memory", "8 GiB")
    assert f"{golden.prefix}-big is removed: its owner, process {owner.pid}, is dead" in err
    assert f"golden-{golden.prefix}-big" not in declared()
    # Whether it then fits is a matter of what others of this host have.
    assert code in (0, 3)
    assert clones.names(golden.state) == [golden.prefix]


def test_an_orphan_that_another_golden_is_at_work_on_is_in_nobodys_way(golden: Command) -> None:
    with a_process() as owner:
        golden.create("orphan-" + golden.prefix, "--owner", str(owner.pid), "--no-start")
    with lock(golden.state, "orphan-" + golden.prefix):
        golden.create(golden.prefix, "--no-start")
    assert [it["name"] for it in golden.json("list")] == ["orphan-" + golden.prefix, golden.prefix]


def _killed(golden: Command, *words: str, at: Callable[[], bool]) -> None:
    """Run the command and kill it, with no chance to clean up, as soon as `at` comes true."""
    with golden.started(*words) as process:
        deadline = time.monotonic() + 60
        while not at() and process.poll() is None and time.monotonic() < deadline:
            pass
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("moment", ["part", "lease", "domain"])
def test_what_a_create_killed_at_any_moment_leaves_is_collected(golden: Command, moment: str) -> None:
    place = clones.directory(golden.state, golden.prefix)
    moments = {
        "part": lambda: place.with_name(f".{place.name}.part").exists(),
        "lease": lambda: (place / "lease.json").exists(),
        "domain": lambda: golden.connection.find(f"golden-{golden.prefix}") is not None,
    }
    with a_process() as owner:
        words = ("create", golden.prefix, "--image", IMAGE, "--memory", "64 MiB", "--no-wait")
        _killed(golden, *words, "--owner", str(owner.pid), at=moments[moment])
    golden.json("gc")
    assert _left(golden) == []


@pytest.mark.parametrize("is_whole", [True, False])
def test_what_a_killed_destroy_leaves_is_collected(golden: Command, is_whole: bool) -> None:
    golden.create(golden.prefix, "--no-wait")
    place = clones.directory(golden.state, golden.prefix)
    if is_whole:
        # The machine is gone, the folder renamed, nothing removed yet.
        golden.connection.destroy_matching(lambda domain: domain.name == f"golden-{golden.prefix}")
    place.rename(place.with_name(f".{place.name}.part"))
    (found,) = [it for it in golden.json("gc") if it["kind"] != "links"]
    assert (found["kind"], found["name"]) == ("rest", golden.prefix)
    assert _left(golden) == []


@pytest.mark.parametrize("place", ["clone.off", "clone.gone"])
def test_a_destroy_killed_for_real_is_finished_by_the_next_or_collected(golden: Command, place: str) -> None:
    golden.create(golden.prefix, "--no-wait")
    code, _, _ = golden("destroy", golden.prefix, GOLDEN_FAULT=f"{place}:kill")
    assert code == -signal.SIGKILL
    assert golden.connection.find(f"golden-{golden.prefix}") is None
    if place == "clone.off":
        # All of it is there but the machine, which a start brings back.
        assert [it["state"] for it in golden.json("list")] == ["off"]
        golden.json("start", golden.prefix, "--no-wait")
        assert golden.json("destroy", golden.prefix)["destroyed"] == [golden.prefix]
    else:
        assert golden.json("list") == []
        assert [it["kind"] for it in golden.json("gc", "--dry-run")] == ["rest"]
        golden.create(golden.prefix, "--no-start")  # the name is free
        golden.json("destroy", golden.prefix)
    golden.json("gc")
    assert _left(golden) == []


def test_of_two_processes_that_create_the_same_name_at_once_one_wins(golden: Command) -> None:
    words = ("create", golden.prefix, "--image", IMAGE, "--memory", "64 MiB", "--no-wait")
    with golden.started(*words) as one, golden.started(*words) as other:
        ended = sorted((it.communicate(timeout=120)[1], it.returncode) for it in (one, other))
    (lost,) = [(said, code) for said, code in ended if code != 0]
    assert len(ended) == 2
    # It came while the other was at work on it, or when it was done.
    expected = {3: f"could not lock the clone '{golden.prefix}'", 2: f"there is a clone '{golden.prefix}' already"}
    assert expected[lost[1]] in lost[0]
    assert [(it["name"], it["state"]) for it in golden.json("list")] == [(golden.prefix, "running")]
    golden.json("destroy", golden.prefix)
    golden.json("gc")
    assert _left(golden) == []


def test_a_machine_without_a_clone_and_a_damaged_lease_are_collected(golden: Command) -> None:
    names = [f"{golden.prefix}-{n}" for n in (1, 2)]
    golden.create(golden.prefix, "--count", "2", "--no-wait")
    subprocess.run(["rm", "-r", clones.directory(golden.state, names[0])], check=True)
    (clones.directory(golden.state, names[1]) / "lease.json").write_text("{")
    found = {it["kind"]: it["name"] for it in golden.json("gc") if it["kind"] != "links"}
    assert found == {"clone": names[1], "machine": f"golden-{names[0]}"}
    assert _left(golden) == []


def test_one_that_another_golden_is_at_work_on_is_left_alone(golden: Command) -> None:
    with a_process() as owner:
        golden.create(golden.prefix, "--owner", str(owner.pid), "--no-start")
    said: list[str] = []
    with lock(golden.state, golden.prefix):
        found = collection.collect(golden.state, connection=golden.connection, is_dry=False, note=said.append)
    assert found == []
    assert said == [f"{golden.prefix} is left alone: another golden is at work on it"]


def _left(golden: Command) -> list[str]:
    left = [str(path) for path in (golden.state / "clones").iterdir() if path.name not in (".locks", ".bases")]
    left += [str(path) for path in (golden.state / "clones/.bases").iterdir()]
    return left + [it.name for it in golden.connection.domains() if golden.prefix in it.name]


def test_the_example_in_the_documentation_runs(
    golden: Command, open_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it stands, but for the machine's name and KVM, on an image without a guest that would answer."""
    page = (Path(__file__).parents[2] / "docs/clones.md").read_text()
    (text,) = re.findall(r"^## From Python\n```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    text = text.replace('name="web1"', f'name="{golden.prefix}"').replace('accelerator="kvm"', 'accelerator="tcg"')
    (golden.store.images / "rocky9-web-installed.qcow2").symlink_to(f"{IMAGE}-20261121.1.qcow2")
    monkeypatch.setattr(clones, "INSTALLED_IMAGES", golden.store.images)
    monkeypatch.setattr("builder.store.default_state", lambda: golden.state)
    said: list[clones.Lease] = []
    monkeypatch.setattr(clones, "wait", lambda lease, **_more: said.append(lease))
    monkeypatch.setenv("PATH", fake(open_path, "ssh", 'for w; do :; done; echo "ran $w"')["PATH"])
    exec(compile(text, "docs/clones.md", "exec"), {})
    assert capsys.readouterr().out == "ran uname -r\n\n"
    assert [(lease.name, lease.memory_mib) for lease in said] == [(golden.prefix, 2048)]
    assert clones.names(golden.state) == []


# --- into the guest, with fake programs ------------------------------------------------------------------------


@pytest.fixture
def clone(golden: Command, open_path: Path) -> str:
    ssh.make_key(open_path / "key", comment="test")
    golden.create(golden.prefix, "--key", open_path / "key", "--no-wait")
    return golden.prefix


def fake(folder: Path, program: str, script: str) -> dict[str, str]:
    """Variables with which `program` is a shell script."""
    path = folder / "bin" / program
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"PATH": f"{path.parent}:{os.environ['PATH']}"}


def test_exec_gives_status_and_output_of_each(golden: Command, clone: str, open_path: Path) -> None:
    variables = fake(open_path, "ssh", 'echo out; echo err >&2; for w; do :; done; echo "$w"; exit 7')
    code, out, _ = golden("exec", clone, "--json", "--", "uname", "-r", **variables)
    assert (code, json.loads(out)) == (
        7,
        [{"name": clone, "status": 7, "stdout": "out\nuname -r\n", "stderr": "err\n"}],
    )
    code, out, err = golden("exec", clone, "--", "uname -r | tr a b", **variables)
    assert (code, out, err) == (7, "out\nsh -c 'uname -r | tr a b'\n", "err\n")
    slow = fake(open_path, "ssh", "sleep 100")
    code, _, err = golden("exec", clone, "--timeout", "1s", "--", "true", **slow)
    assert (code, err) == (124, f"golden: {clone}: still running after 1 s; ended\n")
    code, _, err = golden("exec", clone)
    assert (code, "a clone and a command are needed" in err) == (2, True)


def test_cp_copies_in_and_out_but_not_across(golden: Command, clone: str, open_path: Path) -> None:
    variables = fake(open_path, "scp", 'printf "%s\\n" "$@"')
    code, out, _ = golden("cp", "a", "b c", f"{clone}:/etc", **variables)
    assert (code, out.splitlines()[-4:]) == (0, ["--", "a", "b c", "root@127.0.0.1:/etc"])
    code, out, _ = golden("cp", f"{clone}:/etc/hosts", ".", **variables)
    assert (code, out.splitlines()[-3:]) == (0, ["--", "root@127.0.0.1:/etc/hosts", "."])
    for words in (["a", "b"], [f"{clone}:/a", f"{clone}:/b"]):
        code, _, err = golden("cp", *words, **variables)
        assert (code, "files are copied into one clone or out of one" in err) == (2, True)


def test_cp_says_as_json_how_it_ended(golden: Command, clone: str, open_path: Path) -> None:
    words = ("cp", "a", "b", f"{clone}:/etc", "--json")
    said = {"sources": ["a", "b"], "destination": f"{clone}:/etc"}
    code, out, _ = golden(*words, **fake(open_path, "scp", "true"))
    assert (code, json.loads(out)) == (0, said | {"status": 0, "stderr": ""})
    code, out, _ = golden(*words, **fake(open_path, "scp", "echo no space >&2; exit 1"))
    assert (code, json.loads(out)) == (1, said | {"status": 1, "stderr": "no space\n"})


def test_logs_as_json(golden: Command, clone: str, open_path: Path) -> None:
    console = str(clones.console_log(golden.state, clone))
    found = golden.json("console", clone, "--log")
    assert {key: found[key] for key in ("name", "file")} == {"name": clone, "file": console}
    assert golden.json("logs", clone).keys() == {"name", "file", "text"}
    assert "qemu-system" in golden.json("logs", clone, "--qemu")["text"]
    variables = fake(open_path, "ssh", "echo a line")
    code, out, _ = golden("logs", clone, "--journal", "--json", **variables)
    assert (code, json.loads(out)) == (0, {"name": clone, "file": None, "text": "a line\n"})
    code, _, err = golden("logs", clone, "--journal", "--json", **fake(open_path, "ssh", "echo away >&2; exit 255"))
    assert (code, f"could not read the journal of {clone}" in err) == (4, True)


def test_what_has_no_end_is_refused_as_json(golden: Command, clone: str) -> None:
    code, _, err = golden("logs", clone, "--follow", "--json")
    assert (code, "a log that is followed has no end, and so there is no JSON of it" in err) == (2, True)
    code, _, err = golden("console", clone, "--json")
    assert (code, "a terminal has no end, and so there is no JSON of it" in err) == (2, True)
    assert f"golden clone console {clone} --log --json" in err


def test_logs_are_the_consoles_and_qemus(golden: Command, clone: str) -> None:
    assert golden("logs", clone)[:2] == (0, clones.console_log(golden.state, clone).read_text())
    assert "qemu-system" in golden("logs", clone, "--qemu")[1]


def test_memory_with_a_flipped_byte_is_never_started_from(
    golden: Command, memory: saved.Saved, capsys: pytest.CaptureFixture[str]
) -> None:
    (place,) = saved.places(golden.state)
    file = place / "memory"
    status = file.stat()
    with file.open("r+b") as stream:
        stream.seek(-1000, os.SEEK_END)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 1]))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    golden.create(golden.prefix, "--no-start")
    lease = clones.start(golden.prefix, state=golden.state, connection=golden.connection, reporter=Reporter("plain"))
    assert f"the saved memory of {memory.stem} was changed after it was saved" in capsys.readouterr().err
    assert lease.warm is None
    assert clones.is_running(lease, golden.connection)
    found = [it for it in soundness.examine(golden.state, reporter=Reporter("quiet")) if it.state == "fail"]
    assert [(it.check, it.remedy) for it in found] == [
        (f"memory {memory.stem}", f"rm -r {place}  and golden clone warm {memory.stem}")
    ]

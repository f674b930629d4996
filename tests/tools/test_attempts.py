"""Attempts at tests, and bundles opened again, through the real libvirt: machines without an operating system."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from builder import clones
from builder.cli.collect import leased
from builder.clones import collection, memory, ready, removal
from builder.errors import ConfigError, HostError, ToolError, VerifyError
from builder.harness import disk_results, evidence, lans
from builder.harness.attempt import Attempts, Keep, wanted
from builder.harness.declaration import Role, Script, Test
from builder.harness.evidence import Collector
from builder.harness.guest import Guest
from builder.harness.lab import Lab, Wanted
from builder.harness.outcome import Outcome
from builder.harness.payload import Context, environment
from builder.harness.revival import Revival, name_of
from builder.harness.schedule import Job
from builder.harness.vigil import Vigil
from builder.harness.watch import HICCUP, Lost, Watch, patterns
from builder.model import Build
from builder.preflight.kvm import Accelerator
from builder.progress import Reporter
from builder.run import query
from builder.store import Store
from builder.tools import qcow2, qemu_img, ssh
from builder.tools.domain import Nic
from builder.tools.libvirt import Connection
from tests.builds import add_chain
from tests.machines import restarting_sector, write_sector

TCG = Accelerator(kind="tcg", reason="said by the test")
IMAGE = "sandbox-upgrade"
WANTED = Wanted(image=IMAGE, memory_mib=64, cpus=1)


@pytest.fixture
def store(open_path: Path) -> Store:
    return Store(open_path / "state", "demo")


@pytest.fixture
def chain(store: Store) -> dict[str, Build]:
    return add_chain(store, "sandbox-base", "sandbox-upgrade")


@pytest.fixture
def lab(store: Store, chain: dict[str, Build], open_path: Path, connection: Connection) -> Iterator[Lab]:
    key = open_path / "id"
    ssh.make_key(key, comment="test")
    yield Lab(state=store.state, images=open_path / "none", builds=store, key=key, accelerator=TCG)
    for name in clones.names(store.state):
        with contextlib.suppress(ConfigError):
            clones.destroy(name, state=store.state, connection=connection)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    folder = tmp_path / "it"
    folder.mkdir()
    (folder / "golden-test.toml").write_text('scripts = ["a.sh"]\n')
    (folder / "a.sh").touch()
    test = Test(
        name=f"net/it-{os.getpid()}",
        folder=folder,
        roles={"main": Role(memory_mib=64, cpus=1)},
        scripts=(Script(run="a.sh", on="main"),),
        boot_s=1,
    )
    return Job(tests=(test,), image=IMAGE, memory_mib=64)


def attempt(
    lab: Lab, job: Job, folder: Path, *, keep: Keep | None = None, stop: threading.Event | None = None
) -> Outcome:
    execute = Attempts(lab, folder=folder, keep=keep or Keep(), stop=stop or threading.Event(), note=lambda _: None)
    (outcome,) = execute(job)
    return outcome


def test_a_machine_that_does_not_boot_leaves_a_bundle(lab: Lab, job: Job, tmp_path: Path, store: Store) -> None:
    found = attempt(lab, job, tmp_path / "results")
    assert (found.passed, found.cause, found.boot_s) == (False, "boot", None)
    assert found.why.startswith(f"main ({IMAGE}@20261121.1) did not boot: the machine at port")
    assert "no answer within" in found.why
    assert clones.names(store.state) == []
    assert found.kept == tmp_path / "results" / IMAGE / f"net.it-{os.getpid()}" / "run-1"
    names = sorted(str(path.relative_to(found.kept)) for path in found.kept.rglob("*") if path.is_file())
    assert names == [
        "boot/main-console.log",
        "bundle.json",
        "disks/main.qcow2",
        "install/commands.sh",
        "install/golden-test.toml.txt",
        "install/main-image-packages.txt",
        "install/main.xml",
        "logs/main-journal.txt",
    ]
    assert (found.kept / "install/main-image-packages.txt").read_text() == f"{IMAGE}-20261121.1-marker-0:1-1.noarch\n"
    assert "there is no journal: the guest was dead or off" in (found.kept / "logs/main-journal.txt").read_text()
    bundle = evidence.read(found.kept)
    assert (bundle.why, bundle.cause, bundle.test) == (found.why, "boot", job.tests[0].name)
    assert bundle.machines[0].image.stem == f"{IMAGE}-20261121.1"
    assert [text.partition(",")[0] for text in bundle.missing] == ["main: its journal", "main: its package list"]
    commands = (found.kept / "install/commands.sh").read_text().splitlines()
    assert [line for line in commands if line and not line.startswith("#")] == [f"golden clone revive {found.kept}"]
    assert any("qemu-img create" in line for line in commands)


def test_what_is_not_to_be_kept_is_not(lab: Lab, job: Job, tmp_path: Path) -> None:
    found = attempt(lab, job, tmp_path / "results", keep=Keep(on_fail=("install",)))
    assert found.kept is not None
    assert leased(lab.state) == {}
    assert sorted(path.name for path in found.kept.iterdir()) == ["bundle.json", "install"]


def test_an_interrupt_ends_the_wait_and_leaves_no_machine(lab: Lab, job: Job, tmp_path: Path, store: Store) -> None:
    stop = threading.Event()
    threading.Timer(2, stop.set).start()
    patient = job.model_copy(update={"tests": (job.tests[0].model_copy(update={"boot_s": 600}),)})
    found = attempt(lab, patient, tmp_path / "results", stop=stop)
    assert (found.passed, found.cause) == (False, "stopped")
    assert clones.names(store.state) == []


def test_a_host_without_the_key_is_no_fault_of_the_test(lab: Lab, job: Job, tmp_path: Path) -> None:
    lab.key = None
    found = attempt(lab, job, tmp_path / "results")
    assert found.cause == "host"
    assert "machines for tests need the key that their image lets in" in found.why


def test_machines_of_one_test_have_room_together_or_not_at_all(
    lab: Lab, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "declared", lambda **_: {"golden-other": 64})
    monkeypatch.setattr(ready, "declared", lambda **_: {"golden-other": 64})
    lab.host_mib, lab.memory_wait_s = 128, 0
    with pytest.raises(HostError, match=r"no memory for a-\d+-\d+, b-\d+-\d+: 128 MiB are needed, 64 MiB are free"):  # noqa: SIM117
        with lab.running({"a": WANTED, "b": WANTED}, is_waited=False):
            pytest.fail("there is room for one")
    assert clones.names(store.state) == []
    with lab.running({"a": WANTED}, is_waited=False) as guests:
        assert list(guests) == ["a"]


def test_machines_reach_each_others_ports(lab: Lab, job: Job, connection: Connection) -> None:
    """The guests' own part is QEMU's; here is what golden tells them."""
    on_lan = WANTED.model_copy(update={"lan": True})
    with_ports = on_lan.model_copy(update={"ports": (80, 443)})
    with lab.running({"web-1": with_ports, "main": on_lan}, is_waited=False) as guests:
        assert lans.addresses(guests) == {"web-1": "10.0.3.1", "main": "10.0.3.2"}
        groups = set()
        for guest in guests.values():
            domain = connection.find(f"golden-{guest.address.clone}")
            assert domain is not None and guest.address.lan_mac is not None
            assert f"mac={guest.address.lan_mac}" in domain.xml()
            groups |= set(re.findall(r"mcast=[\d.:]+,localaddr=127\.0\.0\.1", domain.xml()))
        assert len(groups) == 1
        web, main = guests["web-1"], guests["main"]
        assert web.place_of(22) == ("10.0.2.2", web.address.port)
        assert set(web.address.forwards) == {80, 443}
        for port in web.address.forwards.values():
            with socket.create_connection(("127.0.0.1", port), timeout=5):
                pass
        context = Context(
            test=job.tests[0], run=2, deadline=0, logs=job.tests[0].folder, collect=job.tests[0].folder, boot_limit_s=1
        )
        assert environment(context, guests, role="main") == {
            "GOLDEN_TEST": job.tests[0].name,
            "GOLDEN_RUN": "2",
            "GOLDEN_MACHINE": "main",
            "GOLDEN_RESULTS": f"/var/tmp/golden-results-net_it-{os.getpid()}",
            "GOLDEN_HOST_WEB_1": "10.0.2.2",
            "GOLDEN_PORT_WEB_1": str(web.address.port),
            "GOLDEN_PORT_WEB_1_80": str(web.address.forwards[80]),
            "GOLDEN_PORT_WEB_1_443": str(web.address.forwards[443]),
            "GOLDEN_HOST_MAIN": "10.0.2.2",
            "GOLDEN_PORT_MAIN": str(main.address.port),
        }


def test_a_machine_has_the_cards_and_the_firmware_of_its_test(lab: Lab, job: Job, connection: Connection) -> None:
    test = job.tests[0]
    card = Nic(kind="network", source="golden-has-no-such-network")
    role = test.roles["main"].model_copy(update={"networks": (card,), "firmware": "bios"})
    wants = wanted(test.model_copy(update={"roles": {"main": role}}), IMAGE)
    assert (wants["main"].networks, wants["main"].firmware) == ((card,), "bios")
    with pytest.raises(ToolError) as caught, lab.running(wants, is_waited=False):  # libvirt is asked for that card
        pytest.fail("there is no such network")
    assert "golden-has-no-such-network" in dict(caught.value.details)["libvirt"]
    assert clones.names(lab.state) == []


def test_a_machine_has_the_seed_of_its_test(lab: Lab, job: Job, connection: Connection) -> None:
    test = job.tests[0]
    (test.folder / "seed.yaml").write_text("#cloud-config\nhostname: from-the-test\n")
    seeded = test.model_copy(update={"roles": {"main": test.roles["main"].model_copy(update={"seed": "seed.yaml"})}})
    with lab.running(wanted(seeded, IMAGE), is_waited=False) as guests:
        clone = guests["main"].address.clone
        seed = clones.directory(lab.state, clone) / "seed.iso"
        assert b"hostname: from-the-test" in seed.read_bytes()
        domain = connection.find(f"golden-{clone}")
        assert domain is not None
        assert str(seed) in domain.xml()


# --- guests that die


def say(text: str) -> Callable[[Mapping[str, Guest]], None]:
    """Put a line onto the console of a machine that has just been switched on."""

    def on_start(guests: Mapping[str, Guest]) -> None:
        with guests["main"].address.console.open("a") as stream:
            stream.write(f"{text}\n")

    return on_start


PANIC = "[    0.04] Kernel panic - not syncing: "


def why_not(lab: Lab, *, boot_timeout_s: float, said: str) -> ToolError:
    with pytest.raises(ToolError) as caught:  # noqa: SIM117  the block below is part of what is tested
        with lab.running({"main": WANTED}, boot_timeout_s=boot_timeout_s, on_start=say(said)):
            pytest.fail("it boots")
    return caught.value


def test_a_panic_ends_the_wait_at_once(lab: Lab) -> None:
    begin = time.monotonic()
    error = why_not(lab, boot_timeout_s=600, said=f"{PANIC}VFS: Unable to mount root fs")
    assert error.what.startswith(f"main ({IMAGE}@20261121.1) did not boot: the kernel panicked: ")
    assert error.what.endswith("VFS: Unable to mount root fs")
    assert time.monotonic() - begin < 500


def test_one_machine_that_dies_ends_the_wait_for_the_others(lab: Lab) -> None:
    begin = time.monotonic()
    with (
        pytest.raises(ToolError) as caught,
        lab.running({"other": WANTED, "main": WANTED}, boot_timeout_s=600, on_start=say(f"{PANIC}dead")),
    ):
        pytest.fail("it boots")
    assert caught.value.what.startswith("main ")
    assert time.monotonic() - begin < 500


def test_a_hiccup_of_the_host_is_another_boot(lab: Lab) -> None:
    error = why_not(lab, boot_timeout_s=1, said=PANIC + HICCUP)
    assert error.what.endswith("no answer within 5 s")
    assert dict(error.details)["console"] == "(it said nothing)"


def test_the_watch_says_what_became_of_a_machine(lab: Lab, connection: Connection) -> None:
    with lab.running({"main": WANTED}, is_waited=False) as guests:

        def watch(*fatal: str, stop: threading.Event | None = None) -> Watch:
            return Watch(guests, connection, fatal=patterns(fatal), stop=stop or threading.Event())

        watch().look_closely(0)
        stop = threading.Event()
        stop.set()
        with pytest.raises(Lost, match="interrupted"):
            watch(stop=stop)()
        say("app[1]: segfault at 0")(guests)
        watch().look_closely(0)
        with pytest.raises(Lost, match="main: the console said what the test calls fatal, /segfault at/ after"):
            watch("segfault at").look_closely(0)
        domain = connection.find(f"golden-{guests['main'].address.clone}")
        assert domain is not None
        domain.destroy()
        with pytest.raises(Lost, match="main: the machine went off; its console's last line: app") as gone:
            watch().look_closely(0)
        assert gone.value.cause == "gone"
        say("[ 9.1] reboot: Restarting system")(guests)
        with pytest.raises(Lost, match="main: the guest restarted by itself; may_reboot = true allows it"):
            watch().look_closely(0)
        say(PANIC + "hung_task: blocked tasks")(guests)
        with pytest.raises(Lost, match=r"main: the kernel panicked after 0 s: .*hung_task: blocked tasks"):
            watch().look_closely(0)


def test_a_vigil_switches_a_dead_machine_off(lab: Lab, connection: Connection) -> None:
    with lab.running({"main": WANTED, "other": WANTED}, is_waited=False) as guests:
        domains = {name: connection.find(f"golden-{guest.address.clone}") for name, guest in guests.items()}
        with Vigil(guests.values()) as vigil:
            say("app[1]: Traceback (most recent call last):")(guests)
            assert vigil.why(guests["main"]) is None
            say(f"{PANIC}Attempted to kill init!")(guests)
            end = time.monotonic() + 120
            while (domain := domains["main"]) is not None and not domain.is_off():
                assert time.monotonic() < end
                time.sleep(0.2)
            assert vigil.why(guests["main"]) == (
                f"main ({IMAGE}@20261121.1) is dead: the kernel panicked: {PANIC}Attempted to kill init!"
            )
            assert vigil.why(guests["other"]) is None
        assert domains["other"] is not None and not domains["other"].is_off()


# --- guests that restart

RESTART = restarting_sector("[    9.1] reboot: Restarting system")


class RestartingLab(Lab):
    """Its guests restart as soon as they boot, again and again."""

    @contextlib.contextmanager
    def running(self, wanted: Mapping[str, Wanted], **more: Any) -> Iterator[dict[str, Guest]]:
        before = more.pop("before_start", lambda _folder: None)

        def spoil(folder: Path) -> None:
            before(folder)
            write_sector(folder / "disk.qcow2", RESTART)

        with super().running(wanted, **more, before_start=spoil) as guests:
            yield guests


@pytest.fixture
def restarting(lab: Lab) -> Lab:
    return RestartingLab(state=lab.state, images=lab.images, builds=lab.builds, key=lab.key, accelerator=TCG)


def test_a_guest_that_restarts_while_it_boots_ends_the_attempt(restarting: Lab, job: Job, tmp_path: Path) -> None:
    patient = job.model_copy(update={"tests": (job.tests[0].model_copy(update={"boot_s": 600}),)})
    found = attempt(restarting, patient, tmp_path / "results")
    assert (found.cause, found.why) == (
        "restart",
        "main: the guest restarted by itself; may_reboot = true allows it",
    )
    assert found.seconds < 600


def test_a_guest_whose_results_come_on_a_disk_may_not_restart_either(
    restarting: Lab, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_results, "prepare", lambda *_, **__: None)
    patient = job.tests[0].model_copy(update={"boot_s": 600, "results": "disk"})
    found = attempt(restarting, job.model_copy(update={"tests": (patient,)}), tmp_path / "results")
    assert (found.cause, found.why) == (
        "restart",
        "main: the guest restarted by itself; may_reboot = true allows it",
    )


def test_one_that_may_restart_goes_on_until_its_limit(restarting: Lab, job: Job, tmp_path: Path) -> None:
    free = job.tests[0].model_copy(update={"boot_s": 2, "may_reboot": True})
    found = attempt(restarting, job.model_copy(update={"tests": (free,)}), tmp_path / "results")
    assert found.cause == "boot"
    assert found.kept is not None
    console = (found.kept / "boot/main-console.log").read_text()
    assert console.count("reboot: Restarting system") > 1


# --- bundles


@pytest.fixture
def bundle(lab: Lab, job: Job, tmp_path: Path, connection: Connection) -> Path:
    """Of a machine into whose disk something was written."""
    place = tmp_path / "bundle"
    with lab.running({"main": WANTED}, is_waited=False) as guests:
        collector = Collector(place, job.tests[0], state=lab.state)
        addresses = {name: guest.address for name, guest in guests.items()}
        domain = connection.find(f"golden-{addresses['main'].clone}")
        assert domain is not None
        domain.destroy()
        disk = clones.directory(lab.state, addresses["main"].clone) / "disk.qcow2"
        query(["qemu-io", "-c", "write -q -P 77 1M 64k", disk], why="write into the clone")
        collector.look_at_screens(addresses, connection)
        collector.take_disks(addresses, connection)
        collector.write_bundle(addresses, image=IMAGE, number=1, cause="test", why="it broke")
    return place


@pytest.fixture
def revival(lab: Lab, store: Store, connection: Connection) -> Revival:
    return Revival(
        state=store.state,
        images=lab.images,
        builds=store,
        connection=connection,
        accelerator=TCG,
        reporter=Reporter("quiet"),
    )


def test_a_bundle_is_opened_again(bundle: Path, revival: Revival, store: Store, connection: Connection) -> None:
    before = (bundle / "disks/main.qcow2").read_bytes()
    (one,) = revival.open(bundle, key=None, is_waited=False)
    assert one.name == name_of(evidence.read(bundle).test, "main")
    lease = clones.find(store.state, one.name)
    assert clones.is_running(lease, connection)
    clones.stop(one.name, state=store.state, connection=connection, timeout_s=10, is_forced=True)
    disk = clones.directory(store.state, one.name) / "disk.qcow2"
    qcow2.verify_chain(disk, [pin.path for pin in lease.pins])
    said = query(["qemu-io", "-r", "-c", "read -P 77 1M 64k", disk], why="read what the test wrote")
    assert "read 65536/65536 bytes" in said
    assert "Pattern verification failed" not in said
    assert (bundle / "disks/main.qcow2").read_bytes() == before


def test_a_bundle_holds_its_images_until_it_goes(
    bundle: Path, revival: Revival, store: Store, connection: Connection
) -> None:
    held = store.state / "clones/.bases"
    for path in store.images.iterdir():
        path.unlink()
    removal.release(store.state)
    collection.collect(store.state, connection=connection, is_dry=False, note=lambda _: None)
    assert set(leased(store.state)) == {f"{IMAGE}-20261121.1", "sandbox-base-20261121.1"}
    assert set(leased(store.state).values()) == {f"the bundle {bundle} stands on it"}
    (one,) = revival.open(bundle, key=None, is_waited=False)
    assert one.image == f"{IMAGE}-20261121.1"
    clones.destroy(one.name, state=store.state, connection=connection)
    assert list(held.iterdir())
    shutil.rmtree(bundle)
    removal.release(store.state)
    assert not list(held.iterdir())
    assert leased(store.state) == {}
    assert not list((store.state / "clones/.holds").iterdir())


def test_a_bundle_whose_image_is_not_here(bundle: Path, revival: Revival, store: Store) -> None:
    for path in store.images.glob(f"{IMAGE}-*"):
        path.unlink()
    shutil.rmtree(store.state / "clones/.holds")  # of another host
    with pytest.raises(ConfigError, match=f"there is no image '{IMAGE}' 20261121.1"):
        revival.open(bundle, key=None, is_waited=False)
    assert clones.names(store.state) == []


def test_a_bundle_names_no_file_outside(bundle: Path, revival: Revival) -> None:
    facts = json.loads((bundle / "bundle.json").read_text())
    for disk in ("/etc/passwd", "../../secret.qcow2", "disks/../../secret.qcow2", "disks/main.qcow2\n"):
        facts["machines"][0]["disk"] = disk
        (bundle / "bundle.json").write_text(json.dumps(facts))
        with pytest.raises(VerifyError, match="is damaged"):
            revival.open(bundle, key=None, is_waited=False)


def test_the_disk_of_a_bundle_that_keeps_its_data_elsewhere_is_never_opened(
    bundle: Path, revival: Revival, store: Store, tmp_path: Path
) -> None:
    disk, secret = bundle / "disks/main.qcow2", tmp_path / "secret.raw"
    size = str(qemu_img.info(disk).virtual_bytes)
    disk.unlink()
    query(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={secret}", disk, size], why="make a strange disk"
    )
    secret.unlink()
    with pytest.raises(VerifyError, match=r"it keeps its data in another file \(data-file\)"):
        revival.open(bundle, key=None, is_waited=False)
    assert not secret.exists()
    assert clones.names(store.state) == []


def test_what_is_no_bundle_and_what_is_a_damaged_one(bundle: Path, revival: Revival, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no bundle in"):
        revival.open(tmp_path, key=None, is_waited=False)
    (bundle / "disks/main.qcow2").unlink()
    with pytest.raises(ConfigError, match="has no disk"):
        revival.open(bundle, key=None, is_waited=False)
    (bundle / "bundle.json").write_text("{}")
    with pytest.raises(VerifyError, match="is damaged"):
        revival.open(bundle, key=None, is_waited=False)

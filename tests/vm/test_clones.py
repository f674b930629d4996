"""Clones that are not twins, however they start: three that boot, two that go on from memory, one of a pool."""

from __future__ import annotations

import functools
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vm.conftest import Golden
from tests.vm.test_outputs import duids

NO_IMAGES = ("--images", "/no/images")
COLD, WARM = ("cold1", "cold2", "cold3"), ("warm1", "warm2")
FORWARDS = ("--forward", "8000", "--forward", "5000/udp")
SERVERS = """
mkdir /run/served
hostname > /run/served/name
systemd-run -q python3 -m http.server 8000 --directory /run/served
systemd-run -q python3 -c 'import socket
with socket.socket(type=socket.SOCK_DGRAM) as port:
    port.bind(("", 5000))
    while True:
        port.sendto(*port.recvfrom(99))'
"""
PATIENCE_S = 300

# What must be no two clones'. The last two are drawn by the guest's kernel just now.
IDENTITY = {
    "machine-id": "cat /etc/machine-id",
    "host keys": "cat /etc/ssh/ssh_host_*_key.pub",
    "MAC": "cat /sys/class/net/eth0/address",
    "hostname": "hostname",
    "random seed": "sha256sum < /var/lib/systemd/random-seed",
    "random numbers": "head -c 32 /dev/urandom | sha256sum",
}


@pytest.fixture(scope="module", autouse=True)
def cleared(golden: Golden) -> Iterator[None]:
    """No clone and no memory is left, whatever the tests did."""
    yield
    for pool in golden("clone", "pool", "--json").json:
        golden("clone", "pool", pool["name"], "--ready", "0")
    for clone in golden("clone", "list", "--json").json:
        golden("clone", "destroy", clone["name"])
    golden("clone", "gc", "--memory")


@pytest.fixture(scope="module")
def memory(golden: Golden) -> dict[str, Any]:
    found: dict[str, Any] = golden("clone", "warm", "sandbox-upgrade", *NO_IMAGES, "--json").json
    return found


@pytest.fixture(scope="module")
def warm(golden: Golden, memory: dict[str, Any]) -> list[dict[str, Any]]:
    """Two that go on from memory, one after the other."""
    words = ("--image", "sandbox-upgrade", *NO_IMAGES, *FORWARDS, "--warm", "--own-key", "--json")
    return [golden("clone", "create", name, *words).json for name in WARM]


@pytest.fixture(scope="module")
def pooled(golden: Golden, warm: list[dict[str, Any]]) -> dict[str, Any]:
    """One that went on from memory, waited in a pool, and was taken."""
    filled = golden("clone", "pool", "sandbox-upgrade", *NO_IMAGES, "--ready", "1", "--json").json
    taken: dict[str, Any] = golden(
        *("clone", "create", "--image", "sandbox-upgrade", *NO_IMAGES, "--from-pool", "--json")
    ).json
    # Waits for the process that fills it again.
    golden("clone", "pool", "sandbox-upgrade", "--ready", "0")
    assert filled["made"] == [taken["name"]]
    return taken


@pytest.fixture(scope="module")
def cold(golden: Golden, warm: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Three that boot at once."""
    words = ("--image", "sandbox-upgrade", *NO_IMAGES, *FORWARDS, "--cold", "--own-key", "--json")
    found: list[dict[str, Any]] = golden("clone", "create", *COLD, *words).json
    return found


def answers(golden: Golden, command: str, *names: str) -> dict[str, str]:
    found = golden("clone", "exec", *names, "--json", "--", command).json
    assert {answer["status"] for answer in found} == {0}, found
    return {answer["name"]: answer["stdout"].strip() for answer in found}


def test_a_warm_start_goes_on_from_memory(memory: dict[str, Any], warm: list[dict[str, Any]]) -> None:
    """How much sooner it answers is measured by benchmarks/clones.py."""
    assert memory["is_new"]
    assert {clone["warm"] for clone in warm} == {warm[0]["warm"]} != {None}
    assert all(0 < clone["boot_s"] < memory["cold_s"] for clone in warm)


def test_a_warm_clone_has_the_time_of_day_and_nothing_that_failed(golden: Golden, warm: list[dict[str, Any]]) -> None:
    asked = time.time()
    for name, now in answers(golden, "date +%s", *WARM).items():
        assert asked - 10 < int(now) < time.time() + 10, name
    assert set(answers(golden, "systemctl --failed --plain --no-legend", *WARM).values()) == {""}
    assert set(answers(golden, "rpm -q sandbox-release", *WARM).values()) != {""}


@pytest.mark.usefixtures("warm")
def test_a_snapshot_brings_disk_and_memory_back(golden: Golden) -> None:
    name = WARM[0]
    answers(golden, "echo before > /root/state; sleep 1000 < /dev/null > /dev/null 2>&1 & echo $! > /run/pid", name)
    (taken,) = golden("clone", "snapshot", name, "before", "--json").json
    assert taken["has_memory"]
    answers(golden, "rm /root/state; kill $(cat /run/pid); sync", name)
    golden("clone", "revert", name, "before")
    asked = time.time()
    found = answers(golden, "cat /root/state; ps -p $(cat /run/pid) -o comm=; date +%s", name)[name].splitlines()
    assert found[:2] == ["before", "sleep"]
    assert asked - 10 < int(found[2]) < time.time() + 10


def test_no_two_clones_share_anything_that_should_be_theirs(
    golden: Golden, pooled: dict[str, Any], cold: list[dict[str, Any]], warm: list[dict[str, Any]]
) -> None:
    assert {clone["warm"] for clone in cold} == {None}
    assert pooled["warm"] == warm[0]["warm"]
    everybody = (*COLD, *WARM, pooled["name"])
    # Each has a key of its own, and has let this test in with it.
    assert len({clone["key"] for clone in (*cold, *warm)}) == 5
    for what, command in IDENTITY.items():
        found = answers(golden, command, *everybody)
        assert all(found.values()), what
        assert len(set(found.values())) == len(found), f"{what}: {found}"
    found = duids(golden, *everybody)
    assert len({"", *found.values()}) == len(found) + 1, f"DUID: {found}"
    assert answers(golden, "hostname", *everybody) == {name: name for name in everybody}


def test_sshd_shows_the_key_that_is_the_clones_own(golden: Golden, warm: list[dict[str, Any]]) -> None:
    """One that went on with the saved guest's would show that, whatever is in the files."""
    files = answers(golden, "cat /etc/ssh/ssh_host_ed25519_key.pub", *WARM)
    for clone in warm:
        words = ["ssh-keyscan", "-T", "60", "-t", "ed25519", "-p", str(clone["ssh_port"]), "127.0.0.1"]
        shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
        assert shown[1:] == files[clone["name"]].split()[:2]


def test_forwarded_ports_lead_to_what_listens_in_the_guest(
    golden: Golden, cold: list[dict[str, Any]], warm: list[dict[str, Any]]
) -> None:
    """One that booted and one that went on from memory, by TCP and by UDP."""
    both = (cold[0], warm[0])
    answers(golden, SERVERS, *(clone["name"] for clone in both))
    for clone in both:
        http, udp = (forward["host_port"] for forward in clone["forwards"])
        assert until_it_answers(functools.partial(fetched, http)) == f"{clone['name']}\n".encode()
        assert until_it_answers(functools.partial(echoed, udp)) == b"there and back"


def fetched(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/name", timeout=30) as answer:
        return bytes(answer.read())


def echoed(port: int) -> bytes:
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.sendto(b"there and back", ("127.0.0.1", port))
        return client.recv(99)


def until_it_answers(ask: Callable[[], bytes]) -> bytes:
    """A server takes a while to start without an accelerator."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


@pytest.mark.usefixtures("warm")
def test_files_go_in_and_come_out(golden: Golden, open_folder: Path) -> None:
    open_folder.mkdir()
    (open_folder / "a file").write_text("there and back\n")
    golden("clone", "cp", open_folder / "a file", f"{WARM[1]}:/root/copy")
    golden("clone", "cp", f"{WARM[1]}:/root/copy", open_folder / "copy")
    assert (open_folder / "copy").read_text() == "there and back\n"
    assert "Linux version" in golden("clone", "logs", WARM[1], "--journal").stdout

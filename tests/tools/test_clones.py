"""Clones through the real libvirt, of images without an operating system: everything but the guest's answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import clones
from builder.clones import Lease, Order
from builder.errors import ConfigError, GoldenError, HostError, ToolError, VerifyError
from builder.model import Build
from builder.package import package
from builder.progress import Reporter
from builder.run import query
from builder.store import Store
from builder.tools import qcow2, qemu_img, ssh
from builder.tools.domain import read_label
from builder.tools.libvirt import Connection, connect
from tests.builds import add_chain


@pytest.fixture
def name() -> str:
    """Of this test run alone: libvirt's names are shared with everybody on the host."""
    return f"test-{os.getpid()}-{os.urandom(3).hex()}"


@pytest.fixture
def store(open_path: Path) -> Store:
    return Store(open_path / "state", "demo")


@pytest.fixture
def chain(store: Store) -> dict[str, Build]:
    return add_chain(store, "sandbox-base", "sandbox-upgrade", "sandbox-bootstrapped")


class Clones:
    """The module under test with the options that are the same in every test."""

    def __init__(self, store: Store, connection: Connection) -> None:
        self.store, self.connection = store, connection

    def create(
        self,
        name: str,
        *,
        images: Path = Path("/no/images"),
        is_full: bool = False,
        boot_timeout_s: float | None = None,
        key: Path | None = None,
    ) -> Lease:
        source = clones.locate("sandbox-bootstrapped", None, images=images, builds=self.store)
        order = Order(name=name, source=source, memory_mib=64, cpus=1, accelerator="tcg", key=key)
        lease, _ = clones.create(
            order,
            state=self.store.state,
            connection=self.connection,
            reporter=Reporter("quiet"),
            is_full=is_full,
            boot_timeout_s=boot_timeout_s,
        )
        return lease

    def destroy(self, name: str) -> None:
        clones.destroy(name, state=self.store.state, connection=self.connection)

    def is_nothing_left(self, name: str) -> bool:
        folder = self.store.state / "clones"
        left = [path for path in folder.iterdir() if path.name not in (".locks", ".bases")] if folder.exists() else []
        return not left and self.connection.find(f"golden-{name}") is None


@pytest.fixture
def made(store: Store, chain: dict[str, Build], connection: Connection) -> Iterator[Clones]:
    yield Clones(store, connection)
    for name in clones.names(store.state):
        clones.destroy(name, state=store.state, connection=connection)


def flip_a_byte(disk: Path) -> None:
    """In the middle of the file, with the old modification time: as a bad disk would, not as an editor."""
    status = disk.stat()
    disk.chmod(0o644)
    with disk.open("r+b") as stream:
        stream.seek(status.st_size // 2)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 1]))
    disk.chmod(0o444)
    os.utime(disk, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_clone_runs_on_an_overlay_of_the_images_own_file(
    made: Clones, store: Store, chain: dict[str, Build], name: str
) -> None:
    lease = made.create(name)
    assert clones.find(store.state, name) == lease
    assert list(clones.leases(store.state)) == [lease]
    assert clones.is_running(lease, made.connection)
    files = [store.qcow2(chain[image]) for image in ("sandbox-bootstrapped", "sandbox-upgrade", "sandbox-base")]
    assert list(lease.files) == files
    disk = clones.directory(store.state, name) / "disk.qcow2"
    qcow2.verify_chain(disk, [pin.path for pin in lease.pins])
    assert all(pin.is_held and pin.path.samefile(file) for pin, file in zip(lease.pins, files, strict=True))
    assert qemu_img.info(disk).actual_bytes < 1024**2
    domain = made.connection.find(f"golden-{name}")
    assert domain is not None
    label = read_label(domain.xml())
    assert label is not None
    assert (label.purpose, label.work) == ("clone", clones.directory(store.state, name))
    made.destroy(name)
    assert made.is_nothing_left(name)


def test_installed_packages_are_untouched_by_a_clone(
    made: Clones, store: Store, chain: dict[str, Build], open_path: Path, name: str
) -> None:
    rpms = package(store, list(chain.values()), prefix="golden", reporter=Reporter("quiet"), signer=None)
    rpm = ["rpm", f"--root={open_path}/root"]
    paths = [path for packed in rpms for path in (packed.image_rpm, packed.link_rpm)]
    query([*rpm, "-i", "--nosignature", *paths], why="install the packages")
    images = open_path / "root/usr/share/golden/images"

    lease = made.create(name, images=images)
    assert {file.parent for file in lease.files} == {images}
    assert query([*rpm, "-Va"], why="verify while the clone runs") == ""
    made.destroy(name)
    assert query([*rpm, "-Va"], why="verify after the clone") == ""


@pytest.mark.parametrize("image", ["sandbox-base", "sandbox-upgrade", "sandbox-bootstrapped"])
@pytest.mark.parametrize("is_full", [False, True])
def test_one_flipped_byte_anywhere_in_the_chain_is_refused(
    made: Clones, store: Store, chain: dict[str, Build], name: str, image: str, is_full: bool
) -> None:
    made.create(f"{name}-before")
    made.destroy(f"{name}-before")
    flip_a_byte(store.qcow2(chain[image]))
    with pytest.raises(VerifyError, match=f"'{image}-20261121.1' was changed after it was built") as caught:
        made.create(name, is_full=is_full)
    assert caught.value.try_next == f"remove {store.qcow2(chain[image])} and run: golden build {image}"
    assert made.is_nothing_left(name)


def test_an_image_on_another_parent_than_it_was_built_on_is_refused(
    made: Clones, store: Store, chain: dict[str, Build], name: str
) -> None:
    facts = store.facts(chain["sandbox-upgrade"])
    other = chain["sandbox-upgrade"].model_copy(
        update={"id": chain["sandbox-upgrade"].id.model_copy(update={"sha256": "f" * 64})}
    )
    facts.chmod(0o644)
    facts.write_text(other.model_dump_json())
    with pytest.raises(VerifyError, match=r"'sandbox-bootstrapped-20261121.1' does not stand on the images"):
        made.create(name)
    assert made.is_nothing_left(name)


def test_a_parent_without_facts_is_refused(made: Clones, store: Store, chain: dict[str, Build], name: str) -> None:
    store.facts(chain["sandbox-base"]).unlink()
    with pytest.raises(VerifyError, match=r"there are no facts beside the image file .*sandbox-base-20261121.1.qcow2"):
        made.create(name)


def test_a_name_that_is_taken_is_refused_and_its_clone_runs_on(made: Clones, name: str) -> None:
    lease = made.create(name)
    with pytest.raises(ConfigError, match=f"there is a clone '{name}' already"):
        made.create(name)
    assert clones.is_running(lease, made.connection)


@pytest.mark.parametrize("wrong", ["", "Web", "a b", "../x", ".hidden", "-x", "a" * 41])
def test_a_name_that_cannot_be_is_refused(made: Clones, wrong: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a clone's name"):
        made.create(wrong)
    assert not (made.store.state / "clones").exists()


def test_of_two_that_create_the_same_name_at_once_one_wins(made: Clones, name: str) -> None:
    barrier, won, lost = threading.Barrier(2), [], []

    def create() -> None:
        with connect() as connection:
            barrier.wait()
            try:
                won.append(Clones(made.store, connection).create(name))
            except GoldenError as error:
                lost.append(error)

    threads = [threading.Thread(target=create) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == len(lost) == 1
    assert clones.is_running(won[0], made.connection)
    assert lost[0].what in (
        f"could not lock the clone '{name}': another golden is at work on it",
        f"there is a clone '{name}' already",
    )


def test_a_machine_of_somebody_else_is_not_touched(made: Clones, open_path: Path, name: str) -> None:
    lease = made.create(name)
    other = Store(open_path / "other", "demo")
    add_chain(other, "sandbox-base", "sandbox-upgrade", "sandbox-bootstrapped")
    with pytest.raises(HostError, match=f"libvirt has a machine 'golden-{name}' already, and it is not one of"):
        Clones(other, made.connection).create(name)
    assert clones.is_running(lease, made.connection)


def test_one_that_never_answers_leaves_nothing(made: Clones, open_path: Path, name: str) -> None:
    ssh.make_key(open_path / "key", comment="test")
    with pytest.raises(ToolError, match="cannot be reached over SSH: no answer within 2 s") as caught:
        made.create(name, key=open_path / "key", boot_timeout_s=2)
    details = dict(caught.value.details)
    assert details["last seen"].startswith("connected, but no sshd says its name")
    assert details["console"] == "(it said nothing)"
    assert made.is_nothing_left(name)


def test_what_a_killed_golden_left_is_removed_by_destroy_or_by_the_next_create(made: Clones, name: str) -> None:
    made.create(name)
    place = clones.directory(made.store.state, name)
    # Killed in destroy, after the rename; and the machine, too, is still there.
    place.rename(place.with_name(f".{name}.part"))
    lease = made.create(name)
    assert clones.is_running(lease, made.connection)
    # Killed in create, before the overlay was made.
    made.connection.find(lease.domain_name).remove()  # type: ignore[union-attr]
    (place / "disk.qcow2").unlink()
    (place / "lease.json").write_text("{")
    assert clones.uri(made.store.state, name) is None
    made.destroy(name)
    assert made.is_nothing_left(name)


@pytest.mark.parametrize("wrong", ["../demo", ".", "..", "", ".locks", "other"])
def test_only_a_clone_can_be_destroyed(made: Clones, name: str, wrong: str) -> None:
    made.create(name)
    with pytest.raises(ConfigError, match=f"there is no clone '{wrong}'"):
        made.destroy(wrong)
    assert made.store.images.is_dir()
    assert clones.names(made.store.state) == [name]


# --- the command line ------------------------------------------------------------------------------------------


def golden(store: Store, *words: str | Path, **variables: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "builder", "--state", store.state, "--progress", "plain", "clone", *words]
    environment = os.environ | {"GOLDEN_IMAGES_DIR": str(store.images), **variables}
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.fixture
def installed(made: Clones, store: Store, chain: dict[str, Build]) -> Clones:
    """The store's folder serves as the folder of installed images, once the links are there."""
    for build in chain.values():
        (store.images / f"{build.image}.qcow2").symlink_to(f"{build.stem}.qcow2")
    return made


def answer(store: Store, *words: str | Path, **variables: str) -> tuple[int, str, str]:
    with golden(store, *words, **variables) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_a_clones_life_by_the_command_line(installed: Clones, store: Store, name: str) -> None:
    words = ("create", name, "--image", "sandbox-bootstrapped@20261121.1", "--memory", "64 MiB", "--no-wait")
    code, out, err = answer(store, *words)
    assert (code, out.splitlines()[0]) == (
        0,
        f"{name}: sandbox-bootstrapped-20261121.1, the installed image "
        f"{store.images}/sandbox-bootstrapped-20261121.1.qcow2",
    ), err
    code, out, _ = answer(store, "list", "--json")
    (found,) = json.loads(out)
    assert (code, found["name"], found["state"], found["memory_mib"]) == (0, name, "running", 64)
    assert name in answer(store, "list")[1]
    code, _, err = answer(store, "destroy", name, f"{name}x")
    assert (code, err.splitlines()[0]) == (
        2,
        f"golden: error: there is no clone '{name}x', did you mean '{name}'?",
    )
    assert answer(store, "console", name, "--log")[:2] == (0, "")
    assert answer(store, "destroy", name)[:2] == (0, f"{name}: destroyed\n")
    assert installed.is_nothing_left(name)
    assert answer(store, "list")[1] == "no clones\n"


def test_a_clone_that_is_off_is_said_to_be(installed: Clones, store: Store, open_path: Path, name: str) -> None:
    ssh.make_key(open_path / "key", comment="test")
    lease = installed.create(name, key=open_path / "key")
    installed.connection.find(lease.domain_name).destroy()  # type: ignore[union-attr]
    for command in ("ssh", "console"):
        code, _, err = answer(store, command, name)
        assert (code, err.splitlines()[0]) == (3, f"golden: error: the clone '{name}' is off")


def test_ssh_becomes_ssh_and_ends_as_it_does(installed: Clones, store: Store, open_path: Path, name: str) -> None:
    ssh.make_key(open_path / "key", comment="test")
    lease = installed.create(name, key=open_path / "key")
    fake = open_path / "bin" / "ssh"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 7\n')
    fake.chmod(0o755)
    path = f"{fake.parent}:{os.environ['PATH']}"
    for words, line in (
        (["uname", "-a"], "uname -a"),
        (["echo", "a  b"], "echo 'a  b'"),
        (["id; id -u"], "sh -c 'id; id -u'"),
    ):
        code, out, _ = answer(store, "ssh", name, "--", *words, PATH=path)
        assert (code, out.splitlines()[-2:]) == (7, ["--", line])
    assert ["-p", str(lease.ssh_port), "-i", str(lease.key)] == out.splitlines()[2:6]


def test_names_are_completed(installed: Clones, store: Store, name: str) -> None:
    installed.create(name)
    words = {"COMP_WORDS": f"golden --state {store.state} clone ssh test", "COMP_CWORD": "5"}
    script = "from builder import cli; cli.golden(prog_name='golden')"
    variables = os.environ | words | {"_GOLDEN_COMPLETE": "bash_complete"}
    done = subprocess.run([sys.executable, "-c", script], env=variables, stdout=subprocess.PIPE, text=True)
    assert done.stdout == f"plain,{name}\n"


def test_images_that_qemu_cannot_reach_are_refused_with_what_to_type(
    installed: Clones, store: Store, name: str
) -> None:
    store.images.chmod(0o700)
    code, _, err = answer(store, "create", name, "--image", "sandbox-base", "--no-wait")
    assert code == 3
    assert f"which may not pass through {store.images}; no machine could read {store.images}" in err
    assert f"chmod o+x {store.images}" in err
    assert installed.is_nothing_left(name)


def test_waiting_without_a_key_is_refused_before_anything_starts(installed: Clones, store: Store, name: str) -> None:
    code, _, err = answer(store, "create", name, "--image", "sandbox-base")
    assert code == 2
    assert err.startswith("golden: error: waiting for SSH needs a key")
    assert installed.is_nothing_left(name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupted_create_leaves_nothing(
    installed: Clones, store: Store, open_path: Path, name: str, number: signal.Signals
) -> None:
    ssh.make_key(open_path / "key", comment="test")
    with golden(store, "create", name, "--image", "sandbox-base", "--key", open_path / "key") as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any(f"boot {name} " in line for line in lines)
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert installed.is_nothing_left(name)


def test_a_killed_create_leaves_what_destroy_removes(
    installed: Clones, store: Store, open_path: Path, name: str
) -> None:
    ssh.make_key(open_path / "key", comment="test")
    with golden(store, "create", name, "--image", "sandbox-base", "--key", open_path / "key") as process:
        assert process.stderr is not None
        assert any(f"boot {name} " in line for line in iter(process.stderr.readline, ""))
        process.kill()
    code, _, err = answer(store, "destroy", name)
    assert code == 0, err
    assert installed.is_nothing_left(name)

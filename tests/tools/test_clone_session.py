"""Clones of an ordinary user, in a libvirt of that user's own; installed images are root's."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builder.store import Store
from tests.builds import add_chain

# Everything is imported before the rights are given up: the interpreter itself may lie where only root may look.
LIFE = """if True:
    import json, os, sys
    from pathlib import Path
    from builder import clones
    from builder.clones import collection, snapshots
    from builder.progress import Reporter
    from builder.tools.domain import Nic
    from builder.tools.libvirt import connect, default_uri

    state, images, user, group = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    os.setgroups([]), os.setgid(group), os.setuid(user)
    said = {"uri": default_uri()}
    with connect() as connection:
        source = clones.locate("sandbox-base", None, images=images, builds=None)
        order = clones.Order(name="mine", source=source, memory_mib=64, cpus=1, accelerator="tcg", key=None,
            nics=(Nic(), Nic(kind="lan", source="mine")))
        quiet = Reporter("quiet")
        more = {"state": state, "connection": connection}
        with clones.running([order], reporter=quiet, boot_timeout_s=None, **more) as (lease,):
            said["is_running"] = clones.is_running(lease, connection)
            said["owner"] = lease.owner.pid == os.getpid()
            said["held"] = lease.pins[0].is_held
            snapshots.take("mine", "now", reporter=quiet, **more)
            said["after"] = snapshots.revert("mine", "now", reporter=quiet, **more)[1]
        said["left"] = clones.names(state) + [it.name for it in connection.domains()]
        said["gc"] = len(collection.collect(is_dry=False, note=print, **more))
    print(json.dumps(said))
"""


# Each command in a process of its own, as a shell would; here, too, all is imported before.
COMMANDS = """if True:
    import grp, json, os, sys
    from builder import cli
    from builder.cli import clone, clone_create, clone_use

    user, group = int(sys.argv[1]), int(sys.argv[2])
    os.setgroups([]), os.setgid(group), os.setuid(user)
    for words in json.loads(sys.argv[3]):
        if (child := os.fork()) == 0:
            sys.argv = ["golden", "clone", *words]
            cli.main()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print("END", status, flush=True)
"""


@pytest.fixture
def images(open_path: Path) -> Path:
    store = Store(open_path / "root", "demo")
    build = add_chain(store, "sandbox-base")["sandbox-base"]
    (store.images / "sandbox-base.qcow2").symlink_to(f"{build.stem}.qcow2")
    return store.images


@dataclass(frozen=True)
class User:
    """nobody, with a home, which has a libvirt of its own as soon as somebody asks for it."""

    home: Path
    uid: int
    gid: int

    def run(self, program: str, *words: str | Path) -> str:
        environment = os.environ | {"GOLDEN_STATE": str(self.home / "state"), "GOLDEN_FILE": "/none"}
        environment |= dict.fromkeys(["HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"], str(self.home))
        environment.pop("GOLDEN_LIBVIRT_URI", None)
        argv = [sys.executable, "-c", program, *words]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=300)
        print(done.stderr)  # shown by pytest if the test fails
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def user() -> Iterator[User]:
    nobody = pwd.getpwnam("nobody")
    # Short: libvirt makes sockets below it, whose paths the kernel limits.
    home = Path(tempfile.mkdtemp(prefix="g-", dir="/var/tmp"))
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    try:
        yield User(home, nobody.pw_uid, nobody.pw_gid)
    finally:
        # libvirt's client started them for the user, and they would wait for others for two minutes.
        for daemon in ("libvirtd", "virtlogd"):
            with contextlib.suppress(FileNotFoundError):
                os.kill(int((home / f"libvirt/{daemon}.pid").read_text()), signal.SIGTERM)
        shutil.rmtree(home, ignore_errors=True)


def test_an_ordinary_user_makes_starts_and_removes_a_clone(user: User, images: Path) -> None:
    said = user.run(LIFE, user.home / "state", images, str(user.uid), str(user.gid))
    assert json.loads(said) == {
        "uri": "qemu:///session",
        "is_running": True,
        "owner": True,
        # The kernel refuses links to files of others: the image is used where it is.
        "held": False,
        "after": True,
        "left": [],
        "gc": 0,
    }


def test_the_commands_of_an_ordinary_user(user: User, images: Path) -> None:
    create = ["create", "mine", "--image", "sandbox-base", "--images", str(images), "--memory", "64 MiB", "--json"]
    commands = [
        [*create, "--no-wait", "--network", "user", "--network", "lan=mine"],
        ["list", "--json"],
        ["stop", "--force", "mine", "--json"],
        ["start", "mine", "--no-wait", "--json"],
        ["check", "--full", "--json"],
        [*create, "--no-start"],
        ["destroy", "mine", "--json"],
        ["gc", "--json"],
        ["list", "--json"],
    ]
    said = user.run(COMMANDS, str(user.uid), str(user.gid), json.dumps(commands))
    *parts, rest = re.split(r"^END (\d+)$", said, flags=re.MULTILINE)
    assert rest.strip() == ""
    statuses = [int(status) for status in parts[1::2]]
    answers: list[Any] = [json.loads(text) if text.strip() else None for text in parts[::2]]
    assert statuses == [0, 0, 0, 0, 0, 2, 0, 0, 0]  # the name is taken, and says so
    made, listed, stopped, started, checked, _, destroyed, collected, left = answers
    assert (made["state"], [card["kind"] for card in made["nics"]]) == ("running", ["user", "lan"])
    assert [(it["name"], it["state"]) for it in listed] == [("mine", "running")]
    assert (stopped["stopped"], started[0]["state"]) == (["mine"], "running")
    # The kernel refuses links to files of others: the image is used where it is.
    assert checked == [{"name": "mine", "files": [str(file.resolve()) for file in images.glob("*-*.*.qcow2")]}]
    assert (destroyed["destroyed"], collected, left) == (["mine"], [], [])

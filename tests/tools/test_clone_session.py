"""Clones of an ordinary user, in a libvirt of that user's own; installed images are root's."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

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


def test_an_ordinary_user_makes_starts_and_removes_a_clone(open_path: Path) -> None:
    store = Store(open_path / "root", "demo")
    build = add_chain(store, "sandbox-base")["sandbox-base"]
    (store.images / "sandbox-base.qcow2").symlink_to(f"{build.stem}.qcow2")
    nobody = pwd.getpwnam("nobody")
    # Short: libvirt makes sockets below it, whose paths the kernel limits.
    home = Path(tempfile.mkdtemp(prefix="g-", dir="/var/tmp"))
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    directories = dict.fromkeys(["HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"], str(home))
    environment = os.environ | directories
    environment.pop("GOLDEN_LIBVIRT_URI", None)
    argv = [sys.executable, "-c", LIFE, home / "state", store.images, str(nobody.pw_uid), str(nobody.pw_gid)]
    try:
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=120)
    finally:
        # libvirt's client started them for the user, and they would wait for others for two minutes.
        for daemon in ("libvirtd", "virtlogd"):
            with contextlib.suppress(FileNotFoundError):
                os.kill(int((home / f"libvirt/{daemon}.pid").read_text()), signal.SIGTERM)
        shutil.rmtree(home, ignore_errors=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "uri": "qemu:///session",
        "is_running": True,
        "owner": True,
        # The kernel refuses links to files of others: the image is used where it is.
        "held": False,
        "after": True,
        "left": [],
        "gc": 0,
    }

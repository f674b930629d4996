"""A harness that was written for ost-images and knows nothing of golden: its overlay, its QEMU, its ssh."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.tools.free_port import free_port
from tests.vm.conftest import Golden

START = """\
set -eu
qemu-img create -q -f qcow2 -F qcow2 -b "$OST_IMAGES_BASE" "$WORK/host0.qcow2"
qemu-system-x86_64 -machine q35,accel=tcg -cpu max -m 512 -display none -daemonize -pidfile "$WORK/pid" \\
    -serial "file:$WORK/console.log" -drive "file=$WORK/host0.qcow2,if=virtio" \\
    -nic "user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:$PORT-:22"
"""
LOGIN = """\
exec ssh -F none -n -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes \\
    -o IdentitiesOnly=yes -o ConnectTimeout=20 -i "$OST_IMAGES_SSH_KEY" -p "$PORT" root@127.0.0.1 cat /etc/os-release
"""


@pytest.fixture
def variables(golden: Golden, open_folder: Path) -> dict[str, str]:
    """What a shell has after `eval "$(golden harness env)"`, and a folder of the harness's own."""
    images, folder = open_folder / "images", open_folder / "ost-images"
    images.mkdir(parents=True)
    for build in (golden.store / "images").glob("sandbox-base-*"):
        (images / build.name).symlink_to(build)
    newest = max(images.glob("sandbox-base-*.qcow2"))
    (images / "sandbox-base.qcow2").symlink_to(newest.name)
    golden("harness", "install", "--profile", "ost", "--images", images, "--to", folder)
    text = golden("harness", "env", "--profile", "ost", "--to", folder).stdout
    more = {"WORK": str(open_folder), "PORT": str(free_port())}
    said = subprocess.run(
        ["sh", "-c", f"{text}\nenv -0"], env={"PATH": os.environ["PATH"]} | more, capture_output=True, check=True
    ).stdout
    return dict(line.split("=", 1) for line in said.decode().split("\0") if "=" in line)


@pytest.fixture
def host0(variables: dict[str, str]) -> Iterator[Path]:
    work = Path(variables["WORK"])
    subprocess.run(["sh", "-c", START], env=variables, check=True)
    try:
        yield work
    finally:
        os.kill(int((work / "pid").read_text()), signal.SIGKILL)


def test_an_overlay_on_the_base_boots_and_lets_the_key_in(variables: dict[str, str], host0: Path) -> None:
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        ended = subprocess.run(["sh", "-c", LOGIN], env=variables, capture_output=True, text=True, check=False)
        if ended.returncode == 0:
            break
        time.sleep(2)
    assert "ID=" in ended.stdout, f"{ended.stderr}\n{(host0 / 'console.log').read_text(errors='replace')[-2000:]}"

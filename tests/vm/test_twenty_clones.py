"""Twenty clones of an installed image, some of them off, whose packages are upgraded and removed below them."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from builder.store import Store
from tests.builds import add_chain
from tests.vm.conftest import Golden

CHAIN = ("sandbox-base", "sandbox-upgrade")
NEWER = "20991231.1"
RUNNING = tuple(f"on{number}" for number in range(1, 17))
STOPPED = ("off1", "off2")  # these have booted, and boot again
NEVER_STARTED = ("new1", "new2")
PATIENT = ("--wait-memory", "10 min")  # other tests have machines, too

# What it has read is forgotten, so that the answer is read from the image's files.
COMMAND = "echo 3 > /proc/sys/vm/drop_caches; rpm -q sandbox-release && sha256sum /usr/bin/rpm && echo x > /root/mine"


@dataclass(frozen=True)
class Host:
    """A machine whose images came by dnf, with a project and a state of its own."""

    golden: Golden
    folder: Path

    @property
    def images(self) -> Path:
        return self.folder / "root/usr/share/golden/images"

    def dnf(self, *words: str) -> None:
        argv = ["dnf", "-y", f"--installroot={self.folder / 'root'}", "--releasever=9", "--refresh"]
        argv += [f"--setopt=reposdir={self.folder / 'repos'}", f"--setopt=cachedir={self.folder / 'cache'}", *words]
        subprocess.run(argv, check=True)

    def publish(self) -> None:
        self.golden("package", "sandbox-upgrade")
        self.golden("publish", "sandbox-upgrade")

    def answers(self, *names: str) -> dict[str, str]:
        found = self.golden("clone", "exec", *names, "--json", "--", COMMAND).json
        assert {answer["status"] for answer in found} == {0}, found
        return {answer["name"]: answer["stdout"] for answer in found}

    def listed(self) -> dict[str, str]:
        return {clone["name"]: clone["state"] for clone in self.golden("clone", "list", "--json").json}


@pytest.fixture
def host(golden: Golden, shared_path: Path) -> Iterator[Host]:
    """The newest real images, in a store where nothing else is, packaged, published and installed."""
    folder = shared_path / "20"  # short: libvirt makes sockets below it, whose paths the kernel limits
    folder.mkdir()
    shared = Store(golden.state, golden.store.name)
    mine = replace(
        golden.with_images(folder / "project", '\n[retention]\nkeep = 1\nage = "1 s"\ncomposes = 1\n'),
        state=folder / "state",
    )
    (mine.store / "images").mkdir(parents=True)
    leaf = shared.newest("sandbox-upgrade")
    assert leaf is not None
    assert leaf.parent is not None
    for stem in (leaf.stem, leaf.parent.stem):
        for file in shared.images.glob(f"{stem}.*"):
            os.link(file, mine.store / "images" / file.name)
    host = Host(mine, folder)
    host.publish()
    with mine.started("repo", "serve", "--port", "0") as server:
        assert server.stdout is not None
        url = server.stdout.readline().split(" at ")[1].split(";")[0]
        reader = threading.Thread(target=server.communicate, daemon=True)
        reader.start()
        try:
            (folder / "repos").mkdir()
            mine("repo", "client-config", "--url", url, "-o", folder / "repos/golden.repo")
            host.dnf("install", "golden-sandbox-upgrade")
            yield host
        finally:
            if made := list(host.listed()):
                mine("clone", "destroy", *made)
            server.terminate()
            reader.join(60)
            shutil.rmtree(folder, ignore_errors=True)


def test_twenty_clones_outlive_upgrade_autoremove_and_collectors(host: Host) -> None:
    golden = host.golden
    more = ("--image", "sandbox-upgrade", "--images", host.images, "--memory", "512 MiB", "--keep")
    golden("clone", "create", *RUNNING, *STOPPED, *more, "--warm", *PATIENT)
    golden("clone", "create", *NEVER_STARTED, *more, "--no-start")
    golden("clone", "stop", "--force", *STOPPED)
    (old,) = {tuple(clone["files"]) for clone in golden("clone", "list", "--json").json}
    assert {Path(file).parent for file in old} == {host.images}

    add_chain(Store(golden.state, golden.store.name), *CHAIN, version=NEWER)
    host.publish()
    host.dnf("upgrade")
    host.dnf("autoremove")
    golden("collect")
    assert golden("clone", "gc", "--json").json == []

    # The images are gone from the host …
    assert {file.stem.removesuffix(f"-{NEWER}") for file in host.images.glob(f"*-{NEWER}.qcow2")} == set(CHAIN)
    assert not [file for file in old if Path(file).exists()]
    # … and all of the clones have their files, byte by byte, …
    assert golden("clone", "check", "--full").stdout == "20 clones stand on whole images\n"
    # … those that run answer, …
    states = dict.fromkeys(RUNNING, "running") | dict.fromkeys((*STOPPED, *NEVER_STARTED), "off")
    assert host.listed() == states
    said = host.answers(*RUNNING)
    # … and those that are off boot, or go on from memory of an image that is no longer installed.
    golden("clone", "start", *STOPPED, *NEVER_STARTED, *PATIENT)
    said |= host.answers(*STOPPED, *NEVER_STARTED)
    assert set(said) == set(states)
    assert len(set(said.values())) == 1
    assert host.listed() == dict.fromkeys(states, "running")
    warm: dict[str, Any] = {clone["name"]: clone["warm"] for clone in golden("clone", "list", "--json").json}
    assert None not in {warm[name] for name in (*RUNNING, *NEVER_STARTED)}

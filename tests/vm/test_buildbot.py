"""A night over two workers with stores of their own, one of which is killed; a real Buildbot, and real builds."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.store import Store
from tests.builds import verify_builds
from tests.farm import SUCCESS, Farm, until
from tests.vm.conftest import ALL, Golden, what_is_left

LEFT, FLAT = "sandbox-left", "sandbox-tools-installed-flat"
# A layer of one offline phase, and a sibling that takes no machine to build: both are verified in one.
DEFINITION = """
[image.sandbox-left]
parent = "sandbox-upgrade"
steps = [{ write = { "/etc/left" = "left\\n" } }]
verify = { commands = ["grep -x left /etc/left"] }
"""
TOOLS = "[image.sandbox-tools-installed]\n"
# Two builds and their verification by what one worker is left, on a machine that has other things to do.
_NIGHT_LIMIT_S = 1500


@pytest.fixture
def farm(golden: Golden, channel: str, open_folder: Path) -> Iterator[Farm]:
    """The machine that has the channel has no image: what the chain's store published is all that the others get."""
    project = golden.with_images(open_folder, DEFINITION)
    text = project.file.read_text()
    assert TOOLS in text
    project.file.write_text(text.replace(TOOLS, f"{TOOLS}flat = true\n"))
    found = Farm(open_folder / "farm", [sys.executable, "-m", "builder"], project.file, open_folder / "keeper")
    keeper = Golden(found.file, found.state)
    keeper.store.mkdir(parents=True)
    published = golden.store / "channels" / "candidate"
    shutil.copytree(published, keeper.store / "channels" / "candidate", copy_function=os.link)
    # They were verified the night before.
    builds = [build for image in ALL if (build := Store(golden.state, "sandbox").newest(image))]
    verify_builds(Store(keeper.state, "sandbox"), *builds)
    for state in (keeper.state, *(found.state_of(name) for name in found.names)):
        shutil.copytree(golden.state / "host", state / "host")  # what was proven of this machine
    with served(keeper) as url:
        found.channel = f"{url}/candidate"
        try:
            yield found
        finally:
            for worker in (Golden(found.file, found.state_of(name)) for name in found.names):
                for clone in (worker.state / "clones").glob("verify-*"):
                    worker("clone", "destroy", clone.name)


@contextlib.contextmanager
def served(keeper: Golden) -> Iterator[str]:
    with keeper.started("repo", "serve", "--port", "0") as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        threading.Thread(target=server.communicate, daemon=True).start()
        try:
            yield line.split(" at ")[1].split(";")[0]
        finally:
            server.terminate()


@pytest.mark.usefixtures("store_is_untouched")
def test_a_night_goes_over_two_workers_and_one_is_killed_in_the_middle(farm: Farm, open_folder: Path) -> None:
    keeper = Golden(farm.file, farm.state)
    stores = {name: Golden(farm.file, farm.state_of(name)).store for name in farm.names}

    def at_work() -> dict[str, str]:
        """Image -> who has it: its work folder is there."""
        return {path.name.rpartition("-")[0]: name for name in stores for path in stores[name].glob("work/sandbox-*")}

    planned = keeper("plan", "--from", farm.channel, "--json").json
    assert {it["image"] for it in planned if it["action"] != "reuse"} == {LEFT, FLAT}
    with farm.running():
        farm.force("now")
        lost = until(lambda: at_work().get(LEFT), what=f"the build of {LEFT}", limit_s=_NIGHT_LIMIT_S)
        (left,) = {*farm.names} - {lost}
        until(lambda: farm.builds(FLAT), what=f"the build of {FLAT}")
        farm.kill_worker(lost)
        night = farm.ended("night", limit_s=_NIGHT_LIMIT_S)
        results = {name: [build["results"] for build in farm.builds(name)] for name in (LEFT, FLAT)}
        steps = farm.steps(night)
    print(results, steps)
    assert night["results"] == SUCCESS
    assert (results[LEFT][-1], len(results[LEFT]), results[FLAT]) == (SUCCESS, 2, [SUCCESS])
    assert steps["golden repo check"] == SUCCESS

    # What one worker had begun is nowhere; the other made it, on what came out of the channel.
    assert not list(stores[lost].glob(f"images/{LEFT}-*"))
    made = {path.stem.rpartition("-")[0] for path in stores[left].glob("images/*.json")}
    assert {LEFT, FLAT, "sandbox-upgrade", "sandbox-base"} <= made
    assert not (keeper.store / "images").exists() or not list((keeper.store / "images").iterdir())
    assert what_is_left(Golden(farm.file, farm.state_of(left))) == []
    assert not list(farm.drop.iterdir())

    assert keeper("repo", "check", "--channel", "nightly", "--json").json["packages"] >= 2 * len([*ALL, LEFT, FLAT])
    after = keeper("plan", "--from", farm.channel, "--json").json
    assert {it["action"] for it in after} == {"reuse"}
    install(keeper, open_folder, f"golden-{LEFT}", f"golden-{FLAT}")
    images = open_folder / "root/usr/share/golden/images"
    assert {LEFT, FLAT} <= {path.stem for path in images.glob("*.qcow2") if path.is_symlink()}


def install(keeper: Golden, folder: Path, *packages: str) -> None:
    (folder / "repos").mkdir()
    with served(keeper) as url:
        keeper("repo", "client-config", "--channel", "nightly", "--url", url, "-o", folder / "repos" / "golden.repo")
        dnf = [
            "dnf",
            "-y",
            f"--installroot={folder / 'root'}",
            "--releasever=9",
            f"--setopt=reposdir={folder / 'repos'}",
        ]
        subprocess.run([*dnf, f"--setopt=cachedir={folder / 'cache'}", "install", *packages], check=True)

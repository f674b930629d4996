"""Buildbot's master with ci/buildbot/master.cfg and two workers, all real; golden is a script of a few lines."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.farm import FAILURE, SUCCESS, Farm, until

# What golden plan prints: base and upgrade stand, four images are due.
PARENTS = {"s-base": None, "s-upgrade": "s-base", "s-a": "s-upgrade", "s-b": "s-upgrade", "s-top": "s-a", "s-up": "s-b"}

# The words of golden's command line come in; calls are written down with their worker. A step waits until it may end.
GOLDEN = f"""\
#!{sys.executable} -SE
import json, os, sys, time
from pathlib import Path
folder, words = Path(__file__).parent, sys.argv[1:]
worker = Path(os.environ["GOLDEN_STATE"]).parent.name
def say(text):
    with (folder / "calls").open("a") as calls:
        calls.write(text + "\\n")
if words[0] == "plan":
    print((folder / "plan.json").read_text())
    sys.exit()
if words[0] != "step":
    say(" ".join(words))
    sys.exit()
image = words[1]
say(f"step {{image}} on {{worker}} from {{words[words.index('--from') + 1]}}")
if "--parent-key" in words:
    say(f"{{image}} stands on {{words[words.index('--parent-key') + 1]}}")
while (folder / "wait" / image).exists():
    time.sleep(0.05)
if (folder / "fail" / image).exists():
    print("golden: error: it is not what it promises", file=sys.stderr)
    sys.exit(5)
tried = [{{"step": "step", "cause": "mirror", "error": "All mirrors were tried", "log": "", "exit_code": 4}}]
found = {{"image": image, "outcome": "delivered", "key": f"new {{image}}", "delivery": f"{{image}}-1.abc"}}
print(json.dumps(found | {{"attempts": tried}}))
"""


class Stage:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("wait", "fail"):
            (folder / name).mkdir()
        (folder / "calls").touch()
        program = folder / "golden"
        program.write_text(GOLDEN)
        program.chmod(0o755)
        self.plan("s-a", "s-b", "s-top", "s-up")
        self.farm = Farm(folder / "farm", [str(program)], folder / "golden.toml", folder / "keeper" / "state")

    def plan(self, *due: str) -> None:
        graph = [
            {
                "image": image,
                "parent": parent,
                "action": "rebuild" if image in due else "reuse",
                "key": f"old {image}",
                "reason": "a test",
                "memory_mib": 512,
            }
            for image, parent in PARENTS.items()
        ]
        (self.folder / "plan.json").write_text(json.dumps(graph))

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()

    def wait(self, *images: str) -> None:
        for image in images:
            (self.folder / "wait" / image).touch()

    def go(self, *images: str) -> None:
        for image in images:
            (self.folder / "wait" / image).unlink()

    def worker_of(self, image: str) -> str:
        """Who has begun with it last, once somebody has."""
        found = until(lambda: [it for it in self.calls() if it.startswith(f"step {image} on ")], what=f"step {image}")
        return str(found[-1].split()[3])


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_a_night_goes_over_two_workers_and_outlives_one_of_them(stage: Stage) -> None:
    stage.wait("s-a", "s-b")
    with stage.farm.running() as farm:
        assert "<title>Buildbot</title>" in requests.get(farm.web.removesuffix("api/v2"), timeout=60).text
        farm.force("now")
        first = {image: stage.worker_of(image) for image in ("s-a", "s-b")}
        assert set(first.values()) == {"one", "two"}  # side by side
        farm.kill_worker(first["s-b"])
        stage.go("s-a", "s-b")
        night = farm.ended("night")
        assert night["results"] == SUCCESS
        assert stage.worker_of("s-b") == first["s-a"]
        calls = stage.calls()
        for image in ("s-a", "s-b", "s-top", "s-up"):
            (*_, build) = farm.builds(image)
            assert (build["results"], build["properties"]["key"][0]) == (SUCCESS, f"new {image}")
            assert [it["cause"] for it in build["properties"]["attempts"][0]] == ["mirror"]
        assert len(farm.builds("s-b")) == 2 and len(farm.builds("s-a")) == 1
        assert farm.builds("s-upgrade") == []
        for image, key in {"s-a": "old s-upgrade", "s-top": "new s-a", "s-up": "new s-b"}.items():
            assert f"{image} stands on {key}" in calls
        accepted = [calls.index(f"accept {farm.drop} {image}-1.abc") for image in ("s-a", "s-top", "s-up")]
        assert accepted[0] < accepted[1]
        assert calls.index(f"accept {farm.drop}") < min(accepted)
        assert calls[-3:] == ["promote --to nightly", "collect", "repo check --channel nightly"]

        # What failed holds back what stands on it, and no other; the rest is promoted.
        (stage.folder / "fail" / "s-a").touch()
        (stage.folder / "calls").write_text("")
        farm.force("now")
        night = farm.ended("night", number=2)
        results = farm.steps(night)
        assert (night["results"], results["images"], results["golden promote"]) == (FAILURE, FAILURE, SUCCESS)
        calls = stage.calls()
        assert [it.split()[1] for it in calls if it.startswith("step ")].count("s-up") == 1
        assert not any("s-top" in call for call in calls)
        assert f"accept {farm.drop} s-a-1.abc" not in calls

        # Nothing is due: nothing is triggered. One image alone can be asked for.
        stage.plan()
        (stage.folder / "fail" / "s-a").unlink()
        (stage.folder / "calls").write_text("")
        farm.force("now")
        assert farm.ended("night", number=3)["results"] == SUCCESS
        assert not any(call.startswith("step ") for call in stage.calls())
        farm.force("only-s-top", rebuild=True)
        assert farm.ended("s-top", number=2)["results"] == SUCCESS


def test_the_masters_configuration_is_checked_with_golden_s_own_words(stage: Stage) -> None:
    stage.farm.write()
    ended = stage.farm.check_config()
    assert (ended.returncode, ended.stdout) == (0, "Config file is good!\n")

    graph: list[dict[str, Any]] = json.loads((stage.folder / "plan.json").read_text())
    graph[-1]["memory_mib"] = 8192
    (stage.folder / "plan.json").write_text(json.dumps(graph))
    settings = stage.farm.master / "farm.toml"
    settings.write_text(f"{settings.read_text()}memory_mib = 4096\n")
    (stage.farm.master / "farm.toml").write_text(settings.read_text().replace('"secret one"', '"x"\nmemory_mib = 4096'))
    refused = stage.farm.check_config()
    assert refused.returncode == 1
    assert "no worker has the 8192 MiB that 's-up' wants" in refused.stderr

    (stage.folder / "golden").write_text("#!/bin/sh\necho 'golden: error: golden.toml has 2 problems' >&2; exit 2\n")
    refused = stage.farm.check_config()
    assert refused.returncode == 1
    assert "golden plan ended with 2:" in refused.stderr and "golden.toml has 2 problems" in refused.stderr

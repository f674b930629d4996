"""What is done to golden's commands: a state to begin from, the command, and what must be there in the end."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from builder.channels import compose as composes
from builder.channels import deliveries
from builder.store import Store, sha256
from builder.tools import createrepo, rpm
from tests.torture import world
from tests.torture.stage import Ended, Stage

CLONE = "torture"
_CREATE = ("clone", "create", CLONE, "--image", "sandbox-app", "--memory", "64 MiB", "--keep", "--no-wait")

_WARM = ("clone", "warm", "sandbox-app", "--memory", "64 MiB")


def _nothing(_stage: Stage) -> None:
    """The kept state is all that is needed."""


@dataclass(frozen=True)
class Scenario:
    """begin: name of a kept state. words: of the command. result: what it has to come to, as plain values.

    before: what else has to be there. clears: commands that may come before it is run again; they are what a person is
    told to type. afterwards: that come before the result is looked at. is_done: whether a refusal of the second run
    says that the first one had come to its end. undo: what such a refusal says to type, before a third run.
    has_machines: libvirt is part of it. steps: the place at which it starts golden commands, whose places are not its
    own. beside: other commands at the same time.
    """

    name: str
    begin: str
    words: tuple[str, ...]
    result: Callable[[Stage], Any]
    clears: tuple[tuple[str, ...], ...] = ()
    afterwards: tuple[tuple[str, ...], ...] = ()
    is_done: Callable[[Ended], bool] = field(default=lambda _ended: False)
    before: Callable[[Stage], None] = _nothing
    undo: tuple[str, ...] = ()
    has_machines: bool = False
    steps: str | None = None
    beside: tuple[tuple[str, ...], ...] = ()

    @property
    def begins_running(self) -> bool:
        return self.before is _with_clone


# --- results


def built(stage: Stage) -> Any:
    """Contents of the builds, whether the plan has nothing left to do, and what should not be there."""
    plan = {it["image"]: it["action"] for it in stage.ok("plan", "--json").json}
    return {"builds": sorted(stage.builds().values()), "plan": plan, "half-made": stage.half_made()}


def built_by_machines(stage: Stage) -> Any:
    """As `built`, and no machine is left of it."""
    return {**built(stage), "domains": world.domains()}


def built_with_packages(stage: Stage) -> Any:
    """As `built`, and what the package cache keeps is what the mirror has; the digests beside say so, too."""
    cache = stage.state / "cache/packages"
    kept = {path.name: sha256(path) for path in sorted(cache.rglob("[!.]*")) if path.is_file()}
    for name, digest in kept.items():
        (facts,) = cache.rglob(f".{name}.json")
        assert json.loads(facts.read_text())["sha256"] == digest, name
    return {**built(stage), "cache": kept}


def fetched(stage: Stage) -> Any:
    """What the cache holds; each file is read by golden, too."""
    cache = stage.state / "cache"
    found = {
        path.name: sha256(path)
        for name in ("files", "partial")
        for path in (cache / name).rglob("[!.]*")
        if path.is_file()
    }
    stage.ok("doctor", "--deep")
    return {"files": found, "listed": [it["state"] for it in stage.ok("cache", "list", "--json").json]}


def reported(stage: Stage) -> Any:
    """What clients see after a night, by names as it makes them anew, and what its report says; its files are whole."""
    night = stage.store.root / "nights/latest/night.json"
    assert (night.parent / "index.html").read_text().rstrip().endswith("</html>")
    ElementTree.parse(night.parent / "junit.xml")
    found = published(stage)
    seen = {channel: sorted(files) for channel, files in found["channels"].items()}
    return {**found, "channels": seen, "exit code": json.loads(night.read_text())["exit_code"]}


def imported(stage: Stage) -> Any:
    """As `built`, of its own project."""
    plan = {
        it["image"]: it["action"] for it in stage.ok("--file", str(stage.folder / "cloud.toml"), "plan", "--json").json
    }
    return {"builds": sorted(stage.builds().values()), "plan": plan, "half-made": stage.half_made()}


def built_on(stage: Stage) -> Any:
    """As `built`, of the kinds of contents: how often a rebuild came to its end may differ."""
    found = built(stage)
    return {**found, "builds": sorted(set(found["builds"]))}


def packaged(stage: Stage) -> Any:
    """Each package with the digests of its files; rpm itself has read every byte."""
    found = {}
    for path in sorted(stage.store.rpms.glob("*.rpm")):
        subprocess.run(["rpm", "-K", "--nosignature", path], check=True, capture_output=True)
        beside = sorted(it.name for it in stage.store.rpms.glob(f"{path.name.removesuffix('.rpm')}.*"))
        # What vouches for a package has times in it.
        digests = {name: it for name, it in rpm.file_digests(path).items() if name.endswith((".qcow2", ".packages"))}
        found[path.name] = {"files": digests, "beside": beside}
    todo = stage.ok("package", "--dry-run").out
    return {"packages": found, "todo": todo, "half-made": stage.half_made(), "work": _names(stage.store.rpms / ".work")}


def published(stage: Stage) -> Any:
    """What clients of each channel see, by golden's check; the numbers of composes may differ."""
    found = {}
    for name in sorted(path.parent.name for path in stage.store.channels.glob("[!.]*/mirrorlist")):
        stage.ok("repo", "check", "--channel", name)
        compose = composes.need_current(stage.store.channels / name)
        found[name] = {it.file_name: it.sha256 for it in createrepo.read(compose)}
    return {"channels": found, "half-made": stage.half_made()}


def withdrawn(stage: Stage) -> Any:
    path = stage.store.channels / "candidate/withdrawn.json"
    return {**published(stage), "withdrawn": sorted(json.loads(path.read_text()))}


def resumed(stage: Stage) -> Any:
    """As `built`, by the project as it was mended."""
    plan = {
        it["image"]: it["action"] for it in stage.ok("--file", str(stage.folder / "mended.toml"), "plan", "--json").json
    }
    return {"builds": sorted(stage.builds().values()), "plan": plan, "half-made": stage.half_made()}


def delivered(stage: Stage) -> Any:
    """What lies there, whole, and what the worker keeps of it."""
    worker = Store(stage.folder / "worker", "demo")
    for build in worker.builds():
        worker.verify(build)
    drop = stage.folder / "delivered"
    left = sorted(path.name for path in drop.rglob(".*")) + _names(worker.root / "work") + _names(worker.root / "taken")
    return {
        "deliveries": len(deliveries.delivered(drop)),
        "left": left,
        "images": sorted({it.image for it in worker.builds()}),
    }


def accepted(stage: Stage) -> Any:
    return {**published(stage), "deliveries": deliveries.delivered(stage.folder / "delivered")}


def all_of_it(stage: Stage) -> Any:
    """Of commands at once: of which builds came first, versions and numbers tell, and they may differ."""
    seen = {name: sorted({_kind(file) for file in files}) for name, files in published(stage)["channels"].items()}
    return {
        **cloned(stage),
        "builds": sorted(set(stage.builds().values())),
        "channels": seen,
        "half-made": stage.half_made(),
    }


def _kind(file: str) -> str:
    """Of an RPM, without any version."""
    return re.sub(r"-[0-9.]+(?=-)", "", file)


def collected(stage: Stage) -> Any:
    left = [str(path.relative_to(stage.store.root)) for path in stage.store.root.rglob("*") if path.is_file()]
    names = {Path(name).name for name in left if "/composes/" not in name and "lock" not in name}
    return {**published(stage), "files": sorted(names)}


def pushed(stage: Stage) -> Any:
    target = stage.folder / "target/candidate"
    compose = composes.need_current(target)
    packages = createrepo.read(compose)
    for package in packages:
        assert sha256(compose / package.href) == package.sha256, package.href
    strays = sorted(path.name for path in target.rglob(".*"))
    return {"target": sorted(it.file_name for it in packages), "strays": strays, **published(stage)}


def exported(stage: Stage) -> Any:
    subprocess.run(["sha256sum", "--check", "--quiet", "disk.raw.sha256"], cwd=stage.folder / "out-folder", check=True)
    return _names(stage.folder / "out-folder")


def cloned(stage: Stage) -> Any:
    listed = stage.ok("clone", "list", "--json").json
    place = stage.state / "clones"
    return {
        "clones": [(it["name"], it["state"]) for it in listed],
        "domains": world.domains(),
        "rests": sorted(path.name for path in place.glob(".*.part")),
        "files": _names(place / CLONE),
        "snapshots": _names(place / CLONE / "snapshots"),
    }


def warmed(stage: Stage) -> Any:
    """Whether memory is saved; every byte of it, and of all else, is read."""
    stage.ok("doctor", "--deep")
    places = sorted(path.name for path in (stage.state / "clones/.warm").glob("*") if path.is_dir())
    return {"saved": len(places), "rests": [it for it in places if it.startswith(".")], "domains": world.domains()}


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _is_there(ended: Ended) -> bool:
    return f"there is a clone '{CLONE}' already" in ended.err or "has a snapshot 'one' already" in ended.err


def _is_gone(ended: Ended) -> bool:
    return f"there is no clone '{CLONE}'" in ended.err


def _is_back(ended: Ended) -> bool:
    return "clients of 'candidate' see compose" in ended.err


def _has_no_failure(ended: Ended) -> bool:
    return "no build" in ended.err


def _with_clone(stage: Stage) -> None:
    stage.ok(*_CREATE)


def _with_memory(stage: Stage) -> None:
    stage.ok(*_WARM)


def _with_snapshot(stage: Stage) -> None:
    # Off: one that goes on from memory is asked for its clock, and there is nobody in it to answer.
    stage.ok(*_CREATE, "--no-start")
    stage.ok("clone", "snapshot", CLONE, "one")


def _with_rests(stage: Stage) -> None:
    stage.ok(*_CREATE, "--no-start")
    (stage.state / "clones" / CLONE / "disk.qcow2").unlink()


def _to_a_target(stage: Stage) -> None:
    """The same project, which copies what it publishes."""
    shutil.rmtree(stage.folder / "target", ignore_errors=True)
    (stage.folder / "target").mkdir()
    text = (stage.folder / "golden.toml").read_text() + f'[publish]\ntarget = "{stage.folder / "target"}"\n'
    (stage.folder / "target.toml").write_text(text)


def _with_failure(stage: Stage) -> None:
    ended = stage.golden("--file", str(stage.folder / "fails.toml"), "build", "sandbox-twice")
    if ended.status != 4:
        raise AssertionError(f"the build that was to fail ended with {ended.status}: {ended.err}")


def _with_worker(stage: Stage) -> None:
    """A machine that has nothing yet, and where it is to leave what it makes."""
    for name in ("worker", "delivered"):
        shutil.rmtree(stage.folder / name, ignore_errors=True)
        (stage.folder / name).mkdir()


def _with_delivery(stage: Stage) -> None:
    """The same each time: made once."""
    kept, drop = stage.folder / "kept/.delivered", stage.folder / "delivered"
    if not kept.exists():
        _with_worker(stage)
        stage.ok(*(it.format(folder=stage.folder, channel=stage.channels.url) for it in _STEP))
        subprocess.run(["cp", "-a", drop, kept], check=True)
    shutil.rmtree(drop, ignore_errors=True)
    subprocess.run(["cp", "-a", kept, drop], check=True)


def _empty_folder(stage: Stage) -> None:
    shutil.rmtree(stage.folder / "out-folder", ignore_errors=True)
    (stage.folder / "out-folder").mkdir()


_GC = (("clone", "gc"),)
_COLLECT = (("collect",),)
_FILE = "{folder}/out-folder/disk.raw"
_STEP = (
    *("--file", "{folder}/mended.toml", "--state", "{folder}/worker", "step", "sandbox-twice"),
    *("--from", "{channel}/candidate", "--to", "{folder}/delivered", "--retries", "0"),
)

# Of these a short campaign is made.
SHORT = ("build", "package", "publish more", "create a clone")
SCENARIOS = (
    Scenario("build", "base", ("build", "sandbox-app"), built),
    Scenario("build on", "more", ("build", "sandbox-app", "--rebuild"), built_on),
    Scenario(
        "install",
        "built",
        ("--file", "{folder}/new.toml", "build", "sandbox-new"),
        built_by_machines,
        has_machines=True,
    ),
    Scenario(
        "build online",
        "built",
        ("--file", "{folder}/online.toml", "build", "sandbox-online"),
        built_by_machines,
        has_machines=True,
    ),
    Scenario(
        "build with packages",
        "built",
        ("--file", "{folder}/remote.toml", "build", "sandbox-more"),
        built_with_packages,
    ),
    Scenario("download", "base", ("--file", "{folder}/remote.toml", "cache", "fetch", "remote-base"), fetched),
    Scenario("bring in an image", "base", ("--file", "{folder}/cloud.toml", "build", "cloud-base"), imported),
    Scenario(
        "resume",
        "built",
        ("--file", "{folder}/mended.toml", "resume", "sandbox-twice"),
        resumed,
        before=_with_failure,
        is_done=_has_no_failure,
        undo=("--file", "{folder}/mended.toml", "build", "sandbox-twice"),
    ),
    Scenario("a step elsewhere", "more", _STEP, delivered, before=_with_worker),
    Scenario(
        "accept",
        "more",
        ("--file", "{folder}/mended.toml", "accept", "{folder}/delivered"),
        accepted,
        before=_with_delivery,
        afterwards=_COLLECT,
    ),
    Scenario(
        "several at once",
        "more",
        ("publish", "sandbox-app"),
        all_of_it,
        beside=(("--file", "{folder}/more.toml", "build", "sandbox-leaf"), _CREATE, ("collect",)),
        clears=_GC,
        afterwards=_COLLECT,
        is_done=_is_there,
        undo=("clone", "destroy", CLONE),
        has_machines=True,
    ),
    Scenario("flatten", "built", ("flatten", "sandbox-app"), built),
    Scenario("package", "built", ("package", "sandbox-app"), packaged),
    Scenario("publish", "packaged", ("publish", "sandbox-app"), published, afterwards=_COLLECT),
    Scenario("publish more", "more", ("publish", "sandbox-app"), published, afterwards=_COLLECT),
    Scenario("promote", "twice", ("promote",), published, afterwards=_COLLECT),
    Scenario("roll back", "twice", ("rollback", "candidate", "--to", "{first}"), withdrawn, is_done=_is_back),
    Scenario(
        "publish by night",
        "built",
        ("nightly", "--pause", "1s", "--retries", "0"),
        reported,
        before=Stage.verify_all,
        steps=f"program.{Path(sys.executable).name}",
    ),
    Scenario("collect", "old", ("collect",), collected),
    Scenario(
        "copy", "packaged", ("--file", "{folder}/target.toml", "publish", "sandbox-app"), pushed, before=_to_a_target
    ),
    Scenario(
        "export",
        "built",
        ("export", "sandbox-app", "--format", "raw", "-o", _FILE, "--force"),
        exported,
        before=_empty_folder,
    ),
    Scenario(
        "create a clone",
        "built",
        _CREATE,
        cloned,
        clears=_GC,
        is_done=_is_there,
        undo=("clone", "destroy", CLONE),
        has_machines=True,
    ),
    Scenario("save memory", "built", _WARM, warmed, clears=_GC, has_machines=True),
    Scenario(
        "go on from memory",
        "built",
        _CREATE,
        cloned,
        before=_with_memory,
        clears=_GC,
        is_done=_is_there,
        undo=("clone", "destroy", CLONE),
        has_machines=True,
    ),
    Scenario(
        "destroy a clone",
        "built",
        ("clone", "destroy", CLONE),
        cloned,
        before=_with_clone,
        clears=_GC,
        is_done=_is_gone,
        has_machines=True,
    ),
    Scenario("collect clones", "built", ("clone", "gc"), cloned, before=_with_rests, has_machines=True),
    Scenario(
        "take a snapshot",
        "built",
        ("clone", "snapshot", CLONE, "one"),
        cloned,
        before=_with_clone,
        is_done=_is_there,
        has_machines=True,
    ),
    Scenario(
        "revert a clone", "built", ("clone", "revert", CLONE, "one"), cloned, before=_with_snapshot, has_machines=True
    ),
)


def prepare(stage: Stage, wanted: set[str]) -> None:
    """The states that scenarios begin from, each made by golden's own commands out of the one before."""
    missing = set(wanted)
    for name, make in _STATES.items():
        if missing:
            make(stage)
            stage.keep(name)
            missing.discard(name)


def _base(stage: Stage) -> None:
    stage.begin()
    stage.ok("repo", "key", "--make")


def _built(stage: Stage) -> None:
    stage.ok("build", "sandbox-app")


def _packaged(stage: Stage) -> None:
    stage.ok("package", "sandbox-app")


def _more(stage: Stage) -> None:
    """One is published, and another one is ready to be."""
    stage.ok("publish", "sandbox-app")
    stage.ok("build", "sandbox-app", "--rebuild")
    stage.verify_all()
    stage.ok("package", "sandbox-app")


def _twice(stage: Stage) -> None:
    stage.ok("publish", "sandbox-app")


def _old(stage: Stage) -> None:
    """Long ago: a private image that is defined no more, and its channel; three nights of another one."""
    more = ("--file", str(stage.folder / "more.toml"))
    stage.ok(*more, "build", "sandbox-leaf")
    stage.ok(*more, "package", "sandbox-leaf", "--allow-private")
    stage.ok(*more, "publish", "sandbox-leaf", "--allow-private")
    stage.ok("build", "sandbox-app", "--rebuild")
    stage.ok("package", "sandbox-app")
    stage.ok("publish", "sandbox-app")
    stage.make_old()


_STATES = {"base": _base, "built": _built, "packaged": _packaged, "more": _more, "twice": _twice, "old": _old}


def beside(scenario: Scenario, stage: Stage) -> list[list[str]]:
    """The commands at the same time."""
    return [[it.format(folder=stage.folder) for it in command] for command in scenario.beside]


def words(scenario: Scenario, stage: Stage) -> tuple[str, ...]:
    """The command, with what only the state knows."""
    known = composes.versions(stage.store.channels / "candidate")
    first = known[0] if known else ""
    return tuple(it.format(folder=stage.folder, first=first, channel=stage.channels.url) for it in scenario.words)

"""Whole nights: real processes, locks, logs and retries; only what takes machines is not done.

In place of golden, its steps run a script that takes from a file what becomes of each.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from junitparser import JUnitXml

from builder import config, night, nights, promises, verdicts
from builder.cli import golden
from builder.decision import Decision
from builder.errors import HostError
from builder.locks import lock
from builder.model import Build, ImageId
from builder.night import Settings
from builder.nights import Night
from builder.plan import Planned
from builder.progress import Reporter
from builder.run import Argv, run
from builder.store import Store, write_atomically
from tests.builds import make_build

TOP = Path(__file__).parents[2]

PROJECT = """
[project]
name = "demo"
[distribution.sandbox]
inherits = "el9"
source = { dvd = "sandbox.iso" }
[image.sandbox-base]
distribution = "sandbox"
[image.sandbox-upgrade]
parent = "sandbox-base"
steps = [{ run = "true" }]
[image.sandbox-web]
parent = "sandbox-upgrade"
[image.sandbox-db]
parent = "sandbox-upgrade"
[image.sandbox-top]
parent = "sandbox-web"
"""

# The words of golden's command line come in; what is to happen is in script.json, and what did goes to calls.
STEP = f"""\
#!{sys.executable} -SE
import json, sys, time
from pathlib import Path
folder, command, image = Path(__file__).parent, sys.argv[9], sys.argv[-1]
label = " ".join([command, image]) if command in ("build", "resume", "verify") else command
with (folder / "calls").open("a") as calls:
    calls.write(label + "\\n")
tries = (folder / "calls").read_text().splitlines().count(label)
todo = json.loads((folder / "script.json").read_text()).get(label, [])
if len(todo) >= tries and todo[tries - 1]:
    code, text = todo[tries - 1]
    if code == "sleep":
        time.sleep(text)
    else:
        print("some output\\ngolden: error: " + text, flush=True)
        sys.exit(code)
"""


def add_build(store: Store, planned: Planned) -> Build:
    parent = store.newest(planned.parent) if planned.parent else None
    store.images.mkdir(parents=True, exist_ok=True)
    version = store.next_version(planned.image)
    digest = hashlib.sha256(b"x").hexdigest()
    facts = make_build(planned.image, version=version, parent=parent.id if parent else None, digest=digest)
    build = facts.model_copy(update={"key": planned.key, "inputs": planned.inputs})
    store.qcow2(build).write_bytes(b"x")
    store.package_list(build).write_text(f"bash-{version}-1.x86_64\n")
    write_atomically(store.facts(build), build.model_dump_json())
    return build


def add_verdict(store: Store, project: Any, image: str) -> None:
    build = store.newest(image)
    assert build is not None
    verdict = verdicts.Verdict(
        image=image,
        version=build.version,
        sha256=build.id.sha256,
        passed=True,
        at="2026-11-21T10:00:00+00:00",
        seconds=30,
        boot_s=12.5,
        accelerator="tcg",
        promises=promises.promises(project, image).digest(),
        tests=(verdicts.Check(name="no unit failed", result="passed"),),
    )
    verdicts.write(store, verdict, build)


class Stage:
    """A project and a store in a folder, and the script of its nights."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, project: str = PROJECT) -> None:
        self.folder = folder
        (folder / "keys").mkdir()
        (folder / "keys/id_ed25519.pub").write_text("ssh-ed25519 AAAA golden\n")
        (folder / "sandbox.iso").write_bytes(bytes(16 * 2048) + b"\1CD001\1" + bytes(2048))
        (folder / "golden.toml").write_text(project)
        self.script({})
        program = folder / "step"
        program.write_text(STEP)
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        monkeypatch.setattr("builder.run.run", self.step)
        self.project = config.load(folder / "golden.toml")
        self.store = Store(folder / "state", self.project.name)

    def step(self, argv: Argv, **settings: Any) -> None:
        """The real process; if it ends well, what a golden would have left behind in the store."""
        run(argv, **settings)
        command, image = argv[9], str(argv[-1])
        if command in ("build", "resume"):
            add_build(self.store, Decision(self.project, self.store, [image]).plan()[-1])
        elif command == "verify":
            add_verdict(self.store, self.project, image)

    def script(self, outcomes: dict[str, list[tuple[int, str] | None]]) -> None:
        (self.folder / "script.json").write_text(json.dumps(outcomes))
        (self.folder / "calls").write_text("")

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()

    def hold(self, **settings: Any) -> Night:
        given = {"pause_s": 0.05, "jobs": 2} | settings
        return night.hold(self.project, self.store, Settings(**given), reporter=Reporter("quiet"))


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(tmp_path, monkeypatch)


def outcomes(held: Night) -> dict[str, str]:
    return {turn.image.removeprefix("sandbox-"): turn.outcome for turn in held.turns}


def test_a_first_night_builds_verifies_and_publishes_and_a_second_starts_nothing(stage: Stage) -> None:
    held = stage.hold()
    assert set(outcomes(held).values()) == {"built"}
    assert held.exit_code == 0
    calls = stage.calls()
    for image in ("base", "upgrade", "web", "db", "top"):
        assert calls.index(f"build sandbox-{image}") < calls.index(f"verify sandbox-{image}")
    assert calls.index("verify sandbox-upgrade") < min(
        calls.index("build sandbox-web"), calls.index("build sandbox-db")
    )
    assert held.publication is not None
    assert set(held.publication.set) == {f"sandbox-{it}" for it in ("base", "upgrade", "web", "db", "top")}
    stage.script({})
    second = stage.hold()
    assert stage.calls() == []
    assert set(outcomes(second).values()) == {"stands"}
    assert second.publication is not None and not second.publication.is_new
    assert second.accelerator is None
    assert [it.version for it in nights.history(stage.store, most=5)] == [held.version, second.version]
    assert (nights.folder(stage.store) / "latest").resolve().name == second.version


def test_a_failed_branch_holds_back_what_stands_on_it_and_nothing_else(stage: Stage) -> None:
    stage.script({"verify sandbox-web": [(5, "'sandbox-web' is not what it promises\n  failed: raku")]})
    held = stage.hold()
    assert outcomes(held) == {"base": "built", "upgrade": "built", "web": "failed", "db": "built", "top": "held back"}
    assert held.exit_code == 5
    assert stage.calls().count("verify sandbox-web") == 1
    assert held.publication is not None
    assert set(held.publication.set) == {"sandbox-base", "sandbox-upgrade", "sandbox-db"}
    (attempt,) = held.turns[[turn.image for turn in held.turns].index("sandbox-web")].attempts
    assert (attempt.step, attempt.cause) == ("verify", "verify")
    assert attempt.error == "'sandbox-web' is not what it promises\n  failed: raku"
    assert "some output" in (nights.folder(stage.store) / held.version / attempt.log).read_text()


def test_what_may_pass_is_tried_again(stage: Stage) -> None:
    mirror = (4, "could not read the package repository 'updates'")
    stage.script({"build sandbox-upgrade": [mirror], "resume sandbox-upgrade": [mirror, None]})
    held = stage.hold()
    tried = [call for call in stage.calls() if call.endswith("sandbox-upgrade") and "verify" not in call]
    assert tried == ["build sandbox-upgrade", "resume sandbox-upgrade", "resume sandbox-upgrade"]
    assert set(outcomes(held).values()) == {"built"}
    assert held.exit_code == 0
    turn = held.turn("sandbox-upgrade")
    assert turn is not None and [attempt.cause for attempt in turn.attempts] == ["mirror", "mirror"]


def test_but_not_for_ever_and_nothing_that_will_not_pass(stage: Stage) -> None:
    stage.script(
        {
            **dict.fromkeys(["build sandbox-web", "resume sandbox-web"], [(4, "could not resolve; timed out")] * 9),
            "build sandbox-db": [(4, "could not run step 1 (shell) in the guest\n  output: Connection refused")] * 9,
        }
    )
    held = stage.hold(retries=1)
    assert (stage.calls().count("build sandbox-web"), stage.calls().count("resume sandbox-web")) == (1, 1)
    assert stage.calls().count("build sandbox-db") == 1
    assert (outcomes(held)["web"], outcomes(held)["db"], held.exit_code) == ("failed", "failed", 4)


def test_a_project_that_cannot_be_planned_in_part_is_built_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = '[distribution.other]\ninherits = "el9"\nsource = { dvd = "other.iso" }\n'
    broken += '[image.other-base]\ndistribution = "other"\n[image.other-top]\nparent = "other-base"\n'
    stage = Stage(tmp_path, monkeypatch, project=PROJECT + broken)
    held = stage.hold()
    found = {turn.image: turn.outcome for turn in held.turns}
    assert (found["other-base"], found["sandbox-top"], held.exit_code) == ("failed", "built", 2)
    assert "other.iso" in held.turns[5].attempts[0].error


def test_what_is_not_published_is_said_and_tried_again_the_next_night(stage: Stage) -> None:
    stage.script({"publish": [(4, "could not publish")]})
    held = stage.hold()
    assert held.publication is not None and not held.publication.is_done
    assert held.exit_code == 4
    stage.script({})
    assert stage.hold().exit_code == 0
    assert stage.calls() == ["package", "publish", "promote", "collect"]


def test_two_nights_at_once_are_one_too_many(stage: Stage) -> None:
    with (
        lock(stage.store.root / "nightly.lock", what="the night"),
        pytest.raises(HostError, match="another golden is at work on it"),
    ):
        stage.hold()
    assert stage.calls() == []


def test_a_build_by_hand_keeps_the_night_out_until_it_ends(stage: Stage) -> None:
    with stage.store.lock(), pytest.raises(HostError, match="another golden is at work on it"):
        stage.hold(retries=1)
    assert stage.calls() == []


def test_steps_share_the_store_and_nobody_else_gets_in(stage: Stage) -> None:
    with stage.store.lock_to_share() as share:
        with pytest.raises(HostError), stage.store.lock_beside_others(["a"]):
            pass
        share()
        with stage.store.lock_beside_others(["a"]), stage.store.lock_beside_others(["b"]):
            with pytest.raises(HostError, match="the project's store"), stage.store.lock():
                pass
            with pytest.raises(HostError, match="could not lock the image 'a'"), stage.store.lock_beside_others(["a"]):
                pass
    with stage.store.lock():
        pass


def test_branches_are_built_side_by_side_as_far_as_jobs_go(stage: Stage) -> None:
    stage.script({"build sandbox-web": [("sleep", 1.5)], "build sandbox-db": [("sleep", 1.5)]})  # type: ignore[list-item]
    held = stage.hold(jobs=2, channel=None)
    assert set(outcomes(held).values()) == {"built"}
    turns = [held.turn(image) for image in ("sandbox-web", "sandbox-db")]
    assert all(turn is not None and (turn.build_s or 0) >= 1.5 for turn in turns)
    calls = stage.calls()
    assert max(calls.index("build sandbox-web"), calls.index("build sandbox-db")) < calls.index("verify sandbox-web")


def test_an_interrupted_night_ends_its_steps_and_leaves_no_record(stage: Stage, tmp_path: Path) -> None:
    stage.script({"build sandbox-base": [("sleep", 60)]})  # type: ignore[list-item]
    code = (
        "import sys; from pathlib import Path; from builder.cli import main; "
        f"sys.executable = {str(tmp_path / 'step')!r}; "
        f"project, state = {str(tmp_path / 'golden.toml')!r}, {str(tmp_path / 'state')!r}; "
        "sys.argv = ['golden', '-f', project, '--state', state, 'nightly']; "
        "main()"
    )
    python = os.path.realpath(f"/proc/{os.getpid()}/exe")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TOP), *sys.path])}
    with subprocess.Popen([python, "-c", code], stderr=subprocess.PIPE, text=True, env=environment) as process:
        while not stage.calls():
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 130
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path / "step") not in listing
    assert nights.history(stage.store, most=1) == []
    stage.script({})
    assert stage.hold(channel=None).exit_code == 0


def test_a_night_in_which_nothing_changed_starts_nothing_for_forty_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = "".join(f'[image.sandbox-{n}]\nparent = "sandbox-upgrade"\n' for n in range(35))
    stage = Stage(tmp_path, monkeypatch, project=PROJECT + more)
    store, project = stage.store, stage.project
    for _ in range(5):  # nights' worth of builds
        for planned in Decision(project, store, list(project.images), rebuild=list(project.images)).plan():
            add_build(store, planned)
    for image in project.images:
        build = store.newest(image)
        assert build is not None
        parent = store.newest(project.images[image].parent or "")
        write_atomically(
            store.facts(build), build.model_copy(update={"parent": parent.id if parent else None}).model_dump_json()
        )
        add_verdict(store, project, image)
    stage.script({})
    held = stage.hold(channel=None)
    assert stage.calls() == []
    assert set(outcomes(held).values()) == {"stands"}
    assert len(held.turns) == 40


def test_an_image_that_came_out_as_it_was_leaves_those_above_alone(stage: Stage) -> None:
    """A parent was to be rebuilt, and then was not: what was planned of its children is planned anew."""
    stage.hold(channel=None)
    base = stage.store.newest("sandbox-base")
    assert isinstance(base, Build) and isinstance(base.id, ImageId)
    stage.script({})
    (stage.store.root / "verified" / f"{base.stem}.json").unlink()
    held = stage.hold(channel=None)
    assert stage.calls() == ["verify sandbox-base"]
    assert outcomes(held) == {"base": "verified", "upgrade": "stands", "web": "stands", "db": "stands", "top": "stands"}


def test_the_command_prints_a_table_copies_its_report_and_ends_with_the_nights_code(
    stage: Stage, tmp_path: Path
) -> None:
    stage.script({"verify sandbox-web": [(5, "'sandbox-web-20261121.1' is not what it promises: a test failed")]})
    words = ["-f", str(tmp_path / "golden.toml"), "--state", str(tmp_path / "state"), "--progress", "quiet", "nightly"]
    ended = CliRunner().invoke(golden, [*words, "--report", str(tmp_path / "report"), "--pause", "1s"])
    assert ended.exit_code == 5
    lines = {line.split()[0]: line for line in ended.stdout.splitlines() if line}
    assert "verify (verify): 'sandbox-web-20261121.1' is not what it promises" in lines["sandbox-web"]
    assert "held back" in lines["sandbox-top"] and "sandbox-web is not good" in lines["sandbox-top"]
    assert "3 built, 1 failed, 1 held back; published to nightly; took" in ended.stdout
    (held,) = nights.history(stage.store, most=1)
    assert ended.stdout.splitlines()[-1].endswith(f"/nights/{held.version}/index.html")
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"index.html", "junit.xml", "night.json"}
    assert JUnitXml.fromfile(str(tmp_path / "report/junit.xml")).failures == 1


def test_a_dry_run_says_what_is_due_and_starts_nothing(stage: Stage, tmp_path: Path) -> None:
    stage.hold(channel=None)
    web = stage.store.newest("sandbox-web")
    assert web is not None
    (stage.store.root / "verified" / f"{web.stem}.json").unlink()
    stage.store.qcow2(web).unlink()
    stage.script({})
    words = ["-f", str(tmp_path / "golden.toml"), "--state", str(tmp_path / "state"), "--progress", "quiet", "nightly"]
    due = json.loads(CliRunner().invoke(golden, [*words, "--dry-run", "--json"]).stdout)
    actions = {entry["image"].removeprefix("sandbox-"): entry["action"] for entry in due}
    assert actions == {
        "base": "nothing",
        "upgrade": "nothing",
        "web": "build, verify",
        "db": "nothing",
        "top": "build, verify",
    }
    assert stage.calls() == []
    assert len(nights.history(stage.store, most=9)) == 1


def test_old_nights_are_forgotten(stage: Stage) -> None:
    versions = [stage.hold(channel=None, keep=2).version for _ in range(4)]
    kept = sorted(path.name for path in nights.folder(stage.store).iterdir() if not path.is_symlink())
    assert kept == versions[-2:]


def test_what_was_rolled_back_is_not_promoted_by_a_night(stage: Stage) -> None:
    stage.hold()
    web = stage.store.newest("sandbox-web")
    assert web is not None
    folder = stage.store.channels / "nightly"
    folder.mkdir(parents=True)
    (folder / "withdrawn.json").write_text(json.dumps({web.stem: "was taken back"}))
    stage.script({})
    held = stage.hold()
    assert held.publication is not None
    assert set(held.publication.set) == {"sandbox-base", "sandbox-upgrade", "sandbox-db"}


def test_a_collection_that_failed_takes_nothing_back(stage: Stage) -> None:
    stage.script({"collect": [(4, "could not collect")]})
    held = stage.hold()
    assert held.publication is not None
    assert (held.publication.is_done, held.exit_code) == (True, 4)
    assert held.publication.steps == ("package", "publish", "promote")


def test_a_night_may_end_at_the_candidate(stage: Stage) -> None:
    stage.hold(channel="candidate")
    assert [call for call in stage.calls() if " " not in call] == ["package", "publish", "collect"]

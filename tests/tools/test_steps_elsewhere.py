"""Steps of a night on several machines: parents out of a channel, results into it; only no machine is started.

In place of the pipeline, small real qcow2 files are made; channels, RPMs, signatures, rsync and dnf are the real ones.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import shlex
import shutil
import string
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from builder import checks, config, supply
from builder.channels import check, deliveries
from builder.channels import compose as composes
from builder.checks import Check
from builder.cli import golden
from builder.decision import Decision
from builder.errors import ConfigError, GoldenError, HostError, ToolError, VerifyError
from builder.locks import lock
from builder.model import Build, Project
from builder.preflight.kvm import Accelerator
from builder.progress import Reporter
from builder.publication import Signing
from builder.store import Store, sha256, write_atomically
from builder.tools.openpgp import Signer
from tests.builds import add_build, add_chain, verify_builds
from tests.clients import Client
from tests.tools.conftest import Publisher

JENKINSFILE = Path(__file__).parents[2] / "ci/Jenkinsfile"
WEB, DB = "sandbox-web", "sandbox-db"
PROJECT = """
[project]
name = "demo"
url = "http://127.0.0.1:1/golden"
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
steps = [{ run = "web" }]
[image.sandbox-db]
parent = "sandbox-upgrade"
steps = [{ run = "db" }]
[image.sandbox-top]
parent = "sandbox-web"
steps = [{ run = "top" }]
"""


class Maker:
    """In place of the pipeline: what it would build is made of random data. is_same: nothing new ever comes of it.

    errors: what the next builds fail by. asked: of each build, what was to be gone on from.
    """

    is_same = False
    made: list[str]
    errors: list[GoldenError]
    asked: list[list[str]]

    def __init__(self, project: Project, store: Store, *, standing: Mapping[str, Build], **_: object) -> None:
        self.project, self.store, self.standing = project, store, standing

    def build(
        self, wanted: Sequence[str], *, rebuild: Sequence[str], resume: Sequence[str], connection: object
    ) -> list[Build]:
        self.asked.append(list(resume))
        if self.errors:
            raise self.errors.pop(0)
        done = dict(self.standing)
        decision = Decision(self.project, self.store, wanted, standing=self.standing, rebuild=rebuild)
        for name in wanted:
            planned = decision.next(name, done=done)
            newest = self.store.newest(name)
            if planned.build is None and self.is_same and newest is not None:
                same = Check(build=newest.id, key=planned.key, inputs=planned.inputs, texts={}, reason="", at="now")
                checks.write(self.store, same)
            done[name] = planned.build or (newest if self.is_same and newest else self._make(name, planned))
        return list(done.values())

    def _make(self, name: str, planned: Any) -> Build:
        type(self).made.append(name)
        version, parent = self.store.next_version(name), self.project.images[name].parent
        build = add_build(self.store, name, version=version, parent=self.standing[parent] if parent else None)
        return with_key(self.store, build, planned.key, planned.inputs)


def write_project(folder: Path, signing: Signing) -> Path:
    assert signing.file is not None
    (folder / "keys").mkdir(parents=True)
    (folder / "delivered").mkdir()
    (folder / "keys/id_ed25519.pub").write_text("ssh-ed25519 AAAA golden\n")
    shutil.copy(signing.file, folder / "keys/signing.asc")
    (folder / "sandbox.iso").write_bytes(bytes(16 * 2048) + b"\1CD001\1" + bytes(2048))
    (folder / "golden.toml").write_text(PROJECT)
    return folder


def with_key(store: Store, build: Build, key: str, inputs: Mapping[str, str]) -> Build:
    build = build.model_copy(update={"key": key, "inputs": dict(inputs)})
    write_atomically(store.facts(build), build.model_dump_json(), mode=0o444)
    return build


def verified(session: Any, builds: Sequence[Build], *, again: bool) -> list[Any]:
    verify_builds(session.store, *builds)
    return []


@dataclass
class Site:
    """The machine that has the channel, and as many others as are asked for. `keeper` is its store."""

    folder: Path
    keeper: Store
    url: str
    stores: dict[str, Store] = field(default_factory=dict)

    @property
    def project(self) -> Project:
        return config.load(self.folder / "golden.toml")

    @property
    def drop(self) -> Path:
        return self.folder / "delivered"

    def store(self, worker: str) -> Store:
        return Store(self.folder / worker, "demo")

    def golden(self, *words: str, state: Path | None = None) -> Any:
        """What a command prints as JSON. Raises its error."""
        first = ["-f", str(self.folder / "golden.toml"), "--state", str(state or self.keeper.state)]
        ended = CliRunner().invoke(golden, [*first, "--progress", "quiet", *words, "--json"])
        if ended.exception is not None and not isinstance(ended.exception, SystemExit):
            raise ended.exception
        assert ended.exit_code == 0, ended.output
        return json.loads(ended.stdout)

    def step(self, worker: str, image: str, *words: str) -> Any:
        where = ["--from", f"{self.url}/candidate", "--to", str(self.drop)]
        return self.golden("step", image, *where, *words, state=self.folder / worker)

    def accept(self) -> dict[str, str]:
        found = self.golden("accept", str(self.drop))
        return {it["id"]["image"]: it["outcome"] for it in found}

    def plan(self) -> dict[str, str]:
        planned = self.golden("plan", "--from", f"{self.url}/candidate")
        return {it["image"]: it["action"] for it in planned}


@pytest.fixture
def site(
    tmp_path: Path, store: Store, served: str, signing: Signing, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    folder = write_project(tmp_path / "project", signing)
    for name in ("made", "errors", "asked"):
        monkeypatch.setattr(Maker, name, [], raising=False)
    command = importlib.import_module("builder.cli.step")
    monkeypatch.setattr(command, "Pipeline", Maker)
    monkeypatch.setattr(command, "verify_builds", verified)
    monkeypatch.setattr("builder.tools.libvirt.connect", lambda _uri: contextlib.nullcontext())
    accelerator = Accelerator(kind="tcg", reason="a test")
    monkeypatch.setattr("builder.cli.session.Session.accelerator", lambda _self: accelerator)
    yield Site(folder, store, served)


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory, signing: Signing, signer: Signer) -> Store:
    """Base and upgrade are in its channel, as golden.toml wants them, and verified; made once."""
    top = tmp_path_factory.mktemp("seed")
    project, store = config.load(write_project(top / "project", signing) / "golden.toml"), Store(top / "state", "demo")
    found: dict[str, Build] = {}
    for image, parent in (("sandbox-base", None), ("sandbox-upgrade", "sandbox-base")):
        made = add_build(store, image, parent=found[parent] if parent else None)
        planned = Decision(project, store, [image]).plan()[-1]
        found[image] = with_key(store, made, planned.key, planned.inputs)
    Publisher(store, Reporter("quiet"), signer).publish(found["sandbox-upgrade"])
    verify_builds(store, *found.values())
    return store


@pytest.fixture
def upgraded(site: Site, seed: Store) -> None:
    shutil.copytree(seed.root, site.keeper.root, dirs_exist_ok=True)


@pytest.mark.usefixtures("upgraded")
def test_a_step_takes_its_parents_out_of_the_channel_and_hands_its_result_in(
    site: Site, signer: Signer, client: Client
) -> None:
    done = site.step("one", WEB)
    assert (done["outcome"], done["image"]) == ("delivered", WEB)
    for image in ("sandbox-base", "sandbox-upgrade"):
        ours, theirs = site.keeper.newest(image), site.store("one").newest(image)
        assert ours == theirs and ours is not None
        assert sha256(site.store("one").qcow2(ours)) == ours.id.sha256
    assert deliveries.delivered(site.drop) == [done["delivery"]]
    assert not list((site.store("one").root / "taken").iterdir())

    assert site.accept() == {WEB: "published"}
    assert deliveries.delivered(site.drop) == []
    assert site.keeper.newest(WEB) is None  # what is in a channel need not be in a store
    assert check(site.keeper, "candidate", signer=signer).attested == 3
    assert f"{WEB}-{done['version']}" in site.golden("promote")["promoted"]
    client.install("golden-sandbox-web")
    assert (client.images / "sandbox-web.qcow2").resolve().name == f"{WEB}-{done['version']}.qcow2"


@pytest.mark.usefixtures("upgraded")
def test_a_step_that_is_done_is_not_done_again_by_anybody(site: Site) -> None:
    assert site.plan()[WEB] == "build"
    first = site.step("one", WEB)
    assert site.step("one", WEB)["delivery"] == first["delivery"]  # cut off before it was accepted
    site.accept()
    again = site.step("two", WEB)
    assert again == first | {"outcome": "there", "delivery": None}
    assert not site.store("two").images.exists()
    assert Maker.made == [WEB]
    assert site.plan()[WEB] == "reuse"
    assert site.step("two", WEB, "--rebuild")["outcome"] == "delivered"
    assert site.accept() == {WEB: "published"}


@pytest.mark.usefixtures("upgraded")
def test_a_branch_goes_from_machine_to_machine(site: Site, client: Client) -> None:
    web = site.step("one", WEB)
    site.step("two", DB)
    assert site.accept() == {WEB: "published", DB: "published"}
    site.golden("collect")  # the records of what was built elsewhere outlive it
    top = site.step("three", "sandbox-top", "--parent-key", web["key"])
    assert site.accept() == {"sandbox-top": "published"}
    assert site.golden("promote")["held"] == {}
    client.install("golden-sandbox-top", "golden-sandbox-db")
    assert len(list(client.images.glob("*-*.qcow2"))) == 5 + 2
    # What a machine has is not fetched again, and the next version follows the newest of the channel.
    more = site.step("two", "sandbox-top", "--rebuild")
    assert more["version"].rpartition(".")[2] == str(int(top["version"].rpartition(".")[2]) + 1)


def test_the_first_step_of_all_needs_no_channel(site: Site) -> None:
    assert set(site.plan().values()) == {"build"}
    base = site.step("one", "sandbox-base")
    assert site.accept() == {"sandbox-base": "published"}
    assert site.plan()["sandbox-base"] == "reuse"
    with pytest.raises(ConfigError, match="does not have a build of 'sandbox-upgrade' to stand on") as refused:
        site.step("two", WEB)
    assert refused.value.try_next == "golden step sandbox-upgrade"
    assert site.step("two", "sandbox-upgrade", "--parent-key", base["key"])["outcome"] == "delivered"


def test_a_certain_parent_is_found_by_its_key(site: Site, store: Store, publisher: Publisher) -> None:
    (old,) = add_chain(store, "sandbox-base").values()
    new = add_build(store, "sandbox-base", version="20261122.1")
    new = with_key(store, new, "n" * 64, {})
    publisher.publish(old, new)
    site.step("one", "sandbox-upgrade", "--parent-key", old.key)
    assert site.store("one").newest("sandbox-upgrade").parent == old.id  # type: ignore[union-attr]
    site.step("two", "sandbox-upgrade")
    assert site.store("two").newest("sandbox-upgrade").parent == new.id  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=f"'sandbox-base' with the content key {'x' * 64} to stand on"):
        site.step("three", "sandbox-upgrade", "--parent-key", "x" * 64)


@pytest.mark.usefixtures("upgraded")
def test_that_nothing_new_came_is_handed_in_and_remembered(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    done = site.step("one", WEB)
    site.accept()
    text = PROJECT.replace('parent = "sandbox-upgrade"\nsteps = [{ run = "web" }]', 'parent = "sandbox-upgrade"')
    (site.folder / "golden.toml").write_text(text)
    assert site.plan()[WEB] == "rebuild"
    monkeypatch.setattr(Maker, "is_same", True)
    again = site.step("two", WEB)
    assert (again["outcome"], again["version"], again["key"]) == ("nothing new", done["version"], done["key"])
    assert site.accept() == {WEB: "nothing new"}
    assert site.plan()[WEB] == "reuse"
    assert site.store("two").newest(WEB) == site.store("one").newest(WEB)


@pytest.mark.usefixtures("upgraded")
def test_of_two_that_made_the_same_the_first_counts_and_the_second_goes_on_with_that(
    site: Site, signer: Signer
) -> None:
    first, second = (site.step(worker, WEB) for worker in ("one", "two"))
    assert first["version"] == second["version"] and first["delivery"] != second["delivery"]
    found = site.golden("accept", str(site.drop))
    assert [it["outcome"] for it in found] == ["published", "there"]
    ones, twos = (site.store(worker).newest(WEB) for worker in ("one", "two"))
    assert ones is not None and twos is not None and ones.id != twos.id
    site.step("two", "sandbox-top")
    assert site.store("two").newest(WEB) == ones
    assert site.accept() == {"sandbox-top": "published"}
    check(site.keeper, "candidate", signer=signer)


@pytest.mark.usefixtures("upgraded")
def test_what_was_made_of_other_inputs_is_refused_and_the_rest_is_not(site: Site) -> None:
    site.step("one", WEB)
    (site.folder / "golden.toml").write_text(PROJECT.replace('run = "web"', 'run = "other"'))
    site.step("two", WEB)
    site.step("two", DB)
    with pytest.raises(VerifyError, match="1 of 3 deliveries were refused") as refused:
        site.accept()
    (name, reason), kept = refused.value.details
    assert "made of other inputs" in reason
    assert kept == ("kept", str(site.drop / "refused")) and (site.drop / "refused" / name).is_dir()
    assert site.accept() == {}
    assert site.plan()[DB] == "reuse"


@pytest.mark.usefixtures("upgraded")
def test_a_delivery_that_is_not_whole_is_refused(site: Site) -> None:
    name = site.step("one", WEB)["delivery"]
    before = composes.current(site.keeper.channels / "candidate")
    place, whole = site.drop / name, site.folder / "whole"
    shutil.copytree(place, whole)
    manifest = place / "delivery.json"

    def change_rpm() -> None:
        rpm = next(place.glob("*-image-*.rpm"))
        rpm.write_bytes(rpm.read_bytes() + b"x")

    faults = {
        "is not the file that delivery.json speaks of": change_rpm,
        ".tests.json is not the file": lambda: next(place.glob("*.tests.json")).unlink(),
        "it is not signed": (place / "delivery.json.asc").unlink,
        "the signature of delivery.json was refused": lambda: manifest.write_text(f"{manifest.read_text()} "),
        "there is no signature in it": lambda: (place / "delivery.json.asc").write_text("x"),
    }
    for reason, spoil in faults.items():
        spoil()
        with pytest.raises(VerifyError, match="1 of 1 deliveries were refused") as refused:
            site.accept()
        assert reason in refused.value.details[0][1]
        shutil.copytree(whole, place)
    assert composes.current(site.keeper.channels / "candidate") == before
    assert not list(site.keeper.verified.glob(f"{WEB}-*"))

    manifest.rename(aside := site.folder / "manifest")  # the rest of it is still to come
    assert site.accept() == {}
    aside.rename(manifest)
    assert site.accept() == {WEB: "published"}


@pytest.mark.usefixtures("upgraded")
def test_what_stands_on_something_that_the_channel_lacks_is_refused(site: Site) -> None:
    site.step("one", WEB)
    shutil.rmtree(site.keeper.channels / "candidate")
    with pytest.raises(VerifyError, match="1 of 1 deliveries were refused") as refused:
        site.accept()
    assert "would not be complete" in refused.value.details[0][1]


@pytest.mark.usefixtures("upgraded")
def test_two_that_accept_at_once_wait_for_each_other_and_for_a_publication(site: Site, signer: Signer) -> None:
    site.step("one", WEB)
    site.step("two", DB)
    words = [sys.executable, "-m", "builder", "-f", str(site.folder / "golden.toml")]
    words += ["--state", str(site.keeper.state), "accept", str(site.drop), "--json"]
    with contextlib.ExitStack() as stack:
        with lock(site.keeper.root / "publish-candidate.lock", what="the channel"):
            both = [
                stack.enter_context(
                    subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
                )
                for _ in range(2)
            ]
            said = [process.stderr.readline() for process in both if process.stderr]
        answers = [process.communicate(timeout=120) for process in both]
    assert all(said), answers
    assert [process.returncode for process in both] == [0, 0], answers
    outcomes = [it["outcome"] for stdout, _ in answers for it in json.loads(stdout)]
    assert outcomes == ["published", "published"]
    assert check(site.keeper, "candidate", signer=signer).packages == 8


@pytest.mark.usefixtures("upgraded")
def test_two_that_take_the_same_out_of_a_channel_wait_for_each_other(site: Site, signer: Signer) -> None:
    found = supply.survey(f"{site.url}/candidate", ["sandbox-upgrade"], signer=signer, note=lambda _: None)
    build, store = found.newest("sandbox-upgrade"), site.store("one")
    assert build is not None
    with ThreadPoolExecutor(4) as pool:
        for taken in [pool.submit(found.take, [build], store, reporter=Reporter("quiet")) for _ in range(4)]:
            taken.result()
    assert store.newest("sandbox-upgrade") == build
    assert not list((store.root / "taken").iterdir())
    # One that was ended at the very end has left its folder.
    (store.root / "taken" / build.stem).mkdir()
    found.take([build], store, reporter=Reporter("quiet"))
    assert not list((store.root / "taken").iterdir())


@pytest.mark.usefixtures("upgraded")
def test_a_channel_that_was_tampered_with_is_not_built_on(site: Site) -> None:
    compose = composes.need_current(site.keeper.channels / "candidate")
    faults = {".build.json": "not the file that its statement vouches for", ".rpm": "not the file that the channel's"}
    for suffix, message in faults.items():
        (file,) = compose.glob(f"Packages/golden-sandbox-upgrade-image-*{suffix}")
        data = file.read_bytes()
        file.unlink()
        file.write_bytes(data.replace(b'"cpus":1', b'"cpus":2') if suffix == ".build.json" else data + b"x")
        assert file.read_bytes() != data
        with pytest.raises(GoldenError, match=message):
            site.step("one", WEB)
        file.write_bytes(data)
    assert Maker.made == []
    assert site.store("one").builds() == []


def commands_of_jenkins() -> list[tuple[str, str]]:
    """Label of the agent, and command, in the order of ci/Jenkinsfile; those of the matrix once for each value."""
    words = re.compile(r"label '(?P<label>[^']+)'|values (?P<values>'.*')|sh '(?P<sh>[^']+)'|(?P<end>stage\()")
    found, label, values = [], "", ["no value"]
    for word in words.finditer(JENKINSFILE.read_text()):
        if word["label"]:
            label = word["label"]
        elif word["values"]:
            values = re.findall(r"'([^']+)'", word["values"])
        elif word["sh"]:
            found += [
                (label, word["sh"].replace("$IMAGE", value)) for value in (values if "$IMAGE" in word["sh"] else [""])
            ]
        else:
            label = "none"
    return found


def test_the_night_of_ci_jenkinsfile_goes_through_as_it_is_written(site: Site) -> None:
    """Its commands, each by an agent of its own or by the keeper; what stands on what is its business."""
    tree = PROJECT.replace("sandbox", "rocky9").replace("rocky9.iso", "sandbox.iso").replace("top", "bootstrapped")
    tree = tree.replace('parent = "rocky9-web"', 'parent = "rocky9-upgrade"')
    (site.folder / "golden.toml").write_text(tree)
    variables = {"CHANNEL": f"{site.url}/candidate", "DELIVER": str(site.drop), "DELIVERED": str(site.drop)}
    commands = commands_of_jenkins()
    for number, (label, command) in enumerate(commands):
        program, *words = shlex.split(string.Template(command).substitute(variables))
        state = {"golden": site.folder / f"agent {number}", "golden-keeper": site.keeper.state}[label]
        assert program == "golden"
        checked = site.golden(*words, state=state)
    assert checked["packages"] == 2 * len(Maker.made) == 10  # what the last one says, of nightly
    assert list(site.plan().values()) == ["reuse"] * 5
    steps = [words.split()[2] for _, words in commands if words.startswith("golden step ")]
    assert sorted(step.strip('"') for step in steps) == sorted(Maker.made)
    # golden step has a policy of its own; a lost agent is what it cannot know of.
    tries = re.findall(r"retry\((.*?)\) *[{}]", JENKINSFILE.read_text())
    assert tries == ["count: 2, conditions: [agent(), nonresumable()]"] * 3


MIRROR = "Error: Failed to download metadata for repo 'updates': Cannot download repomd.xml: All mirrors were tried"


@pytest.mark.usefixtures("upgraded")
def test_what_may_pass_is_tried_again_from_where_it_failed(site: Site) -> None:
    Maker.errors += [
        ToolError("could not run step 2 (install)", details=[("end", "exit 1"), ("output", MIRROR)]),
        HostError("another golden is at work on it", details=[("held by", "process 1")]),
    ]
    done = site.step("one", WEB, "--pause", "1s")
    assert (done["outcome"], Maker.made) == ("delivered", [WEB])
    found = [(it["step"], it["cause"], it["exit_code"], it["log"]) for it in done["attempts"]]
    assert found == [("step", "mirror", 4, ""), ("step", "lock", 3, "")]
    assert MIRROR in done["attempts"][0]["error"]
    assert Maker.asked == [[], [WEB], [WEB]]
    assert site.accept() == {WEB: "published"}


@pytest.mark.usefixtures("upgraded")
@pytest.mark.parametrize(
    "error",
    [
        ToolError(
            "could not run step 1 (shell) in the guest", details=[("output", "Could not resolve host: x.example")]
        ),
        ToolError("the installation failed", details=[("console", "script of the kickstart")]),
        VerifyError("'sandbox-web-20261121.1' is not what it promises", details=[("failed", "Connection refused")]),
        ConfigError("golden.toml has 2 problems"),
    ],
    ids=["script", "kickstart", "verify", "config"],
)
def test_what_does_not_pass_is_not_tried_again(site: Site, error: GoldenError) -> None:
    Maker.errors += [error, error]
    with pytest.raises(type(error), match=re.escape(error.what)):
        site.step("one", WEB)
    assert Maker.asked == [[]]


@pytest.mark.usefixtures("upgraded")
def test_a_delivery_that_the_network_broke_is_made_again_and_nothing_is_built_for_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By rsync's own words: nobody listens where it is to deliver first. The build was asked for by force, too."""
    first = site.step("one", WEB)
    site.accept()
    targets = ["rsync://127.0.0.1:1/golden", str(site.drop)]
    deliver = deliveries.deliver
    monkeypatch.setattr(
        "builder.channels.deliver", lambda *words, **more: deliver(*words, **more | {"target": targets.pop(0)})
    )
    done = site.step("one", WEB, "--rebuild", "--pause", "1s")
    assert [it["cause"] for it in done["attempts"]] == ["network"]
    assert (done["outcome"], Maker.made) == ("delivered", [WEB, WEB])
    assert done["version"] != first["version"]
    assert site.accept() == {WEB: "published"}

    targets += ["rsync://127.0.0.1:1/golden"] * 2
    with pytest.raises(ToolError, match=re.escape("rsync://127.0.0.1:1/golden")) as failed:
        site.step("two", DB, "--retries", "1", "--pause", "1s")
    assert "Connection refused" in str(failed.value.details)
    assert (targets, Maker.made) == ([], [WEB, WEB, DB])


def test_private_images_do_not_travel(site: Site) -> None:
    (site.folder / "golden.private.toml").write_text(f'[image.sandbox-secret]\nparent = "{WEB}"\n')
    with pytest.raises(ConfigError, match="'sandbox-secret' is private"):
        site.step("one", "sandbox-secret")


def test_what_was_not_delivered_is_said(site: Site) -> None:
    with pytest.raises(ConfigError, match="there is no folder /nowhere for deliveries"):
        site.golden("accept", "/nowhere")
    with pytest.raises(ConfigError, match="there is no whole delivery 'sandbox-web-1' in"):
        site.golden("accept", str(site.drop), "sandbox-web-1")

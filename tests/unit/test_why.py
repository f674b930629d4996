"""The one line that says why, with the change itself; and what it must never hold."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from builder import checks
from builder.checks import Check
from builder.cli import golden
from builder.decision import Decision
from builder.input_changes import changes, in_detail
from builder.model import Build, Project
from builder.plan import Planned
from builder.store import Store, sha256
from builder.tools.kickstart import without_secrets
from tests.builds import make_build

TREE = """\
[project]
name = "demo"
ssh_key = "id"
[distribution.s]
inherits = "el9"
source = { url = "http://mirror.example/os" }
repositories = { updates = "updates", extras = "extras" }
[image.s-base]
distribution = "s"
disk = "4 GiB"
[image.s-upgrade]
parent = "s-base"
steps = [{ upgrade = true }]
[image.s-app]
parent = "s-upgrade"
steps = [{ write = { "/etc/motd" = "hello\\nworld\\n" } }, { shell = ["one", "two"] }]
"""


def repomd(folder: Path, *, at: str, content: str = "a") -> None:
    """A repomd.xml, all that a plan reads of a repository."""
    seconds = int(datetime.fromisoformat(f"{at}+00:00").timestamp())
    (folder / "repodata").mkdir(parents=True, exist_ok=True)
    (folder / "repodata" / "repomd.xml").write_text(
        f"<repomd><revision>1</revision><data type='primary'><checksum>{content}</checksum>"
        f"<timestamp>{seconds}</timestamp></data><data><timestamp>12</timestamp></data></repomd>"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "golden.toml").write_text(TREE)
    (tmp_path / "id.pub").write_text("ssh-ed25519 AAAA golden\n")
    for name in ("updates", "extras"):
        repomd(tmp_path / name, at="2026-11-20 03:12")
    return tmp_path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "state", "demo")
    found.images.mkdir(parents=True)
    return found


def load(folder: Path) -> Project:
    from builder.config import load

    return load(folder / "golden.toml")


def carry_out(store: Store, planned: list[Planned]) -> None:
    """As a build of everything planned would leave the store."""
    made: dict[str, Build] = {}
    for step in planned:
        if step.build is not None:
            made[step.image] = step.build
            continue
        version = store.next_version(step.image, now=datetime(2026, 11, 21, tzinfo=UTC))
        file = store.images / f"{step.image}-{version}.qcow2"
        file.write_text(f"{step.image} {version}")
        build = make_build(
            step.image,
            version=version,
            parent=made[step.parent].id if step.parent else None,
            digest=sha256(file),
            size_bytes=file.stat().st_size,
        ).model_copy(update={"key": step.key, "inputs": step.inputs, "texts": step.texts, "reason": step.why})
        store.facts(build).write_text(build.model_dump_json())
        made[step.image] = build


@pytest.fixture
def built(folder: Path, store: Store) -> Store:
    project = load(folder)
    carry_out(store, Decision(project, store, project.images).plan())
    return store


def why(folder: Path, *words: str) -> str:
    argv = ["--file", str(folder / "golden.toml"), "--state", str(folder / "state"), "why", *words]
    result = CliRunner().invoke(golden, argv, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_nothing_changed(folder: Path, built: Store) -> None:
    assert why(folder, "s-app") == "s-app: reuse: nothing changed since 20261121.1\n"


def test_which_repository_and_of_when(folder: Path, built: Store) -> None:
    old, _ = digests(folder, "updates")
    repomd(folder / "updates", at="2026-11-21 01:02", content="b")
    new, _ = digests(folder, "updates")
    place = r"at /\S+"  # long ones are cut
    assert re.fullmatch(
        rf"s-upgrade: rebuild: repository updates: repomd.xml {old[:8]} \(of 2026-11-20 03:12 UTC {place}\) -> "
        rf"{new[:8]} \(of 2026-11-21 01:02 UTC {place}\)\n",
        why(folder, "s-upgrade"),
    )
    assert why(folder, "s-app").startswith(
        f"s-app: rebuild: s-upgrade will be built: repository updates: repomd.xml {old[:8]} "
    )
    found = json.loads(why(folder, "s-app", "--json"))
    assert (found["image"], found["action"], found["changed_in"]) == ("s-app", "rebuild", "s-upgrade")
    (change,) = found["changes"]
    assert (change["input"], change["before"], change["after"]) == (
        "repository updates",
        f"sha256 {old}",
        f"sha256 {new}",
    )


def digests(folder: Path, name: str) -> tuple[str, Path]:
    file = folder / name / "repodata" / "repomd.xml"
    return sha256(file), file


def test_which_line_of_the_kickstart(folder: Path, built: Store) -> None:
    file = folder / "golden.toml"
    file.write_text(TREE.replace('disk = "4 GiB"', 'disk = "4 GiB"\npackages = ["tmux"]'))
    line = why(folder, "s-base")
    assert line.startswith("s-base: rebuild: kickstart: line ")
    assert line.endswith(": +tmux\n")
    assert "\nkickstart\n  +tmux\n" in why(folder, "s-base", "--diff")
    carry_out(built, Decision(load(folder), built, load(folder).images).plan())
    assert why(folder, "s-base@20261121.2").endswith(": +tmux\n")
    assert why(folder, "s-base@20261121.1") == "s-base-20261121.1: never built\n"


def test_which_step_and_what_in_it(folder: Path, built: Store) -> None:
    file = folder / "golden.toml"
    file.write_text(TREE.replace('["one", "two"]', '["one", "2"]').replace("world", "you"))
    assert why(folder, "s-app") == (
        "s-app: rebuild: step 1: write: line 2: -texts: /etc/motd = world +texts: /etc/motd = you, "
        "step 2: shell: line 2: -commands: two +commands: 2\n"
    )
    file.write_text(TREE.replace(', { shell = ["one", "two"] }', ""))
    assert why(folder, "s-app") == "s-app: rebuild: step 2: shell is gone (commands: one; commands: two)\n"


def test_a_check_keeps_the_old_build_and_the_next_change_is_told_from_it(folder: Path, built: Store) -> None:
    """The same repomd.xml is not built again, and the next one is compared with the last that was looked at."""
    repomd(folder / "updates", at="2026-11-21 01:02", content="b")
    project = load(folder)
    looked = Decision(project, built, project.images).plan()
    upgrade = looked[1]
    assert upgrade.standing is not None
    checks.write(
        built,
        Check(
            build=upgrade.standing.id,
            key=upgrade.key,
            inputs=upgrade.inputs,
            texts=upgrade.texts,
            reason="",
            at="2026-11-21T02:00:00+00:00",
        ),
    )
    assert [step.action for step in Decision(project, built, project.images).plan()] == ["reuse"] * 3
    repomd(folder / "updates", at="2026-11-22 01:02", content="c")
    assert "of 2026-11-21 01:02 UTC" in why(folder, "s-upgrade")


def test_by_another_clock(folder: Path, built: Store) -> None:
    file = folder / "golden.toml"
    file.write_text(TREE.replace('parent = "s-upgrade"', 'parent = "s-upgrade"\nrefresh = "weekly"'))
    assert why(folder, "s-app", "--now", "2024-11-22") == "s-app: reuse: nothing changed since 20261121.1\n"
    assert why(folder, "s-app", "--now", "2024-12-01T02:00+01:00") == (
        "s-app: refresh: its time came (weekly), and golden cannot see all that decides it\n"
    )
    argv = ["--file", str(file), "--state", str(folder / "state"), "why", "s-app", "--now", "tonight"]
    result = CliRunner().invoke(golden, argv)
    assert "'tonight' is not a time; one looks like 2026-11-21T02:00" in result.output


# --- secrets ---------------------------------------------------------------------------------------------------

SECRETS = [
    "rootpw --iscrypted $6$abc",
    "rootpw hunter2",
    "user --name=a --password=$6$abc --iscrypted",
    "sshpw --username=root hunter2",
    "bootloader --iscrypted --password=grub.pbkdf2",
    "part / --encrypted --passphrase=hunter2",
    "rhsm --organization=1 --activation-key=hunter2",
    "url --url=http://me:hunter2@mirror.example/os",
    "realm join --one-time-password=hunter2 example.org",
    "curl -H 'X-Auth-Token: hunter2' http://x",
]


@pytest.mark.parametrize("line", SECRETS)
def test_no_secret_of_a_kickstart_is_kept(line: str) -> None:
    assert without_secrets(f"text\n{line}\n# a comment on passwords\n") == (
        f"text\n{line.split()[0]} (not kept)\n# a comment on passwords\n"
    )


def test_a_changed_password_is_told_without_it() -> None:
    texts = [{"kickstart": without_secrets(f"text\nrootpw {word}\n")} for word in ("old", "new")]
    found = changes({"kickstart": "sha256 a"}, {"kickstart": "sha256 b"}, old_texts=texts[0], new_texts=texts[1])
    assert in_detail(found) == "kickstart changed in a line that is not kept, as of a password"


# --- properties ------------------------------------------------------------------------------------------------

values = st.one_of(
    st.text(max_size=30),
    st.text("0123456789abcdef", min_size=64, max_size=64).map(lambda it: f"sha256 {it}"),
    st.dictionaries(st.text(max_size=4), st.lists(st.text(max_size=300), max_size=3)).map(json.dumps),
)
some_inputs = st.dictionaries(st.sampled_from(["kickstart", "step 1: run", "repository u", "file f", "x"]), values)


@given(some_inputs, some_inputs, some_inputs, some_inputs)
def test_every_difference_is_named_and_nothing_else(
    old: dict[str, str], new: dict[str, str], old_texts: dict[str, str], new_texts: dict[str, str]
) -> None:
    found = changes(old, new, old_texts=old_texts, new_texts=new_texts)
    assert {change.input for change in found} == {name for name in {*old, *new} if old.get(name) != new.get(name)}
    assert changes(old, old) == []
    for change in found:
        assert len(change.detail) < 1000
        assert len(change.detail.splitlines()) == 1

"""`golden promote`, `rollback`, `collect`, `repo key` as typed: what they print, write and answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder.channels import compose as composes
from builder.cli.collect import collect
from builder.cli.package import package
from builder.cli.publish import promote, publish, repo, rollback
from builder.cli.session import Session
from builder.clones import Lease
from builder.errors import ConfigError, VerifyError
from builder.model import Build
from builder.publication import Publication, Retention, Rule, Signing
from builder.store import write_atomically
from builder.tools import openpgp
from tests.builds import add_build, verify_builds
from tests.tools.test_package_commands import as_json, call, files, session  # noqa: F401  (a fixture)


@pytest.fixture
def candidate(session: Session, chain: dict[str, Build]) -> dict[str, Build]:  # noqa: F811
    """The chain of the sandbox is packaged and published."""
    call(session, package, "sandbox-bootstrapped")
    call(session, publish, "sandbox-bootstrapped")
    return chain


def say(session: Session, **publication: object) -> None:  # noqa: F811
    """Have golden.toml say more."""
    said = session.project.publication.model_copy(update=publication)
    session.__dict__["project"] = session.project.model_copy(update={"publication": said})


def test_promote_and_roll_back(session: Session, candidate: dict[str, Build]) -> None:  # noqa: F811
    base = candidate["sandbox-base"]
    verify_builds(session.store, base)
    before = files(session.state)
    assert "would be promoted" in call(session, promote, "--dry-run").stdout
    assert [path for path in files(session.state) if path not in before and path.suffix != ".lock"] == []
    printed = call(session, promote).stdout
    assert f"{base.stem}" in printed and "promoted" in printed
    assert "held back: sandbox-upgrade-20261121.1 was not verified" in printed
    with pytest.raises(VerifyError, match="not everything that was named may go to 'nightly'") as refused:
        call(session, promote, "sandbox-upgrade")
    assert refused.value.exit_code == 5
    assert "--unverified" in str(refused.value.try_next)
    found = as_json(session, promote, "--unverified")
    assert (found["target"], found["held"], len(found["new"])) == ("nightly", {}, 4)
    gone = as_json(session, rollback, "nightly")
    assert gone["withdrawn"] == ["sandbox-bootstrapped-20261121.1", "sandbox-upgrade-20261121.1"]
    assert "was taken back" in call(session, promote, "--unverified").stdout
    assert "sandbox-upgrade-20261121.1" in as_json(session, promote, "--unverified", "--again")["promoted"]
    assert "back to 20" in call(session, rollback, "nightly").stdout


def test_what_changes_a_channel_is_copied_to_the_target(
    session: Session,  # noqa: F811
    candidate: dict[str, Build],
    tmp_path: Path,
) -> None:
    there = tmp_path / "srv"
    there.mkdir()
    say(session, target=str(there))
    call(session, publish, "sandbox-bootstrapped")
    call(session, promote, "--unverified", "sandbox-base")
    call(session, promote, "--unverified")
    call(session, rollback, "nightly")
    for channel in ("candidate", "nightly"):
        here = composes.need_current(session.store.channels / channel)
        assert composes.need_current(there / channel).name == here.name


def test_collect_says_why_and_then_does(session: Session, candidate: dict[str, Build]) -> None:  # noqa: F811
    for version in ("20261122.1", "20261123.1"):
        add_build(session.store, "sandbox-base", version=version)
    say(session, retention=Retention(rule=Rule(keep=1, age_s=60)))
    before = files(session.state)
    printed = call(session, collect, "--dry-run").stdout
    assert [path for path in files(session.state) if path not in before and not path.name.endswith("lock")] == []
    (line,) = [line for line in printed.splitlines() if "sandbox-base-20261122.1" in line]
    assert "would go" in line and "not among the newest 1" in line
    assert "sandbox-bootstrapped-20261121.1 stands on it" in printed
    lease_one(session, "sandbox-base-20261122.1")
    assert "the clone web1 uses it" in call(session, collect, "--dry-run").stdout
    assert as_json(session, collect)["freed_bytes"] == 0
    (session.state / "clones/web1/lease.json").unlink()
    (session.state / "clones/web1").rmdir()
    assert as_json(session, collect)["freed_bytes"] > 0
    assert not session.store.images.joinpath("sandbox-base-20261122.1.qcow2").exists()
    assert call(session, repo, "check").exit_code == 0


def lease_one(session: Session, stem: str) -> None:  # noqa: F811
    build = next(build for build in session.store.builds() if build.stem == stem)
    lease = Lease(
        name="web1",
        image=build.id,
        files=(session.store.qcow2(build),),
        uuid="0",
        uri="qemu:///system",
        memory_mib=512,
        cpus=1,
        accelerator="tcg",
        ssh_port=1,
        key=None,
        made="2026-11-21T00:00:00Z",
    )
    folder = session.state / "clones/web1"
    folder.mkdir(parents=True)
    write_atomically(folder / "lease.json", lease.model_dump_json())


def test_private_builds_have_a_channel_each(session: Session, candidate: dict[str, Build]) -> None:  # noqa: F811
    parent = candidate["sandbox-bootstrapped"]
    leaf = add_build(session.store, "sandbox-bootstrapped-private-pr-42", parent=parent)
    write_atomically(
        session.store.facts(leaf), leaf.model_copy(update={"private": True}).model_dump_json() + "\n", mode=0o444
    )
    name = "sandbox-bootstrapped-private-pr-42"
    before = files(session.store.channels / "candidate")
    with pytest.raises(ConfigError, match="private builds are not packaged or published unless you say so"):
        call(session, publish, name)
    call(session, package, name, "--allow-private")
    with pytest.raises(ConfigError, match="private builds go into a channel of their own") as refused:
        call(session, publish, name, "--allow-private", "--channel", "candidate")
    assert refused.value.try_next == "leave --channel out"
    found = as_json(session, publish, name, "--allow-private")
    assert (found["channel"], found["packages"]) == (name, 8)
    assert files(session.store.channels / "candidate") == before
    assert as_json(session, repo, "check", "--channel", name)["packages"] == 8


def test_the_key_is_printed_made_and_brought_along(
    session: Session,  # noqa: F811
    signing: Signing,
    tmp_path: Path,
) -> None:
    assert signing.file is not None
    public = openpgp.public_file(signing.file).read_text()
    assert call(session, repo, "key").stdout == public
    key, file = tmp_path / "RPM-GPG-KEY", tmp_path / "golden.repo"
    call(session, repo, "client-config", "--key", str(key), "-o", str(file))
    assert key.read_text() == public
    assert f"gpgkey={key.as_uri()}\n" in file.read_text()

    say(session, signing=Signing(file=tmp_path / "keys/signing.asc"))
    with pytest.raises(ConfigError, match="the project has no key to sign its packages with"):
        call(session, repo, "key")
    made = as_json(session, repo, "key", "--make")
    assert len(made["fingerprint"]) == 40 and "PUBLIC KEY" in made["public_key"]

    say(session, signing=None)
    with pytest.raises(ConfigError, match=r"golden\.toml says that nothing is signed"):
        call(session, repo, "key")
    with pytest.raises(ConfigError, match="the project signs nothing, so there is no key to write"):
        call(session, repo, "client-config", "--key", str(key))


def test_a_project_that_signs_nothing_says_so_and_works(
    session: Session,  # noqa: F811
    chain: dict[str, Build],
) -> None:
    session.__dict__["project"] = session.project.model_copy(update={"publication": Publication(signing=None)})
    call(session, package, "sandbox-base")
    call(session, publish, "sandbox-base")
    assert "not signed" in call(session, repo, "check").stdout
    assert "gpgcheck=0" in call(session, repo, "client-config").stdout
    compose = composes.need_current(session.store.channels / "candidate")
    assert json.loads((compose / "compose.json").read_text())["why"] == "published"
    assert not (compose / "repodata/repomd.xml.asc").exists()

"""`stable = "flat"`: the package that people type follows the flat form. Real rpmbuild, a real channel, real dnf."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder.cli.clone_source import _locate
from builder.cli.flatten import flatten
from builder.cli.package import package
from builder.cli.publish import publish
from builder.cli.session import Session
from builder.errors import ConfigError, VerifyError
from builder.model import Build
from builder.progress import Reporter
from builder.publication import Publication, Signing
from builder.store import Store, sha256
from builder.tools import rpm
from tests.builds import add_chain, make_project
from tests.clients import Client
from tests.tools.test_flat_and_export import as_json, call

IMAGE = "sandbox-bootstrapped"
CHAIN = ("sandbox-base", "sandbox-upgrade", IMAGE)


@pytest.fixture
def session(store: Store, tmp_path: Path, reporter: Reporter, signing: Signing) -> Session:
    made = Session(file=tmp_path / "golden.toml", state=store.state, reporter=reporter)
    made.file.touch()
    project = make_project(tmp_path).model_copy(update={"publication": Publication(signing=signing)})
    made.__dict__["project"] = project  # as if golden.toml had been read
    set_stable(made, "flat")
    return made


def set_stable(session: Session, form: str) -> None:
    """The image's key in golden.toml says something else now."""
    project = session.project
    stable = project.images[IMAGE].model_copy(update={"stable": form})
    session.__dict__["project"] = project.model_copy(update={"images": {**project.images, IMAGE: stable}})


def release(session: Session, version: str) -> dict[str, Build]:
    """A chain of this version, its top flattened, all packaged and published."""
    made = add_chain(session.store, *CHAIN, version=version)
    call(session, flatten, IMAGE)
    call(session, package, IMAGE)
    call(session, publish, IMAGE)
    return made


def requires(file: Path) -> list[str]:
    return [name for name in rpm.ask(file, r"[%{REQUIRENAME}\n]").split() if "sandbox" in name]


def test_the_flat_form_alone_is_installed_and_upgraded(session: Session, store: Store, client: Client) -> None:
    release(session, "20261121.1")
    (first,) = store.builds(f"{IMAGE}-flat")
    client.install(f"golden-{IMAGE}")
    assert client.names() == [f"golden-{IMAGE}", f"golden-{IMAGE}-flat-image-{first.version}"]
    link = client.images / f"{IMAGE}.qcow2"
    assert link.readlink() == Path(f"{first.stem}.qcow2")
    assert sha256(link) == first.id.sha256
    assert client.rpm("--verify", "--all") == []
    source = _locate(session, IMAGE, None, images=client.images, is_flat=False)
    assert (source.build, source.origin) == (first, "installed")

    release(session, "20261122.1")
    second = store.builds(f"{IMAGE}-flat")[-1]
    client.dnf("upgrade")
    assert link.readlink() == Path(f"{second.stem}.qcow2")
    client.dnf("autoremove")
    assert client.names() == [f"golden-{IMAGE}", f"golden-{IMAGE}-flat-image-{second.version}"]


def test_a_channel_changes_over_with_a_new_version_and_back(session: Session, store: Store, client: Client) -> None:
    set_stable(session, "chain")
    release(session, "20261121.1")
    client.install(f"golden-{IMAGE}")
    link = client.images / f"{IMAGE}.qcow2"
    assert link.readlink() == Path(f"{IMAGE}-20261121.1.qcow2")
    set_stable(session, "flat")
    release(session, "20261122.1")
    client.dnf("upgrade")
    assert link.readlink() == Path(f"{store.builds(f'{IMAGE}-flat')[-1].stem}.qcow2")
    set_stable(session, "chain")
    release(session, "20261123.1")
    client.dnf("upgrade")
    assert link.readlink() == Path(f"{IMAGE}-20261123.1.qcow2")


def test_without_a_flat_form_nothing_is_packaged(session: Session, store: Store, chain: dict[str, Build]) -> None:
    with pytest.raises(ConfigError, match="is to follow its flat form, and there is none of") as caught:
        call(session, package, IMAGE)
    assert caught.value.try_next == f"golden build {IMAGE}-flat"
    assert not list(store.rpms.glob("*.rpm"))


def test_the_first_of_several_flat_forms_is_followed(session: Session, store: Store, chain: dict[str, Build]) -> None:
    call(session, flatten, IMAGE)
    (first,) = store.builds(f"{IMAGE}-flat")
    call(session, package, IMAGE)
    call(session, flatten, IMAGE, "--rebuild")
    again = as_json(session, package, IMAGE)
    assert not any(found["is_new"] for found in again)
    assert requires(Path(again[-1]["link_rpm"])) == [f"golden-{IMAGE}-flat-image-{first.version}"]


def test_what_was_published_with_the_other_link_keeps_it(
    session: Session, store: Store, chain: dict[str, Build]
) -> None:
    call(session, flatten, IMAGE)
    set_stable(session, "chain")
    call(session, package, IMAGE)
    call(session, publish, IMAGE)
    set_stable(session, "flat")
    again = {found["id"]["image"]: found for found in as_json(session, package, IMAGE)}
    assert [image for image, found in again.items() if found["is_new"]] == [f"{IMAGE}-flat", IMAGE]
    with pytest.raises(VerifyError, match="was published before with other bytes") as caught:
        call(session, publish, IMAGE)
    assert "build the image anew, which gives it a new version" in str(caught.value.try_next)


def test_a_dry_run_shows_the_link(session: Session, chain: dict[str, Build]) -> None:
    flat = json.loads(call(session, flatten, IMAGE, "--json").stdout)["id"]
    printed = call(session, package, "--dry-run", IMAGE).stdout
    assert f"ln -s {IMAGE}-flat-{flat['version']}.qcow2 " in printed
    assert "It is the flat form of the image: one file that stands on no other." in printed

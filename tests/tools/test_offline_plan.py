"""`golden plan` in a network namespace in which there is nothing, not even a loopback that is up."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from builder import inputs
from builder.catalogue import catalogue
from builder.errors import ToolError
from builder.media import Repository
from tests.mirror import Mirror, dripping, mirror

NOWHERE = ("unshare", "--map-root-user", "--net")
REPOMD = "<repomd><revision>1</revision></repomd>"


def golden(folder: Path, *words: str, inside: tuple[str, ...] = (), expect: int = 0) -> Any:
    ended = subprocess.run(
        [*inside, sys.executable, "-m", "builder", "--progress", "plain", *words],
        env=os.environ | {"GOLDEN_FILE": str(folder / "golden.toml"), "GOLDEN_STATE": str(folder / "state")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == expect, ended.stdout + ended.stderr
    return ended


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Every distribution of the catalogue with a base and a layer; those without a public tree from a DVD."""
    (tmp_path / "keys").mkdir()
    # FIPS is nobody's default, so any kind of key will do.
    (tmp_path / "keys/id_ed25519.pub").write_text("ssh-ed25519 AAAA trial\n")
    text = ""
    for name, table in catalogue().items():
        if "source" not in table:
            text += f'[distribution.{name}]\nsource = {{ dvd = "https://mirror.example/{name}.iso" }}\n'
        text += f'[image.{name}-base]\ndistribution = "{name}"\n'
        text += f'[image.{name}-upgrade]\nparent = "{name}-base"\nsteps = [ {{ upgrade = true }} ]\n'
    (tmp_path / "golden.toml").write_text(text)
    return tmp_path


def test_the_whole_catalogue_renders(project: Path) -> None:
    rows = json.loads(golden(project, "plan", "--json", inside=NOWHERE).stdout)
    assert [row["image"] for row in rows] == [f"{d}-{layer}" for d in catalogue() for layer in ("base", "upgrade")]
    reasons = {row["image"]: row["reason"] for row in rows}
    assert reasons["rocky9-base"] == "never built"
    assert reasons["rhel9-base"] == "never built; DVD rhel9.iso is not known before it is downloaded"
    assert all(row["inputs"]["kickstart"].startswith("sha256 ") for row in rows if row["parent"] is None)


def with_repository(folder: Path, server: Mirror) -> str:
    """The layer's packages come from a repository of the network; two layers ask it."""
    with (folder / "golden.toml").open("a") as file:
        file.write(
            f'[distribution.trial]\ninherits = "rocky9"\nrepositories = {{ updates = "{server.url}/9" }}\n'
            '[image.trial-base]\ndistribution = "trial"\n'
            '[image.trial-upgrade]\nparent = "trial-base"\nsteps = [ { upgrade = true } ]\n'
            '[image.trial-web]\nparent = "trial-upgrade"\nsteps = [ { install = ["nginx"] } ]\n'
        )
    return server.put("9/repodata/repomd.xml", REPOMD.encode())


def test_a_repository_that_was_asked_before_is_taken_as_it_was(project: Path) -> None:
    with mirror() as server:
        with_repository(project, server)
        online = json.loads(golden(project, "plan", "trial-web", "--json").stdout)
        assert len(server.asked("9/repodata/repomd.xml")) == 1
    ended = golden(project, "plan", "trial-web", "--json", inside=NOWHERE)
    assert json.loads(ended.stdout) == online
    (note,) = [line for line in ended.stderr.splitlines() if "'updates'" in line]
    assert f"the package repository 'updates' does not answer ({server.url}/9); taken as it was on 20" in note
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC$", note)


def test_a_repository_that_was_never_asked_needs_the_network(project: Path) -> None:
    with mirror() as server:
        with_repository(project, server)
    ended = golden(project, "plan", "trial-web", "--json", inside=NOWHERE)
    reasons = {row["image"]: (row["action"], row["reason"]) for row in json.loads(ended.stdout)}
    assert reasons == {
        "trial-base": ("build", "never built"),
        "trial-upgrade": ("build", "never built; repository updates needs the network"),
        "trial-web": ("build", "never built; repository updates needs the network"),
    }
    assert "does not answer" in ended.stderr
    assert "it was never asked before" in ended.stderr


def test_a_build_does_not_go_by_what_was(project: Path) -> None:
    with mirror() as server:
        with_repository(project, server)
        golden(project, "plan", "trial-web")
    ended = golden(project, "build", "--dry-run", "trial-web", inside=NOWHERE, expect=4)
    assert "could not read the package repository 'updates'\n" in ended.stderr


def test_a_repository_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its repomd.xml comes in time byte for byte, and would come for years."""
    monkeypatch.setattr(inputs, "_FETCH_LIMIT_S", 0.3)
    with dripping() as url, pytest.raises(ToolError, match="could not read the package repository 'updates'") as caught:
        inputs.repomd(Repository(name="updates", location=url))
    assert caught.value.details[0] == ("address", f"{url}/repodata/repomd.xml")
    assert caught.value.details[1][1].startswith("it ")


def test_the_login_of_a_repository_is_not_said(project: Path) -> None:
    with mirror() as server:
        with_repository(project, server)
    file = project / "golden.toml"
    file.write_text(file.read_text().replace(f"{server.url}/9", f"{server.url}/9".replace("//", "//me:secret@")))
    ended = golden(project, "plan", "trial-web", "--json", inside=NOWHERE)
    assert "it was never asked before" in ended.stderr
    refused = golden(project, "build", "--dry-run", "trial-web", expect=4)
    assert f"address: {server.url}/9/repodata/repomd.xml\n" in refused.stderr
    with mirror() as other:
        file.write_text(file.read_text().replace(server.url.removeprefix("http://"), other.url.removeprefix("http://")))
        gone = golden(project, "build", "--dry-run", "trial-web", expect=4)
    assert "404 Client Error" in gone.stderr
    assert "secret" not in "".join(it.stdout + it.stderr for it in (ended, refused, gone))

"""oVirt's tree in docs/examples: it parses, plans and renders, with a fake DVD and a folder for its repository."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from builder import layer
from builder.cli import golden
from builder.config import load
from builder.layer import Bench

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "ovirt"
DISTRIBUTIONS = ["rocky9", "almalinux9"]
LAYERS = ["base", "upgrade", "deps-installed", "engine-installed", "host-installed", "he-installed"]


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The golden.toml, with sources that need no network."""
    folder = tmp_path / "ovirt"
    shutil.copytree(EXAMPLE, folder)
    dvd = bytearray(40 * 2048)
    dvd[16 * 2048 : 16 * 2048 + 6] = b"\x01CD001"
    dvd[16 * 2048 + 128 : 16 * 2048 + 130] = (2048).to_bytes(2, "little")
    (folder / "el.iso").write_bytes(dvd)
    for repository in ("updates", "ovirt-rpms"):
        (folder / repository / "repodata").mkdir(parents=True)
        (folder / repository / "repodata" / "repomd.xml").write_text(repository)
    (folder / "keys").mkdir()
    (folder / "keys" / "id_ed25519.pub").write_text("ssh-ed25519 AAAA golden\n")
    file = folder / "golden.toml"
    text = file.read_text().replace(
        '{ repos = { ovirt = "https://resources.ovirt.org/pub/ovirt-4.5/rpm/el9" } }',
        '{ repos = { ovirt = "ovirt-rpms" }, keep = false }',
    )
    assert "ovirt-rpms" in text
    for name in DISTRIBUTIONS:
        text += f'\n[distribution.{name}]\nsource = {{ dvd = "el.iso" }}\nrepositories = {{ updates = "updates" }}\n'
    file.write_text(text)
    return file


def plan(example: Path) -> list[dict[str, str]]:
    words = ["--file", example, "--state", example.parent / "state", "plan", "--json"]
    ended = CliRunner().invoke(golden, [str(word) for word in words], catch_exceptions=False)
    found: list[dict[str, str]] = json.loads(ended.stdout)
    return found


def test_it_parses_as_it_is() -> None:
    project = load(EXAMPLE / "golden.toml")
    assert set(project.images) == {f"{name}-{layer}" for name in DISTRIBUTIONS for layer in LAYERS}
    chain = [image.layer for image in project.chain("almalinux9-he-installed")]
    assert chain == ["he-installed", "host-installed", "deps-installed", "upgrade", "base"]


def test_a_repository_that_a_layer_keeps_is_there_for_the_layers_above() -> None:
    project = load(EXAMPLE / "golden.toml")
    names = {name: [it.name for it in project.repositories(f"rocky9-{name}")] for name in LAYERS}
    assert "ovirt" not in names["upgrade"]
    assert all("ovirt" in names[name] for name in LAYERS[2:])


def test_it_plans(example: Path) -> None:
    planned = plan(example)
    assert {(step["image"], step["reason"]) for step in planned} == {
        (f"{name}-{layer}", "never built") for name in DISTRIBUTIONS for layer in LAYERS
    }
    # Nothing of two distributions is the same to the store.
    assert len({step["key"] for step in planned}) == len(planned)


def test_a_changed_file_is_an_input_by_its_name(example: Path) -> None:
    before = {step["image"]: step["inputs"] for step in plan(example)}
    role = "ansible/roles/virtualization/tasks/main.yml"
    (example.parent / role).write_text("[]")
    after = {step["image"]: step["inputs"] for step in plan(example)}
    changed = {
        image: [key for key, value in after[image].items() if before[image][key] != value]  # type: ignore[index,attr-defined]
        for image in after
        if before[image] != after[image]
    }
    assert changed["rocky9-host-installed"] == [f"file {role}"]
    assert set(changed["rocky9-he-installed"]) == {"parent rocky9-host-installed"}
    assert set(changed) == {f"{name}-{layer}" for name in DISTRIBUTIONS for layer in ("host-installed", "he-installed")}


def test_it_renders(example: Path) -> None:
    """Every file that the builds' commands name is written, for every image."""
    project = load(example)
    for name, image in project.images.items():
        work = example.parent / "work" / name
        work.mkdir(parents=True)
        bench = Bench(
            image=image,
            distribution=project.distributions[image.distribution],
            version="20261121.1",
            work=work,
            store_id="0123abcd",
            project=project.folder,
        )
        layer.write_inputs(
            bench,
            ssh_public_key="ssh-ed25519 AAAA golden",
            repositories=project.repositories(name),
            xml="<domain/>",
            port=2222,
            key=project.ssh_key,
        )
    work = example.parent / "work"
    scripts = {path.name for path in (work / "almalinux9-host-installed" / "steps").iterdir()}
    assert {
        "1-install.sh",
        "2-selinux.sh",
        "3-services.sh",
        "cache-begin.sh",
        "cache-end.sh",
        "keep-output.sh",
        "seal.sh",
    } == scripts
    assert json.loads((work / "rocky9-host-installed" / "4-ansible" / "vars.json").read_text()) == {"nested": True}
    assert (work / "rocky9-deps-installed" / "input.raw").stat().st_size > 0
    assert "almalinux9-base" in (work / "almalinux9-base" / "almalinux9-base.ks").read_text()

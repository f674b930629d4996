"""Packages of the user's own, made by the real rpmbuild: what is taken, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from builder import artifacts
from builder.artifacts import Given
from builder.errors import ConfigError, GoldenError, ToolError
from builder.model import Image
from builder.steps import ARTIFACTS
from builder.store import Store
from builder.tools import createrepo, rpm
from builder.tools.download import Patience
from builder.tools.webserver import serving
from tests.builds import add_chain
from tests.mirror import dripping
from tests.rpms import make_rpm

INSTALLED = ["tool-1-1.noarch", "library-1:1-1.x86_64", "bash-5-1.x86_64"]

Gather = Callable[..., Given]


@pytest.fixture
def gather(tmp_path: Path) -> Gather:
    def call(*places: Path | str) -> Given:
        return artifacts.gather(
            [str(place) for place in places],
            folder=tmp_path / "gathered of 100%x",
            parent="sandbox-base",
            installed=INSTALLED,
            note=lambda text: None,
        )

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a build of a project of one's own leaves: packages, some for debuggers, the source, one for others."""
    made = tmp_path / "RPMS"
    for name, options in (
        ("tool", {"version": "2"}),
        ("tool-extra", {"version": "2"}),
        ("tool-debuginfo", {"version": "2"}),
        ("tool", {"version": "2", "arch": "src"}),
    ):
        make_rpm(made, name, **options)
    make_rpm(made, "alien").rename(made / "alien-1-1.riscv64.rpm")
    (made / "notes.txt").write_text("x")
    return made


def nevras(given: Given) -> list[str]:
    return [package.nevra for package in given.step.packages]


def make_repository(folder: Path, rpms: Sequence[Path]) -> None:
    createrepo.write(folder, [createrepo.read_rpm(path, href=path.name) for path in rpms])


def test_a_file(gather: Gather, tmp_path: Path) -> None:
    path = make_rpm(tmp_path / "new", "tool", version="2", epoch="3")
    given = gather(path)
    (package,) = given.step.packages
    assert (package.nevra, package.nvra) == ("tool-3:2-1.noarch", "tool-2-1.noarch")
    assert package.header == rpm.ask(path, "%{SHA256HEADER}")
    (own,) = given.repositories
    assert own.name == ARTIFACTS
    (served,) = createrepo.read(Path(own.location))
    assert served.sha256 == package.sha256
    assert (Path(own.location) / served.href).samefile(path)


def test_of_a_folder_all_that_the_guest_can_have(gather: Gather, folder: Path) -> None:
    assert nevras(gather(folder)) == ["tool-2-1.noarch", "tool-extra-2-1.noarch"]


def test_what_was_gathered_before_does_not_count(gather: Gather, folder: Path, tmp_path: Path) -> None:
    gather(folder)
    assert nevras(gather(make_rpm(tmp_path / "new", "other"))) == ["other-1-1.noarch"]


@pytest.mark.parametrize("is_served", [False, True])
def test_of_a_repository_the_newest_of_what_the_parent_has(gather: Gather, tmp_path: Path, is_served: bool) -> None:
    repository = tmp_path / "repository"
    rpms = [make_rpm(repository, "tool", version=version) for version in ("2", "10", "9")]
    make_repository(repository, [*rpms, make_rpm(repository, "unrelated")])
    with serving(repository) as server:
        place = server.url if is_served else str(repository)
        given = gather(place)
        assert nevras(given) == ["tool-10-1.noarch"]
        # Served too, for what the packages need.
        assert [(r.name, r.location) for r in given.repositories[1:]] == [("given-1", place)]
    assert not (Path(given.repositories[0].location) / ".metadata").exists()


def test_a_file_by_its_address(gather: Gather, tmp_path: Path) -> None:
    path = make_rpm(tmp_path / "web", "tool", version="2")
    with serving(path.parent) as server:
        given = gather(f"{server.url}/{path.name}")
    assert nevras(given) == ["tool-2-1.noarch"]
    assert len(given.repositories) == 1


def test_what_cannot_be_fetched(gather: Gather, tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        with pytest.raises(ToolError, match="could not fetch a package") as caught:
            gather(f"{server.url}/none.rpm")
        assert "404" in dict(caught.value.details)["reason"]
        with pytest.raises(ToolError, match="could not fetch a package") as caught:
            gather(server.url)
        assert dict(caught.value.details)["address"].endswith("/repodata/repomd.xml")


def test_a_server_that_drips_is_given_up(gather: Gather, monkeypatch: pytest.MonkeyPatch) -> None:
    patience = Patience(read_s=0.2, least_bytes_s=10**9, tries=2, pause_s=0.01)
    monkeypatch.setattr("builder.artifacts._PATIENCE", patience)
    with dripping() as url, pytest.raises(ToolError, match="could not fetch a package") as caught:
        gather(f"{url}/tool.rpm")
    assert dict(caught.value.details)["reason"].startswith("2 tries failed, the last one so: it brought ")


def test_a_repository_whose_file_is_another_one(gather: Gather, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    path = make_rpm(repository, "tool", version="2")
    make_repository(repository, [path])
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ToolError, match=r"tool-2-1\.noarch\.rpm of the repository .* is not the file"):
        gather(repository)


def test_what_is_refused(gather: Gather, folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.rpm"
    text.write_text("no package")
    empty = tmp_path / "empty"
    empty.mkdir()
    repository = tmp_path / "repository"
    make_repository(repository, [make_rpm(repository, "unrelated")])
    cases: list[tuple[tuple[Path, ...], str]] = [
        ((tmp_path / "nowhere",), "there is neither an RPM file nor a folder of them at"),
        ((empty,), "that 'sandbox-base' could install"),
        ((text,), "text.rpm is no RPM package"),
        ((folder / "tool-2-1.src.rpm",), "is a source package; give the binary ones"),
        ((repository,), "is installed in 'sandbox-base'"),
        ((folder, folder), "tool-2-1.noarch.rpm was given twice"),
        ((folder, make_rpm(tmp_path / "x", "tool")), "cannot both be installed; give one of them"),
    ]
    for places, message in cases:
        with pytest.raises(ConfigError, match=message):
            gather(*places)


def test_a_package_for_another_processor(gather: Gather, tmp_path: Path) -> None:
    path = make_rpm(tmp_path, "tool", arch="aarch64")
    with pytest.raises(ConfigError, match="is for aarch64; 'sandbox-base' has noarch, x86_64"):
        gather(path)


def test_a_link_is_followed_and_the_file_left_alone(gather: Gather, tmp_path: Path) -> None:
    path = make_rpm(tmp_path / "new", "tool", version="2")
    before = path.stat().st_mtime_ns
    link = tmp_path / path.name
    link.symlink_to(path)
    assert nevras(gather(link)) == ["tool-2-1.noarch"]
    assert (path.stat().st_mtime_ns, link.readlink()) == (before, path)


def test_the_leaf(gather: Gather, tmp_path: Path) -> None:
    given = gather(*(make_rpm(tmp_path / "new", f"p{n}") for n in range(7)))
    name = artifacts.private_name("sandbox-base", "pr-42")
    leaf = artifacts.leaf(Image(name="sandbox-base", distribution="sandbox", layer="base"), given, name=name)
    assert (leaf.name, leaf.parent, leaf.layer) == ("sandbox-base-private-pr-42", "sandbox-base", "base-private-pr-42")
    assert leaf.is_private and leaf.needs_repositories
    assert leaf.description.endswith("p4-1-1.noarch and 2 more")
    with pytest.raises(GoldenError, match="'Pr_42' is not a name"):
        artifacts.private_name("sandbox-base", "Pr_42")


TOML = """
[project]
name = "demo"
[distribution.sandbox]
inherits = "el9"
[image.sandbox-base]
distribution = "sandbox"
[image.sandbox-upgrade]
parent = "sandbox-base"
steps = [{ upgrade = true }]
"""


class TestCommand:
    """`golden build --with` as far as it goes without a machine: its dry run."""

    @pytest.fixture
    def project(self, tmp_path: Path) -> Path:
        folder = tmp_path / "project"
        folder.mkdir()
        (folder / "golden.toml").write_text(TOML)
        (folder / "keys").mkdir()
        (folder / "keys/id_ed25519.pub").write_text("ssh-ed25519 AAAA test")
        add_chain(Store(folder / "state", "demo"), "sandbox-base", "sandbox-upgrade")
        return folder

    def golden(self, folder: Path, *words: str | Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            [sys.executable, "-m", "builder", "--file", folder / "golden.toml", "--state", folder / "state", *words],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == expect, ended.stderr
        return ended

    def test_a_leaf_on_a_build_as_it_stands(self, project: Path, tmp_path: Path) -> None:
        """There is no DVD, and the recipe of the parent has changed: neither matters."""
        path = make_rpm(tmp_path / "new", "tool", version="2")
        words = ("build", "sandbox-upgrade@20261121.1", "--with", path, "--name", "pr-42", "--dry-run", "--json")
        ended = self.golden(project, *words)
        (leaf,) = json.loads(ended.stdout)
        assert leaf == "sandbox-upgrade-private-pr-42"
        assert "to be installed: tool-2-1.noarch" in ended.stderr
        titles = [command["title"] for command in json.loads(ended.stdout)[leaf]]
        assert titles[0] == "serve the repository artifacts"
        assert titles[-2:] == ["artifacts + seal", "compress"]
        script = (project / "state/demo/dry-run" / leaf / "steps/1-artifacts.sh").read_text()
        assert "install tool-2-1.noarch" in script
        assert f"{rpm.ask(path, '%{SHA256HEADER}')} tool-2-1.noarch" in script
        (served,) = createrepo.read(project / "state/demo/dry-run" / f"{leaf}.rpms")
        assert served.file_name == path.name

    def test_a_leaf_on_an_installed_image(self, project: Path, tmp_path: Path) -> None:
        """As on a machine of CI: dnf installed the chain, nothing is built."""
        store, installed = Store(project / "state", "demo"), tmp_path / "installed"
        store.images.rename(installed)
        (installed / "sandbox-upgrade.qcow2").symlink_to("sandbox-upgrade-20261121.1.qcow2")
        words = ("build", "sandbox-upgrade", "--with", make_rpm(tmp_path / "new", "tool"), "--dry-run")
        self.golden(project, *words, "--images", installed)
        for path in installed.glob("*-2*"):
            assert (store.images / path.name).samefile(path)
        assert [build.stem for build in store.builds()] == ["sandbox-base-20261121.1", "sandbox-upgrade-20261121.1"]
        self.golden(project, *words)

    def test_an_installed_image_that_is_another_one(self, project: Path, tmp_path: Path) -> None:
        """Its base has the name and version of one that the project built."""
        store, installed = Store(project / "state", "demo"), tmp_path / "installed"
        store.images.rename(installed)
        (installed / "sandbox-upgrade.qcow2").symlink_to("sandbox-upgrade-20261121.1.qcow2")
        add_chain(store, "sandbox-base")
        words = ("build", "sandbox-upgrade", "--with", make_rpm(tmp_path / "new", "tool"), "--dry-run")
        ended = self.golden(project, *words, "--images", installed, expect=5)
        assert "the project has a build sandbox-base-20261121.1 of its own, and it is not the one in" in ended.stderr
        assert len(store.builds()) == 1

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["build", "--with", "x"], "--with needs exactly one image to stand on"),
            (["build", "sandbox-base", "sandbox-upgrade", "--with", "x"], "--with needs exactly one image to stand on"),
            (["build", "sandbox-base", "--name", "x"], "--name is the name of what --with builds"),
            (["build", "sandbox-bas", "--with", "x"], "there is no image 'sandbox-bas', neither installed"),
            (["build", "sandbox-base@20200101.1", "--with", "x"], "there is no build 20200101.1 of 'sandbox-base'"),
            (["build", "sandbox-base", "--with", "/nowhere"], "neither an RPM file nor a folder of them at /nowhere"),
            (["build", "sandbox-base", "--with", "x", "--name", "A b"], "'A b' is not a name"),
        ],
    )
    def test_what_makes_no_sense(self, project: Path, words: list[str], message: str) -> None:
        assert message in self.golden(project, *words, expect=2).stderr
        assert not list((project / "state/demo").glob("artifacts/*"))

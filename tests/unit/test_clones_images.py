"""Which file a clone is made of, and which names it may have; nothing is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import clones
from builder.errors import ConfigError, VerifyError
from builder.store import Store, write_atomically
from tests.builds import make_build


def install(images: Path, image: str, *versions: str) -> None:
    """As the packages lay it out: versioned files, and a link to the newest. The files are empty."""
    images.mkdir(exist_ok=True)
    for version in versions:
        build = make_build(image, version=version)
        (images / f"{build.stem}.qcow2").touch()
        write_atomically(images / f"{build.stem}.json", build.model_dump_json())
    (images / f"{image}.qcow2").symlink_to(f"{image}-{versions[-1]}.qcow2")


def build_in(store: Store, image: str, version: str) -> None:
    build = make_build(image, version=version)
    store.images.mkdir(parents=True, exist_ok=True)
    store.qcow2(build).touch()
    write_atomically(store.facts(build), build.model_dump_json())


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return tmp_path / "images"


def test_the_link_is_followed_to_the_versioned_file(images: Path) -> None:
    install(images, "rocky9-base", "20261121.1", "20261121.2")
    source = clones.locate("rocky9-base", None, images=images, builds=None)
    assert source.file == images / "rocky9-base-20261121.2.qcow2"
    assert (source.build.version, source.origin) == ("20261121.2", "installed")


def test_an_older_version_that_is_still_installed_can_be_named(images: Path) -> None:
    install(images, "rocky9-base", "20261121.1", "20261121.2")
    source = clones.locate("rocky9-base", "20261121.1", images=images, builds=None)
    assert source.file == images / "rocky9-base-20261121.1.qcow2"


def test_an_installed_image_comes_before_a_built_one(tmp_path: Path, images: Path) -> None:
    store = Store(tmp_path / "state", "demo")
    build_in(store, "rocky9-base", "20261122.1")
    install(images, "rocky9-base", "20261121.1")
    assert clones.locate("rocky9-base", None, images=images, builds=store).origin == "installed"


def test_what_is_not_installed_is_taken_from_the_project(tmp_path: Path, images: Path) -> None:
    store = Store(tmp_path / "state", "demo")
    build_in(store, "rocky9-base", "20261121.9")
    build_in(store, "rocky9-base", "20261121.10")
    source = clones.locate("rocky9-base", None, images=images, builds=store)
    assert (source.build.version, source.origin) == ("20261121.10", "built")
    assert source.file == store.images / "rocky9-base-20261121.10.qcow2"


def test_an_unknown_image_is_refused_with_the_names_there_are(images: Path) -> None:
    install(images, "rocky9-base", "20261121.1")
    with pytest.raises(ConfigError, match=r"there is no image 'rocky9-bass', .*, did you mean 'rocky9-base'") as caught:
        clones.locate("rocky9-bass", None, images=images, builds=None)
    assert caught.value.try_next == "one of: rocky9-base"


def test_an_unknown_version_is_refused(images: Path) -> None:
    install(images, "rocky9-base", "20261121.1")
    with pytest.raises(ConfigError, match=r"there is no image 'rocky9-base' 20261121\.7"):
        clones.locate("rocky9-base", "20261121.7", images=images, builds=None)


def test_a_link_that_leads_nowhere_is_said_to(images: Path) -> None:
    install(images, "rocky9-base", "20261121.1")
    (images / "rocky9-base-20261121.1.qcow2").unlink()
    with pytest.raises(VerifyError, match="the installed image 'rocky9-base' leads to a file that is gone"):
        clones.locate("rocky9-base", None, images=images, builds=None)


def test_an_unknown_clone_is_refused_with_the_names_there_are(tmp_path: Path) -> None:
    clones.directory(tmp_path, "web1").mkdir(parents=True)
    (tmp_path / "clones" / ".locks").mkdir()
    with pytest.raises(ConfigError, match="there is no clone 'web', did you mean 'web1'") as caught:
        clones.find(tmp_path, "web")
    assert caught.value.try_next == "one of: web1"


def test_a_damaged_lease_is_said_to_be(tmp_path: Path) -> None:
    clones.directory(tmp_path, "web1").mkdir(parents=True)
    (clones.directory(tmp_path, "web1") / "lease.json").write_text('{"name": "web1"')
    with pytest.raises(VerifyError, match="the lease of the clone 'web1' is damaged") as caught:
        clones.find(tmp_path, "web1")
    assert caught.value.try_next == "golden clone destroy web1"

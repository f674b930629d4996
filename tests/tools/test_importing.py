"""Images brought in by the real qemu-img: copied, resized, never changed; chains of golden's own flattened."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from builder import bases, importing
from builder.clones import sources
from builder.errors import ConfigError, VerifyError
from builder.media import Source
from builder.model import Build, Image
from builder.run import query
from builder.store import Store, sha256, write_atomically
from builder.tools import qemu_img

SIZE = 8 * 1024**2


def image(disk_bytes: int = SIZE) -> Image:
    return Image(name="trial-base", distribution="trial", layer="base", disk_bytes=disk_bytes)


def bring_in(source: Source, disk: Path, *, disk_bytes: int = SIZE) -> None:
    importing.bring_in(
        source,
        Path(source.location),
        disk,
        image=image(disk_bytes),
        log=disk.with_suffix(".log"),
        is_kvm=False,
        time_factor=1,
        note=lambda _: None,
    )


def is_same(one: Path, other: Path) -> bool:
    query(["qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", one, other], why="compare two disks")
    return True


@pytest.mark.parametrize("options", ["compat=0.10", "compat=1.1", "cluster_size=2M"])
def test_a_copy_has_the_same_content_and_leaves_the_original_alone(tmp_path: Path, options: str) -> None:
    cloud, disk = tmp_path / "a b,c.qcow2", tmp_path / "disk.qcow2"
    query(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, cloud, str(SIZE)], why="make an image")
    query(["qemu-io", "-f", "qcow2", "-c", "write -q -P 7 1M 2M", cloud], why="write to it")
    cloud.chmod(0o444)
    before = sha256(cloud), cloud.stat().st_mtime_ns
    bring_in(Source(qcow2=str(cloud)), disk)
    assert is_same(cloud, disk)
    assert (sha256(cloud), cloud.stat().st_mtime_ns) == before
    found = qemu_img.info(disk)
    assert (found.virtual_bytes, found.backing) == (SIZE, None)


def test_a_disk_becomes_larger(tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    qemu_img.create(disk, SIZE)
    qemu_img.resize(disk, 2 * SIZE)
    assert qemu_img.info(disk).virtual_bytes == 2 * SIZE


def test_a_smaller_disk_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    cloud, disk = tmp_path / "cloud.qcow2", tmp_path / "disk.qcow2"
    qemu_img.create(cloud, SIZE)
    with pytest.raises(ConfigError, match=r"is smaller than the image cloud\.qcow2"):
        bring_in(Source(qcow2=str(cloud)), disk, disk_bytes=SIZE // 2)
    assert not disk.exists()


def test_a_local_image_with_another_digest_is_refused(tmp_path: Path) -> None:
    cloud = tmp_path / "cloud.qcow2"
    qemu_img.create(cloud, SIZE)
    source = Source(qcow2=str(cloud), sha256="0" * 64)
    with pytest.raises(VerifyError, match=r"cloud\.qcow2 is not the file that it should be") as caught:
        bases.known_sha256(source, image(), state=tmp_path)
    assert dict(caught.value.details) == {
        "expected": f"sha256 {'0' * 64} (golden.toml)",
        "found": f"sha256 {sha256(cloud)}",
    }


# --- an image of golden's own


def own(store: Store, build: Build) -> Source:
    return Source(image=str(store.qcow2(build)))


def test_a_chain_of_golden_s_own_is_flattened(store: Store, chain: dict[str, Build], tmp_path: Path) -> None:
    build = chain["sandbox-bootstrapped"]
    source, disk = own(store, build), tmp_path / "disk.qcow2"
    assert bases.known_sha256(source, image(), state=tmp_path) == build.id.sha256
    with bases.held(source, state=tmp_path):
        bring_in(source, disk, disk_bytes=4 * 1024**2)
    assert qemu_img.info(disk).backing is None
    assert is_same(store.qcow2(build), disk)


def test_the_link_of_an_installed_image_leads_to_its_file(
    store: Store, chain: dict[str, Build], tmp_path: Path
) -> None:
    link = store.images / "sandbox-base.qcow2"
    link.symlink_to(store.qcow2(chain["sandbox-base"]).name)
    source = Source(image=str(link))
    assert bases.local_file(source, state=tmp_path) == store.qcow2(chain["sandbox-base"]).resolve()


def test_a_changed_parent_of_golden_s_own_is_refused(store: Store, chain: dict[str, Build], tmp_path: Path) -> None:
    base = store.qcow2(chain["sandbox-base"])
    base.chmod(0o644)
    with base.open("r+b") as stream:
        stream.seek(base.stat().st_size // 2)
        byte = stream.read(1)[0]
        stream.seek(-1, 1)
        stream.write(bytes([byte ^ 1]))
    expected = f"'{chain['sandbox-base'].stem}' was changed after it was built"
    source = own(store, chain["sandbox-upgrade"])
    with pytest.raises(VerifyError, match=expected), bases.held(source, state=tmp_path):
        pytest.fail("it was taken")


def test_an_image_without_facts_is_none_of_golden_s(tmp_path: Path) -> None:
    file = tmp_path / "x.qcow2"
    qemu_img.create(file, SIZE)
    source = Source(image=str(file))
    with pytest.raises(VerifyError, match=r"is no image of golden's: its facts are not beside it, x\.json"):
        bases.known_sha256(source, image(), state=tmp_path)


def test_an_image_that_is_not_installed(tmp_path: Path) -> None:
    source = Source(image=str(tmp_path / "rocky9-base.qcow2"))
    with pytest.raises(ConfigError, match="the image to import is not there: ") as caught:
        bases.known_sha256(source, image(), state=tmp_path)
    assert caught.value.try_next == "dnf install golden-rocky9-base"


@pytest.mark.parametrize("digest", ["as it was", "as it is now"])
def test_no_clone_is_made_of_an_image_that_leads_elsewhere(
    store: Store, chain: dict[str, Build], tmp_path: Path, digest: str
) -> None:
    """Not even of one whose facts fit, and not if the same base lies there."""
    build, base = chain["sandbox-upgrade"], chain["sandbox-base"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for file in (store.qcow2(base), store.facts(base)):
        shutil.copy(file, elsewhere / file.name)
    file = store.qcow2(build)
    file.chmod(0o644)
    qemu_img.rebase(file, elsewhere / store.qcow2(base).name)
    if digest == "as it is now":
        fitting = build.model_copy(update={"id": build.id.model_copy(update={"sha256": sha256(file)})})
        write_atomically(store.facts(build), fitting.model_dump_json(), mode=0o444)
    source = sources.locate("sandbox-upgrade", None, images=tmp_path / "none", builds=store)
    with pytest.raises(VerifyError, match="its backing file is not one beside it"):
        sources.verify(source, state=store.state, is_full=True)

"""One flipped byte in each kind of file that golden keeps: refused by its user, and found by `golden doctor --deep`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner

from builder import package_changes, soundness
from builder.channels import check, promote
from builder.channels import compose as composes
from builder.cli.doctor import doctor
from builder.cli.session import Session
from builder.errors import ToolError, VerifyError
from builder.model import Build
from builder.package import package
from builder.preflight.doctor import Finding
from builder.progress import Reporter
from builder.store import Store, facts_text, sha256
from builder.tools.ansible import tasks_run
from builder.tools.package_cache import caching
from builder.tools.webserver import serving
from tests.builds import verify_builds
from tests.tools.conftest import Publisher

Look = Callable[..., list[Finding]]
URL = "http://mirror.example/golden"


def flip(path: Path, *, at: int | None = None) -> None:
    """One bit in the middle, or at that byte, by a disk that goes bad: the times stay."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.chmod(0o644)
    with path.open("r+b") as stream:  # the same file, whatever other names it has
        stream.write(data)
    path.chmod(status.st_mode)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def looked(store: Store, publisher: Publisher) -> Look:
    """What `golden doctor --deep` finds wrong."""

    def look(is_signed: bool = True) -> list[Finding]:
        found = soundness.examine(
            store.state, reporter=Reporter("quiet"), own=store, signer=publisher.signer if is_signed else None
        )
        return [finding for finding in found if finding.state != "ok"]

    return look


def test_nothing_is_found_where_nothing_is_wrong(
    store: Store, chain: dict[str, Build], publisher: Publisher, looked: Look
) -> None:
    publisher.publish(chain["sandbox-upgrade"])
    assert looked() == []


def test_in_an_image(store: Store, chain: dict[str, Build], publisher: Publisher, looked: Look) -> None:
    flip(store.qcow2(chain["sandbox-base"]))
    with pytest.raises(VerifyError, match=r"'sandbox-base-20261121\.1' was changed after it was built"):
        publisher.rpms(chain["sandbox-upgrade"])
    (found,) = looked()
    assert (found.check, found.state) == ("build sandbox-base-20261121.1", "fail")
    assert found.remedy.startswith(f"remove {store.qcow2(chain['sandbox-base'])} and run: golden build sandbox-base")


def test_in_a_package_list(store: Store, chain: dict[str, Build], publisher: Publisher, looked: Look) -> None:
    flip(store.package_list(chain["sandbox-base"]))
    with pytest.raises(VerifyError, match=r"the package list of 'sandbox-base-20261121\.1' was changed"):
        publisher.rpms(chain["sandbox-base"])
    assert [finding.check for finding in looked()] == ["build sandbox-base-20261121.1"]


@pytest.mark.parametrize("key", ["description", "key", "virtual_bytes", "finished", "facts_sha256"])
def test_anywhere_in_the_facts_of_a_build(store: Store, chain: dict[str, Build], looked: Look, key: str) -> None:
    build = chain["sandbox-base"].model_copy(update={"description": "a base"})
    path = store.facts(build)
    path.chmod(0o644)
    path.write_text(facts_text(build))
    assert store.find("sandbox-base") == build
    text = path.read_bytes()
    # The first byte of the value, behind its quotation mark.
    place = text.index(f'"{key}": '.encode()) + len(key) + 4
    flip(path, at=place + (text[place : place + 1] == b'"'))
    with pytest.raises(VerifyError, match="the facts of a build are damaged") as refused:
        store.builds()
    assert refused.value.try_next == f"remove {path} to have the image built again"
    assert [finding.check for finding in looked()] == ["build sandbox-base-20261121.1"]


@pytest.mark.parametrize("is_signed", [True, False])
def test_in_a_package(
    store: Store, chain: dict[str, Build], publisher: Publisher, looked: Look, is_signed: bool
) -> None:
    if not is_signed:
        publisher = Publisher(store, publisher.reporter, None)  # type: ignore[arg-type]
    first, _ = publisher.rpms(chain["sandbox-base"])
    flip(first, at=first.stat().st_size - 1000)
    with pytest.raises(VerifyError, match="not all RPMs for the channel 'candidate' are whole") as refused:
        publisher.publish_rpms(store_rpms(store))
    assert str(first) in refused.value.details[0][1]
    assert composes.current(store.channels / "candidate") is None
    assert [finding.check for finding in looked()] == [f"package {first.name}"]
    # What the message says, done.
    first.unlink()
    package(store, [chain["sandbox-base"]], prefix="golden", reporter=Reporter("quiet"), signer=publisher.signer)
    publisher.publish_rpms(store_rpms(store))
    assert looked(is_signed) == []


def store_rpms(store: Store) -> list[Path]:
    return sorted(store.rpms.glob("*.rpm"))


def test_in_a_published_package(store: Store, chain: dict[str, Build], publisher: Publisher, looked: Look) -> None:
    publisher.publish(chain["sandbox-base"])
    verify_builds(store, chain["sandbox-base"])
    (image,) = store.channels.rglob("golden-sandbox-base-image-*.rpm")
    flip(image, at=image.stat().st_size - 1000)
    with pytest.raises(VerifyError, match="not all RPMs for the channel 'nightly' are whole"):
        promote(store, (), prefix="golden", url=URL, signer=publisher.signer)
    assert composes.current(store.channels / "nightly") is None
    with pytest.raises(VerifyError, match="is not sound"):
        check(store, "candidate", signer=publisher.signer)
    assert {finding.check for finding in looked()} == {"channel candidate", f"package {image.name}"}


@pytest.mark.parametrize("name", ["*-primary.xml.gz", "*-filelists.xml.gz", "repomd.xml"])
def test_in_metadata(store: Store, chain: dict[str, Build], publisher: Publisher, looked: Look, name: str) -> None:
    publisher.publish(chain["sandbox-base"])
    verify_builds(store, chain["sandbox-base"])
    (file,) = store.channels.rglob(name)
    # Of repomd.xml its time, which nothing but the signature vouches for.
    flip(file, at=file.read_bytes().index(b"<revision>") + 12 if name == "repomd.xml" else None)
    before = composes.current(store.channels / "candidate")
    with pytest.raises(VerifyError, match=r"the signature of|the metadata of"):
        publisher.publish(chain["sandbox-upgrade"])
    with pytest.raises(VerifyError, match=r"the signature of|the metadata of"):
        promote(store, (), prefix="golden", url=URL, signer=publisher.signer)
    assert composes.current(store.channels / "candidate") == before
    assert [finding.check for finding in looked()] == ["channel candidate"]


def test_in_a_download(store: Store, looked: Look) -> None:
    place = store.state / "cache/files"
    store.images.mkdir(parents=True)
    (place / "x").mkdir(parents=True)
    (place / "x/a.iso").write_bytes(bytes(5000))
    digest = sha256(place / "x/a.iso")
    (place / "x").rename(place / digest)
    facts = (
        f'{{"name": "a.iso", "sha256": "{digest}", "size_bytes": 5000, "address": "http://m/a.iso",'
        '"distribution": "d", "verified": "sha256", "fetched": "2026-11-21T10:00:00Z"}'
    )
    (place / digest / ".facts.json").write_text(facts)
    assert looked() == []
    flip(place / digest / "a.iso")
    (found,) = looked()
    assert (found.check, found.remedy) == ("cache a.iso", f"rm -r {place / digest}  and golden cache fetch")


def test_in_the_record_of_a_verification(store: Store, chain: dict[str, Build], publisher: Publisher) -> None:
    base = chain["sandbox-base"]
    verify_builds(store, base)
    path = store.verification(base)
    flip(path, at=0)
    with pytest.raises(VerifyError, match=f"the verification record of {base.stem} is damaged: {path}") as refused:
        publisher.rpms(base)
    assert refused.value.try_next == "golden verify sandbox-base, which writes it anew"
    path.write_text("[]")
    with pytest.raises(VerifyError, match="is damaged"):
        publisher.rpms(base)


def test_in_what_a_channel_has_taken_back(store: Store, chain: dict[str, Build], publisher: Publisher) -> None:
    publisher.publish(chain["sandbox-base"])
    verify_builds(store, chain["sandbox-base"])
    path = store.channels / "nightly/withdrawn.json"
    path.parent.mkdir()
    for text in ("[]", '{"a": 1}', "{", "\0"):
        path.write_text(text)
        with pytest.raises(VerifyError, match=f"channel 'nightly' cannot be read: {path} is damaged") as refused:
            promote(store, (), prefix="golden", url=URL, signer=publisher.signer)
        assert refused.value.try_next == f"mend it, or rm {path}, by which it may be promoted again"
    path.write_text('{"a": "was taken back"}')
    promote(store, (), prefix="golden", url=URL, signer=publisher.signer)


def test_in_the_changelogs_of_a_build(store: Store, chain: dict[str, Build]) -> None:
    base = chain["sandbox-base"]
    path = store.logs / base.stem / package_changes.FILE
    path.parent.mkdir(parents=True)
    path.write_text('{"parent": null, "previous": null, "changelogs": {"a-1": "- new"}}')
    assert package_changes.changelogs(store, base) == {"a-1": "- new"}
    flip(path, at=0)
    with pytest.raises(VerifyError, match=f"the changelogs of {base.stem} cannot be read: {path} is damaged"):
        package_changes.changelogs(store, base)


@pytest.mark.parametrize("text", ["", "<testsuite>", "<?xml version='1.0' encoding='none'?><a/>", "\0"])
def test_in_what_ansible_reports(tmp_path: Path, text: str) -> None:
    (tmp_path / "site.xml").write_text(text)
    with pytest.raises(ToolError, match=f"ansible's report of what ran cannot be read: {tmp_path}/site.xml: "):
        tasks_run(tmp_path)


def test_in_the_package_cache(store: Store, looked: Look, tmp_path: Path) -> None:
    """A build gets the mirror's bytes, downloaded again, and never what lies here."""
    store.images.mkdir(parents=True)
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror/a.rpm").write_bytes(b"a package" * 1000)
    (tmp_path / "mirror/repomd.xml").write_bytes(b"<repomd/>")
    cache = store.state / "cache/packages"
    with serving(tmp_path / "mirror") as mirror, caching(mirror.url, cache=cache) as served:

        def asked() -> bytes:
            return requests.get(f"{served.url}/a.rpm", timeout=30).content

        whole = asked()
        assert looked() == []
        (file,) = cache.rglob("a.rpm")
        flip(file)
        (found,) = looked()
        assert (found.check, found.remedy) == ("package cache a.rpm", f"rm {file}")
        assert asked() == whole
        assert looked() == []


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("{stem}.qcow2", "was changed"),
        ("{stem}.packages", "was changed"),
        ("{stem}.json", "the facts of a build are damaged"),
    ],
)
def test_in_an_installed_image(store: Store, chain: dict[str, Build], tmp_path: Path, name: str, found: str) -> None:
    """No clone stands on it yet; it is read, as is what only a clone would read."""
    images = tmp_path / "images"
    shutil.copytree(store.images, images)
    stem = chain["sandbox-upgrade"].stem
    (images / "sandbox-upgrade.qcow2").symlink_to(f"{stem}.qcow2")
    for beside in (".cdx.json", ".tests.json"):
        (images / f"{stem}{beside}").write_text("{}")

    def look() -> list[Finding]:
        reporter = Reporter("quiet")
        return [it for it in soundness.examine(tmp_path / "none", reporter=reporter, images=images) if it.state != "ok"]

    assert look() == []
    path = images / name.format(stem=stem)
    flip(path, at=0 if path.suffix == ".json" else None)
    (told,) = look()
    assert (told.check, told.state) == (f"installed {stem}", "fail")
    assert str(path) in told.found and found in told.found
    assert told.remedy == f"dnf reinstall $(rpm -qf {images}/{stem}.qcow2)"
    path.unlink()
    (told,) = look()
    assert str(path) in told.found


def test_the_command_reads_installed_images_and_says_that_it_can(
    store: Store, chain: dict[str, Build], tmp_path: Path
) -> None:
    session = Session(file=tmp_path / "none/golden.toml", state=tmp_path / "state", reporter=Reporter("quiet"))
    flip(store.qcow2(chain["sandbox-base"]))
    result = CliRunner().invoke(doctor, ["--deep", "--json", "--images", str(store.images)], obj=session)
    assert isinstance(result.exception, VerifyError)
    assert result.exception.what == "what golden keeps is damaged: installed sandbox-base-20261121.1"
    (unread,) = [
        it
        for it in json.loads(CliRunner().invoke(doctor, ["--json"], obj=session).stdout)["findings"]
        if it["check"] == "every byte"
    ]
    assert (unread["state"], unread["remedy"]) == ("ok", "golden doctor --deep, which reads it")


def test_the_command_tells_and_ends_with_5(store: Store, chain: dict[str, Build], tmp_path: Path) -> None:
    session = Session(file=tmp_path / "none/golden.toml", state=store.state, reporter=Reporter("quiet"))
    flip(store.qcow2(chain["sandbox-upgrade"]))
    result = CliRunner().invoke(doctor, ["--deep", "--json"], obj=session)
    assert isinstance(result.exception, VerifyError)
    assert result.exception.what == "what golden keeps is damaged: build sandbox-upgrade-20261121.1"
    assert '"check": "build sandbox-upgrade-20261121.1"' in result.stdout

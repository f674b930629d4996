"""A base from an image of a channel: real RPMs, published, served, read and unpacked; nothing of them is installed."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builder import bases, config, importing
from builder.channels import publish
from builder.channels.compose import current
from builder.model import Build, Image
from builder.package import package
from builder.pipeline import Pipeline
from builder.preflight.kvm import Accelerator
from builder.progress import Reporter
from builder.run import query
from builder.store import Store, sha256, write_atomically
from builder.tools import createrepo, qcow2, qemu_img
from builder.tools.webserver import serving
from builder.workshop import Host
from tests.builds import add_build, add_chain, make_build
from tests.keys import Signer, signing
from tests.mirror import mirror

IMAGE = "sandbox-bootstrapped"


@dataclass
class Channel:
    """A published channel of one project, served, and another project whose base is to come from it."""

    store: Store
    url: str
    folder: Path

    def publish(self, *builds: Build, allow_private: bool = False) -> None:
        quiet = Reporter("quiet")
        made = package(self.store, builds, prefix="golden", reporter=quiet, signer=None, allow_private=allow_private)
        publish(
            self.store,
            "candidate",
            [rpm for each in made for rpm in (each.image_rpm, each.link_rpm)],
            url=self.url,
            signer=None,
        )

    @property
    def compose(self) -> Path:
        found = current(self.store.channels / "candidate")
        assert found is not None
        return found

    @property
    def cache(self) -> Path:
        return self.folder / "state" / "cache"

    def source(self, more: str = "", *, image: str = IMAGE, channel: str | None = None) -> None:
        address = channel or f"{self.url}/candidate"
        (self.folder / "golden.toml").write_text(
            '[distribution.trial]\ninherits = "el9"\n'
            f'source = {{ channel = "{address}", image = "{image}"{more} }}\n'
            '[image.trial-base]\ndistribution = "trial"\ndisk = "1 GiB"\n'
        )

    def golden(self, *words: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            [sys.executable, "-m", "builder", *words],
            env=os.environ
            | {"GOLDEN_FILE": str(self.folder / "golden.toml"), "GOLDEN_STATE": str(self.folder / "state")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ended.returncode == expect, ended.stdout + ended.stderr
        return ended

    def fetch(self) -> Path:
        return Path(json.loads(self.golden("cache", "fetch", "--json").stdout)["trial-base"])

    def refused(self, message: str, *, expect: int) -> str:
        """The error of a fetch that leaves nothing behind."""
        stderr = self.golden("cache", "fetch", expect=expect).stderr
        assert message in stderr, stderr
        left = [path for name in ("files", "partial") for path in (self.cache / name).rglob("*") if path.is_file()]
        assert left == []
        return stderr


@pytest.fixture
def channel(tmp_path: Path, store: Store) -> Iterator[Channel]:
    folder = tmp_path / "other"
    (folder / "keys").mkdir(parents=True)
    (folder / "keys" / "id_ed25519.pub").write_text("ssh-ed25519 AAAA trial\n")
    store.channels.mkdir(parents=True)
    with serving(store.channels) as server:
        yield Channel(store, f"http://127.0.0.1:{server.port}", folder)


@pytest.fixture
def published(channel: Channel) -> dict[str, Build]:
    builds = add_chain(channel.store, "sandbox-base", "sandbox-upgrade", IMAGE)
    channel.publish(builds[IMAGE])
    return builds


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signer]:
    with signing(tmp_path_factory.mktemp("signer")) as made:
        yield made


def test_the_chain_comes_whole_and_is_imported_as_one_disk(
    channel: Channel, published: dict[str, Build], tmp_path: Path
) -> None:
    channel.source()
    file = channel.fetch()
    stems = [build.stem for build in published.values()]
    assert file == channel.cache / "files" / published[IMAGE].id.sha256 / f"{published[IMAGE].stem}.qcow2"
    wanted = {f"{stem}{suffix}" for stem in stems for suffix in (".qcow2", ".packages", ".json")} | {".facts.json"}
    assert {path.name for path in file.parent.iterdir()} == wanted
    assert not is_private(channel)
    assert [link.path.name for link in qcow2.chain(file)] == [f"{stem}.qcow2" for stem in reversed(stems)]
    for build in published.values():
        assert sha256(file.with_name(f"{build.stem}.qcow2")) == build.id.sha256
    (entry,) = json.loads(channel.golden("cache", "list", "--json").stdout)
    assert entry["verified"] == f"the channel {channel.url}/candidate, not signed"
    assert entry["size_bytes"] == sum(path.stat().st_size for path in file.parent.glob("sandbox-*"))

    project, state = config.load(channel.folder / "golden.toml"), channel.folder / "state"
    source = bases.source_of(bases.localized(project.distribution_of("trial-base"), state=state))
    disk, image = tmp_path / "disk.qcow2", project.images["trial-base"]
    with bases.held(source, state=state):
        small = Image(**(image.model_dump() | {"disk_bytes": None}))
        importing.bring_in(
            *(source, Path(source.location), disk),
            image=small,
            log=tmp_path / "log",
            is_kvm=False,
            time_factor=1,
            note=lambda _: None,
        )
    assert qemu_img.info(disk).backing is None
    query(["qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", file, disk], why="compare two disks")


def test_what_is_here_is_not_downloaded_again_and_a_new_version_is(
    channel: Channel, published: dict[str, Build]
) -> None:
    channel.source()
    first = channel.fetch()
    for rpm in channel.compose.rglob("*.rpm"):
        rpm.unlink()  # nothing but metadata is asked for
    assert channel.fetch() == first
    assert "image sandbox-bootstrapped" not in channel.golden("plan").stdout  # it is known without a network

    newer = add_build(channel.store, "sandbox-base", version="20261122.1")
    for rpm in channel.store.rpms.glob("*.rpm"):
        os.link(rpm, channel.compose / "Packages" / rpm.name)
    channel.publish(newer)
    assert channel.fetch() == first
    channel.source(image="sandbox-base")
    assert channel.fetch().name == "sandbox-base-20261122.1.qcow2"
    channel.source(image="sandbox-base@20261121.1")
    assert channel.fetch().name == "sandbox-base-20261121.1.qcow2"
    channel.source(f', sha256 = "{published["sandbox-base"].id.sha256}"', image="sandbox-base")
    assert channel.fetch().name == "sandbox-base-20261121.1.qcow2"


def test_a_dry_run_says_how_the_chain_comes_here_and_then_what_is_done_with_it(
    channel: Channel, published: dict[str, Build]
) -> None:
    channel.source()
    project, state = config.load(channel.folder / "golden.toml"), channel.folder / "state"
    host = Host(uri="qemu:///system", accelerator=Accelerator(kind="tcg", reason="a test"))
    pipeline = Pipeline(project, Store(state, "x"), host=host, reporter=Reporter("quiet"))

    def lines() -> list[str]:
        return [command.line for command in pipeline.dry_run(["trial-base"], rebuild=[])["trial-base"]]

    download = lines()[0]
    assert download == f"golden --file {channel.folder}/golden.toml --state {state} cache fetch trial-base"
    assert channel.golden(*shlex.split(download)[1:]).returncode == 0
    (file,) = (state / "cache" / "files").glob(f"*/{IMAGE}-*.qcow2")
    first = lines()
    assert first[0] == f"qemu-img check -f qcow2 --output=json {file}"
    assert any(line.startswith(f"qemu-img convert -f qcow2 -O qcow2 {file} ") for line in first)


def test_one_compose_is_a_channel_too(channel: Channel, published: dict[str, Build]) -> None:
    channel.source(channel=f"{channel.url}/candidate/composes/{channel.compose.name}/")
    assert channel.fetch().name == f"{published[IMAGE].stem}.qcow2"


def test_a_private_image_goes_by_its_own_name(channel: Channel) -> None:
    build = add_build(channel.store, "sandbox-base")
    private = build.model_copy(update={"private": True})
    write_atomically(channel.store.facts(build), private.model_dump_json(), mode=0o444)
    channel.publish(private, allow_private=True)
    channel.source(image="sandbox-base")
    assert channel.fetch().name == "sandbox-base-20261121.1.qcow2"
    assert is_private(channel)


def is_private(channel: Channel) -> bool:
    """What is made of the image, as a build would ask."""
    project, state = config.load(channel.folder / "golden.toml"), channel.folder / "state"
    localized = bases.localized(project.distribution_of("trial-base"), state=state)
    return bases.is_private(project.images["trial-base"], localized)


def test_without_its_server_it_is_what_it_was(
    channel: Channel, published: dict[str, Build], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel.source()
    first = channel.fetch()
    with mirror() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        proxy.faults[f"{channel.url}/candidate/mirrorlist"] = [403]
        ended = channel.golden("--progress", "plain", "cache", "fetch", "--json")
    assert Path(json.loads(ended.stdout)["trial-base"]) == first
    assert "the server answered 403 Forbidden; taken as it was when it was last asked" in ended.stderr


# --- signatures


def sign(compose: Path, signer: Signer) -> Path:
    return signer.detached(compose / "repodata" / "repomd.xml")


def test_a_signed_channel(channel: Channel, published: dict[str, Build], signer: Signer) -> None:
    sign(channel.compose, signer)
    channel.source(f', key = "{signer.key}"')
    channel.fetch()
    (entry,) = json.loads(channel.golden("cache", "list", "--json").stdout)
    assert entry["verified"] == f"the channel {channel.url}/candidate, signed"


def test_a_channel_that_should_be_signed_and_is_not(
    channel: Channel, published: dict[str, Build], signer: Signer
) -> None:
    channel.source(f', key = "{signer.key}"')
    compose = f"{channel.url}/candidate/composes/{channel.compose.name}"
    channel.refused(f"golden.toml names a key for the channel, but {compose} is not signed\n", expect=5)


def test_metadata_that_changed_after_it_was_signed(
    channel: Channel, published: dict[str, Build], signer: Signer
) -> None:
    sign(channel.compose, signer)
    repomd = channel.compose / "repodata" / "repomd.xml"
    repomd.write_text(repomd.read_text() + "\n")
    channel.source(f', key = "{signer.key}"')
    channel.refused("repomd.xml was refused: the signature does not fit: the file was changed after", expect=5)


def test_a_channel_signed_by_somebody_else(
    channel: Channel, published: dict[str, Build], signer: Signer, tmp_path: Path
) -> None:
    with signing(tmp_path) as other:
        sign(channel.compose, other)
    channel.source(f', key = "{signer.key}"')
    channel.refused("repomd.xml was refused: it is signed with another key", expect=5)


# --- what is wrong is refused, and nothing is left


def replace(file: Path, data: bytes) -> None:
    file.unlink()  # a published RPM is a hard link to the one in the store
    file.write_bytes(data)


@pytest.mark.parametrize("image", ["sandbox-base", IMAGE])
def test_an_rpm_that_is_cut_short(channel: Channel, published: dict[str, Build], image: str) -> None:
    rpm = next(channel.compose.rglob(f"golden-{image}-image-*.rpm"))
    replace(rpm, rpm.read_bytes()[:-1000])
    channel.source()
    channel.refused(f"{rpm.name} is not the file that the channel's metadata speaks of\n", expect=5)


def test_metadata_that_is_damaged(channel: Channel, published: dict[str, Build]) -> None:
    primary = next((channel.compose / "repodata").glob("*-primary.xml*"))
    primary.write_bytes(primary.read_bytes()[:-10])
    channel.source()
    stderr = channel.refused("cannot be read\n", expect=5)
    assert "primary.xml.gz is damaged: expected sha256" in stderr


def test_metadata_that_names_a_file_outside(channel: Channel, published: dict[str, Build]) -> None:
    repomd = channel.compose / "repodata" / "repomd.xml"
    repomd.write_text(repomd.read_text().replace('href="repodata/', 'href="repodata/../../../'))
    channel.source()
    channel.refused("names a file outside of repodata/: repodata/../../../", expect=5)


def test_a_parent_that_is_gone(channel: Channel, published: dict[str, Build]) -> None:
    packages = [package for package in createrepo.read(channel.compose) if "sandbox-base" not in package.file_name]
    for file in (channel.compose / "repodata").iterdir():
        file.unlink()
    createrepo.write(channel.compose, packages)
    channel.source()
    message = f"does not have all that '{published[IMAGE].stem}' stands on\n"
    stderr = channel.refused(message, expect=5)
    assert "missing: golden-image-id(golden-sandbox-base-image-20261121.1-20261121.1-1" in stderr


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("sandbox-bse", "has no image 'sandbox-bse', did you mean 'sandbox-base'?; it has sandbox-base, "),
        ("sandbox-base@20200101.1", "has no version 20200101.1 of 'sandbox-base'; it has 20261121.1\n"),
    ],
)
def test_an_image_that_the_channel_has_not(
    channel: Channel, published: dict[str, Build], image: str, message: str
) -> None:
    channel.source(image=image)
    channel.refused(f"the channel {channel.url}/candidate {message}", expect=2)


def test_an_address_without_a_channel(channel: Channel) -> None:
    channel.source(channel=f"{channel.url}/none")
    channel.refused(f"there is no channel of golden's at {channel.url}/none: it has neither a mirrorlist nor", expect=2)


def crafted(channel: Channel, *words: str | Path) -> None:
    """Publish an image whose facts are right, and whose qcow2 somebody made by hand."""
    store = channel.store
    build = add_build(store, "sandbox-base")
    disk = store.qcow2(build)
    disk.unlink()
    query(["qemu-img", "create", "-q", "-u", "-f", "qcow2", *words, disk, "4M"], why="craft an image")
    digest = sha256(disk)
    listed = sha256(store.package_list(build))
    facts = make_build("sandbox-base", digest=digest, size_bytes=disk.stat().st_size, packages_sha256=listed)
    store.facts(build).unlink()
    write_atomically(store.facts(build), facts.model_dump_json(), mode=0o444)
    channel.publish(facts)
    channel.source(image="sandbox-base")


def test_an_image_that_reads_another_file_of_this_host(channel: Channel) -> None:
    crafted(channel, "-F", "qcow2", "-b", "/etc/passwd")
    channel.refused("is not fit for use: its backing file is not one beside it: /etc/passwd\n", expect=5)


def test_an_image_that_reads_an_image_of_this_host(channel: Channel, tmp_path: Path) -> None:
    secret = tmp_path / "secret.qcow2"
    qemu_img.create(secret, 4 * 1024**2)
    crafted(channel, "-F", "qcow2", "-b", secret)
    channel.refused(f"is not fit for use: its backing file is not one beside it: {secret}\n", expect=5)


def test_an_image_that_keeps_its_data_elsewhere(channel: Channel, tmp_path: Path) -> None:
    crafted(channel, "-o", f"data_file={tmp_path / 'data.raw'},data_file_raw=on")
    channel.refused("it keeps its data in another file (data-file)\n", expect=5)


def test_the_image_in_the_rpm_is_another(channel: Channel) -> None:
    """The package's name for the bytes, and the bytes, differ."""
    build = add_build(channel.store, "sandbox-base")
    channel.publish(build)
    packages: list[Any] = createrepo.read(channel.compose)
    for package_ in packages:
        package_.metadata.provides = [
            (name.replace(build.id.sha256, "1" * 64), *rest) for name, *rest in package_.metadata.provides
        ]
    for file in (channel.compose / "repodata").iterdir():
        file.unlink()
    createrepo.write(channel.compose, packages)
    channel.source(image="sandbox-base")
    channel.refused("holds another image than the channel's metadata says\n", expect=5)


def test_a_download_that_broke_off_goes_on(channel: Channel, published: dict[str, Build]) -> None:
    """What of the chain is there already is not asked for again."""
    channel.source()
    base = next(channel.compose.rglob("golden-sandbox-base-image-*.rpm"))
    kept = base.with_name("kept")
    base.rename(kept)
    assert "the server answered 404" in channel.golden("cache", "fetch", expect=4).stderr
    (entry,) = json.loads(channel.golden("cache", "list", "--json").stdout)
    assert (entry["distribution"], entry["state"], entry["name"]) == ("trial", "partial", "chain")
    kept.rename(base)
    for rpm in channel.compose.rglob("golden-sandbox-bootstrapped-image-*.rpm"):
        rpm.unlink()
    assert channel.fetch().name == f"{published[IMAGE].stem}.qcow2"
    assert len(json.loads(channel.golden("cache", "prune", "--keep", "0", "--json").stdout)) == 1
    assert json.loads(channel.golden("cache", "list", "--json").stdout) == []


def test_two_goldens_download_a_chain_once(channel: Channel, published: dict[str, Build]) -> None:
    fetched: list[Path | None] = []
    with mirror() as server:
        for file in channel.compose.rglob("*.*"):
            server.put(str(file.relative_to(channel.store.channels)), file.read_bytes())
        compose = channel.compose.relative_to(channel.store.channels)
        server.put("candidate/mirrorlist", f"{server.url}/{compose}/\n".encode())
        channel.source(channel=f"{server.url}/candidate")
        project, state = config.load(channel.folder / "golden.toml"), channel.folder / "state"

        def fetch() -> None:
            bases.refresh(project, ["trial-base"], state=state, reporter=Reporter("quiet"))
            fetched.append(bases.fetch(project, "trial-base", state=state, reporter=Reporter("quiet")))

        threads = [threading.Thread(target=fetch) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        asked = [request.path.rpartition("/")[2] for request in server.requests if request.path.endswith(".rpm")]
    assert len(fetched) == 3
    assert len(set(fetched)) == 1
    assert sorted(asked) == sorted(f"golden-{id}-image-20261121.1-20261121.1-1.noarch.rpm" for id in published)

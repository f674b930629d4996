"""Flat images and exports of real qcow2 chains."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import click
import pytest
from click.testing import CliRunner, Result

from builder.cli.clone_source import _locate
from builder.cli.export import export
from builder.cli.flatten import flatten
from builder.cli.inspect import list_images, show
from builder.cli.package import package
from builder.cli.publish import publish
from builder.cli.session import Session
from builder.errors import ConfigError, GoldenError, HostError, ToolError, VerifyError
from builder.model import Build
from builder.pipeline import Pipeline
from builder.preflight.kvm import Accelerator
from builder.progress import Reporter
from builder.store import Store, sha256
from builder.tools import qemu_img, rpm
from builder.tools.libvirt import connect
from builder.workshop import Host
from tests.builds import add_build, add_chain, make_project

NO_IMAGES = "/no/images"


@pytest.fixture
def session(store: Store, tmp_path: Path, reporter: Reporter) -> Session:
    found = Session(file=tmp_path / "golden.toml", state=store.state, reporter=reporter)
    found.file.touch()
    # as if golden.toml had been read
    found.__dict__["project"] = make_project(tmp_path)
    return found


def call(session: Session, command: click.Command, *words: str | Path) -> Result:
    result = CliRunner().invoke(command, list(map(str, words)), obj=session)
    if isinstance(result.exception, GoldenError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def as_json(session: Session, command: click.Command, *words: str | Path) -> Any:
    return json.loads(call(session, command, *words, "--json").stdout)


def compare(a: Path, b: Path, *, format: str) -> int:
    """0 if a guest sees the same disk."""
    return subprocess.run(["qemu-img", "compare", "-q", "-f", "qcow2", "-F", format, a, b], check=False).returncode


def flip(disk: Path, *, mode: int) -> None:
    disk.chmod(0o644)
    with disk.open("r+b") as stream:
        stream.seek(disk.stat().st_size // 2)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 1]))
    disk.chmod(mode)


def images(store: Store) -> list[str]:
    return sorted(path.name for path in store.images.iterdir())


class TestFlat:
    def test_it_is_the_same_disk_in_one_file(self, session: Session, store: Store, chain: dict[str, Build]) -> None:
        source = chain["sandbox-bootstrapped"]
        made = as_json(session, flatten, "sandbox-bootstrapped")
        assert (made["id"]["image"], made["parent"]) == ("sandbox-bootstrapped-flat", None)
        assert made["flattened"] == source.id.model_dump()
        file = Path(made["file"])
        info = qemu_img.info(file)
        assert (info.backing_name, info.compression, info.cluster_bytes) == (None, "zstd", 64 * 1024)
        assert compare(store.qcow2(source), file, format="qcow2") == 0
        assert file.stat().st_mode & 0o777 == 0o444
        assert sha256(file) == made["id"]["sha256"]
        assert made["packages_sha256"] == sha256(file.with_suffix(".packages"))
        assert [line.split()[1] for line in made["commands"]] == ["convert", "compare"]
        assert not list(store.work.iterdir())

    def test_a_second_one_is_the_first(self, session: Session, store: Store, chain: dict[str, Build]) -> None:
        first = as_json(session, flatten, "sandbox-bootstrapped")
        assert as_json(session, flatten, "sandbox-bootstrapped") == first
        again = as_json(session, flatten, "sandbox-bootstrapped", "--rebuild")
        assert again["id"]["version"] != first["id"]["version"]
        assert again["key"] == first["key"]

    def test_of_another_build_there_is_another_one(
        self, session: Session, store: Store, chain: dict[str, Build]
    ) -> None:
        first = as_json(session, flatten, "sandbox-bootstrapped")
        newer = add_build(store, "sandbox-bootstrapped", version="20261122.1", parent=chain["sandbox-upgrade"])
        second = as_json(session, flatten, "sandbox-bootstrapped")
        assert second["flattened"] == newer.id.model_dump()
        third = as_json(session, flatten, "sandbox-bootstrapped@20261121.1")
        assert third["flattened"] == first["flattened"]

    def test_it_is_listed_shown_and_packaged_without_a_parent(
        self, session: Session, store: Store, chain: dict[str, Build]
    ) -> None:
        made = as_json(session, flatten, "sandbox-bootstrapped")
        listed = {entry["image"]: entry["parent"] for entry in as_json(session, list_images)}
        assert listed["sandbox-bootstrapped-flat"] == "sandbox-bootstrapped"
        shown = call(session, show, "sandbox-bootstrapped-flat").stdout
        assert "flat form of: sandbox-bootstrapped-20261121.1" in shown
        (packaged,) = as_json(session, package, "sandbox-bootstrapped-flat")
        version = made["id"]["version"]
        names = [Path(packaged[key]).name for key in ("image_rpm", "link_rpm")]
        assert names == [
            f"golden-sandbox-bootstrapped-flat-image-{version}-{version}-1.noarch.rpm",
            f"golden-sandbox-bootstrapped-flat-{version}-1.noarch.rpm",
        ]
        requires = rpm.ask(Path(packaged["image_rpm"]), r"[%{REQUIRENAME}\n]").split()
        assert [name for name in requires if "sandbox" in name] == []
        assert "published 2 new RPMs" in call(session, publish, "sandbox-bootstrapped-flat").stdout

    def test_a_dry_run_prints_and_writes_nothing(self, session: Session, store: Store, chain: dict[str, Build]) -> None:
        before = images(store)
        printed = call(session, flatten, "--dry-run", "sandbox-bootstrapped").stdout
        assert [line.split()[:2] for line in printed.splitlines()] == [["qemu-img", "convert"], ["qemu-img", "compare"]]
        assert images(store) == before

    def test_a_changed_parent_is_refused(self, session: Session, store: Store, chain: dict[str, Build]) -> None:
        flip(store.qcow2(chain["sandbox-base"]), mode=0o444)
        before = images(store)
        with pytest.raises(VerifyError, match=r"'sandbox-base-20261121\.1' was changed after it was built"):
            call(session, flatten, "sandbox-bootstrapped")
        assert images(store) == before

    def test_a_conversion_that_loses_something(
        self, session: Session, store: Store, chain: dict[str, Build], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """qemu-img, but convert changes a byte that the guest sees."""
        lie_in_convert(tmp_path, monkeypatch)
        before = images(store)
        with pytest.raises(
            VerifyError, match=r"does not hold the disk of 'sandbox-bootstrapped-20261121\.1\.qcow2'"
        ) as caught:
            call(session, flatten, "sandbox-bootstrapped")
        details = dict(caught.value.details)
        assert "Content mismatch at offset" in details["output"]
        assert Path(details["kept"].split(":")[0]).is_dir()
        assert images(store) == before

    def test_what_is_flat_already(self, session: Session, chain: dict[str, Build]) -> None:
        call(session, flatten, "sandbox-base")
        with pytest.raises(ConfigError, match="is flat already"):
            call(session, flatten, "sandbox-base-flat")

    def test_clones_prefer_it_only_if_it_is_of_the_same_build(
        self, session: Session, store: Store, chain: dict[str, Build]
    ) -> None:
        def located(version: str | None = None, *, is_flat: bool) -> str:
            source = _locate(session, "sandbox-bootstrapped", version, images=Path(NO_IMAGES), is_flat=is_flat)
            return source.build.stem

        assert located(is_flat=True) == "sandbox-bootstrapped-20261121.1"
        flat = as_json(session, flatten, "sandbox-bootstrapped")["id"]
        stem = f"{flat['image']}-{flat['version']}"
        assert located(is_flat=True) == located("20261121.1", is_flat=True) == stem
        assert located(is_flat=False) == "sandbox-bootstrapped-20261121.1"
        add_build(store, "sandbox-bootstrapped", version="20261122.1", parent=chain["sandbox-upgrade"])
        assert located(is_flat=True) == "sandbox-bootstrapped-20261122.1"
        assert located("20261121.1", is_flat=True) == stem

    def test_the_installed_one_comes_first(
        self, session: Session, store: Store, chain: dict[str, Build], tmp_path: Path
    ) -> None:
        flat = as_json(session, flatten, "sandbox-bootstrapped")
        folder = tmp_path / "installed"
        folder.mkdir()
        for path in store.images.iterdir():
            (folder / path.name).hardlink_to(path)
        for name in ("sandbox-bootstrapped", "sandbox-bootstrapped-flat"):
            (folder / f"{name}.qcow2").symlink_to(next(folder.glob(f"{name}-2*.qcow2")).name)
        source = _locate(session, "sandbox-bootstrapped", None, images=folder, is_flat=True)
        assert (source.origin, source.file) == ("installed", folder / Path(flat["file"]).name)


def test_a_build_makes_the_flat_form_along(open_path: Path, tmp_path: Path, reporter: Reporter) -> None:
    """flat = true, as `golden build` carries it out once the chain is there."""
    store = Store(open_path / "state", "demo")
    chain = add_chain(store, "sandbox-base", "sandbox-upgrade")
    project = make_project(tmp_path)
    flat = project.images["sandbox-upgrade"].flat()
    project = project.model_copy(update={"images": {**project.images, flat.name: flat}})
    host = Host(uri="qemu:///system", accelerator=Accelerator(kind="tcg", reason="test"))
    pipeline = Pipeline(project, store, host=host, reporter=reporter, standing=chain)
    (commands,) = pipeline.dry_run([flat.name], rebuild=[]).values()
    assert [command.title for command in commands] == ["flatten", "compare"]
    with connect() as connection:
        *_, made = pipeline.build([flat.name], rebuild=[], connection=connection)
        assert made.flattened == chain["sandbox-upgrade"].id
        assert pipeline.build([flat.name], rebuild=[], connection=connection)[-1] == made
    assert [build.stem for build in store.builds(flat.name)] == [made.stem]


def lie_in_convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "qemu-img"
    real = subprocess.run(["which", "qemu-img"], capture_output=True, text=True, check=True).stdout.strip()
    program.write_text(
        f"""#!/bin/bash
{real} "$@" || exit
[ "$1" != convert ] && exit
for target in "$@"; do :; done
format=$(echo " $* " | sed 's/.* -O \\([a-z0-9]*\\) .*/\\1/')
qemu-io -f "$format" -c 'write -q -P 7 3M 4k' "$target"
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


class TestExport:
    @pytest.fixture
    def out(self, tmp_path: Path) -> Path:
        folder = tmp_path / "out of 100%x"
        folder.mkdir()
        return folder

    def export(self, session: Session, *words: str | Path) -> Any:
        return as_json(session, export, "sandbox-bootstrapped", "--images", NO_IMAGES, *words)

    @pytest.mark.parametrize("format", ["raw", "qcow2", "vmdk", "vhdx", "vdi"])
    def test_it_holds_what_the_chain_holds(
        self, session: Session, store: Store, chain: dict[str, Build], out: Path, format: str
    ) -> None:
        made = self.export(session, "--format", format, "-o", out)
        file = Path(made["file"])
        assert file == out / f"sandbox-bootstrapped-20261121.1.{format}"
        assert compare(store.qcow2(chain["sandbox-bootstrapped"]), file, format=format) == 0
        info = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", file]))
        assert (info["format"], "backing-filename" in info) == (format, False)
        assert made["sha256"] == sha256(file)
        subprocess.run(["sha256sum", "--check", "--strict", made["checksums"]], cwd=out, check=True)
        assert sorted(path.name for path in out.iterdir()) == [file.name, f"{file.name}.sha256"]

    @pytest.mark.parametrize("compression", ["zstd", "xz", "gzip"])
    def test_around_a_raw_disk(
        self, session: Session, store: Store, chain: dict[str, Build], out: Path, compression: str
    ) -> None:
        made = self.export(session, "--format", "raw", "--compress", compression, "-o", out)
        file = Path(made["file"])
        assert file.suffix == {"zstd": ".zst", "xz": ".xz", "gzip": ".gz"}[compression]
        plain = out / "plain.raw"
        unpack = {
            "zstd": lambda: subprocess.check_output(["zstd", "-dc", file]),
            "xz": lambda: lzma.decompress(file.read_bytes()),
            "gzip": lambda: gzip.decompress(file.read_bytes()),
        }
        plain.write_bytes(unpack[compression]())
        assert compare(store.qcow2(chain["sandbox-bootstrapped"]), plain, format="raw") == 0
        subprocess.run(["sha256sum", "--check", "--strict", made["checksums"]], cwd=out, check=True)

    @pytest.mark.parametrize(("compression", "inside"), [("zstd", "zstd"), ("gzip", "zlib")])
    def test_inside_of_a_qcow2(
        self, session: Session, store: Store, chain: dict[str, Build], out: Path, compression: str, inside: str
    ) -> None:
        plain = self.export(session, "--format", "qcow2", "-o", out / "plain.qcow2")
        made = self.export(session, "--format", "qcow2", "--compress", compression, "-o", out)
        assert qemu_img.info(Path(made["file"])).compression == inside
        assert Path(made["file"]).suffix == ".qcow2"
        assert made["size_bytes"] < plain["size_bytes"]

    def test_an_ova(self, session: Session, store: Store, chain: dict[str, Build], out: Path) -> None:
        made = self.export(session, "--format", "ova", "-o", out)
        stem = "sandbox-bootstrapped-20261121.1"
        with tarfile.open(made["file"], "r:") as archive:
            members = archive.getmembers()
            archive.extractall(out / "x", filter="data")
        assert [member.name for member in members] == [f"{stem}.ovf", f"{stem}.mf", f"{stem}.vmdk"]
        assert {(m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, "", 0o644)}
        disk = out / "x" / f"{stem}.vmdk"
        for line in (out / "x" / f"{stem}.mf").read_text().splitlines():
            name, digest = line.removeprefix("SHA256(").split(")= ")
            assert hashlib.sha256((out / "x" / name).read_bytes()).hexdigest() == digest
        info = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", disk]))
        assert info["format-specific"]["data"]["create-type"] == "streamOptimized"
        assert compare(store.qcow2(chain["sandbox-bootstrapped"]), disk, format="vmdk") == 0
        (file,) = ET.parse(out / "x" / f"{stem}.ovf").iter("{http://schemas.dmtf.org/ovf/envelope/1}File")
        assert file.attrib["{http://schemas.dmtf.org/ovf/envelope/1}size"] == str(disk.stat().st_size)

    def test_a_file_is_replaced_only_by_force(self, session: Session, chain: dict[str, Build], out: Path) -> None:
        target = out / "disk.raw"
        target.write_text("mine")
        with pytest.raises(ConfigError, match=r"disk\.raw is there already") as caught:
            self.export(session, "--format", "raw", "-o", target)
        assert caught.value.try_next == "--force, to replace it"
        assert target.read_text() == "mine"
        assert self.export(session, "--format", "raw", "-o", target, "--force")["sha256"] == sha256(target)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--format", "ova", "--compress", "xz"], "an OVA holds a compressed disk already"),
            (["--format", "qcow2", "--compress", "xz"], "a qcow2 is compressed inside, by zstd or gzip"),
            (["--format", "raw", "-o", "/no/where/disk.raw"], "there is no folder /no/where"),
            (["--format", "raw", "-o", "a\nb"], "cannot be written into a list of checksums"),
        ],
    )
    def test_what_makes_no_sense(
        self, session: Session, chain: dict[str, Build], words: list[str], message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message):
            self.export(session, *words)

    def test_a_dry_run_writes_nothing(self, session: Session, chain: dict[str, Build], out: Path) -> None:
        found = self.export(session, "--format", "raw", "--compress", "xz", "-o", out, "--dry-run")
        assert found["file"] == str(out / "sandbox-bootstrapped-20261121.1.raw.xz")
        assert [line.split()[0] for line in found["commands"]] == ["qemu-img", "qemu-img", "xz"]
        assert list(out.iterdir()) == []

    def test_a_conversion_that_loses_something(
        self, session: Session, chain: dict[str, Build], out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lie_in_convert(tmp_path, monkeypatch)
        with pytest.raises(VerifyError, match="does not hold the disk of"):
            self.export(session, "--format", "raw", "-o", out)
        assert list(out.iterdir()) == []

    def test_a_packer_that_fails(
        self, session: Session, chain: dict[str, Build], out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "xz").write_text("#!/bin/sh\necho no memory\nexit 1\n")
        (folder / "xz").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        with pytest.raises(
            ToolError, match=r"could not compress 'sandbox-bootstrapped-20261121\.1\.raw' with xz"
        ) as caught:
            self.export(session, "--format", "raw", "--compress", "xz", "-o", out)
        assert dict(caught.value.details)["output"] == "no memory"
        assert caught.value.log is None  # it went with all the rest
        assert list(out.iterdir()) == []

    def test_too_little_room(
        self, session: Session, store: Store, chain: dict[str, Build], out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("builder.preflight.free_bytes", lambda path: 1024)
        with pytest.raises(HostError, match=r"could not export 'sandbox-bootstrapped-20261121\.1': not enough room"):
            self.export(session, "--format", "raw", "-o", out)

    def test_a_changed_parent_is_refused(
        self, session: Session, store: Store, chain: dict[str, Build], out: Path
    ) -> None:
        flip(store.qcow2(chain["sandbox-base"]), mode=0o444)
        with pytest.raises(VerifyError, match=r"'sandbox-base-20261121\.1' was changed after it was built"):
            self.export(session, "--format", "raw", "-o", out)
        assert list(out.iterdir()) == []

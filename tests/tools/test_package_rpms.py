"""Packaging with the real rpmbuild: what the RPMs require, provide and hold, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.errors import ToolError, VerifyError
from builder.model import Build
from builder.package import Packaged, package, plan
from builder.package.spec import image_id, image_package, render_spec
from builder.progress import Reporter
from builder.run import query
from builder.store import Store, sha256
from builder.tools import rpm
from tests.builds import TREE, add_build, make_build


def lines(answer: str) -> list[str]:
    return sorted(line.strip() for line in answer.splitlines() if not line.startswith("rpmlib("))


def requires(path: Path) -> list[str]:
    return lines(query(["rpm", "-qp", "--requires", path], why="ask for requirements"))


def provides(path: Path) -> list[str]:
    return lines(query(["rpm", "-qp", "--provides", path], why="ask for provisions"))


def by_image(packaged: list[Packaged]) -> dict[str, Packaged]:
    return {found.id.image: found for found in packaged}


def test_requirements_and_provisions_of_all_rpms_follow_the_tree(
    store: Store, chain: dict[str, Build], reporter: Reporter
) -> None:
    packaged = package(store, list(chain.values()), prefix="golden", reporter=reporter, signer=None)
    assert [found.id.image for found in packaged] == list(TREE)
    for image, found in by_image(packaged).items():
        own = image_package(found.id, prefix="golden")
        assert provides(found.image_rpm) == [image_id(found.id, prefix="golden"), f"{own} = 20261121.1-1"]
        assert provides(found.link_rpm) == [f"golden-{image} = 20261121.1-1"]
        assert requires(found.link_rpm) == [f"{own} = 20261121.1-1"]
        parent = chain[image].parent
        expected = [] if parent is None else [
            image_id(parent, prefix="golden"),
            f"{image_package(parent, prefix='golden')} = {parent.version}-1",
        ]  # fmt: skip
        assert requires(found.image_rpm) == expected
        assert (parent and parent.image) == TREE[image]


def test_versions_that_a_build_found_are_provided(store: Store, reporter: Reporter) -> None:
    build = add_build(store, "sandbox-base").model_copy(update={"software": {"raku": "2022.12", "sparrow6": "0.0.94"}})
    (found,) = package(store, [build], prefix="golden", reporter=reporter, signer=None)
    assert {"golden(raku) = 2022.12", "golden(sparrow6) = 0.0.94"} < set(provides(found.image_rpm))


def test_rpms_hold_the_files_of_the_build_and_no_scriptlets(
    store: Store, chain: dict[str, Build], reporter: Reporter
) -> None:
    base = chain["sandbox-base"]
    (found,) = package(store, [base], prefix="golden", reporter=reporter, signer=None)
    modes = r"[%{FILEMODES:perms} %{FILEUSERNAME} %{FILENAMES} %{FILELINKTOS}\n]"
    folders = ["drwxr-xr-x root /usr/share/golden", "drwxr-xr-x root /usr/share/golden/images"]
    stem = "/usr/share/golden/images/sandbox-base-20261121.1"
    suffixes = ("json", "packages", "qcow2", "cdx.json", "intoto.jsonl")
    assert lines(rpm.ask(found.image_rpm, modes)) == sorted(
        folders + [f"-r--r--r-- root {stem}.{suffix}" for suffix in suffixes]
    )
    link = "lrwxrwxrwx root /usr/share/golden/images/sandbox-base.qcow2 sandbox-base-20261121.1.qcow2"
    assert lines(rpm.ask(found.link_rpm, modes)) == sorted([*folders, link])
    for path in (found.image_rpm, found.link_rpm):
        assert query(["rpm", "-qp", "--scripts", "--triggers", "--filetriggers", path], why="ask for scripts") == ""
        assert rpm.ask(path, "%{ARCH} %{PAYLOADCOMPRESSOR} %{PREFIXES}") == "noarch zstd /usr/share/golden"
        assert path.stat().st_mode & 0o777 == 0o444
    digests = rpm.file_digests(found.image_rpm)
    own = {f"{stem}.{path.suffix[1:]}": sha256(path) for path in store.images.glob("sandbox-base-*")}
    assert own.items() <= digests.items()
    beside = found.image_rpm.name.removesuffix(".rpm")
    for suffix in ("cdx.json", "intoto.jsonl"):
        assert digests[f"{stem}.{suffix}"] == sha256(store.rpms / f"{beside}.{suffix}")
    assert digests[f"{stem}.json"] == sha256(store.rpms / f"{beside}.build.json")


def test_packaging_leaves_the_store_as_it_was(store: Store, chain: dict[str, Build], reporter: Reporter) -> None:
    before = {path: (path.stat(), sha256(path)) for path in store.images.iterdir()}
    package(store, [chain["sandbox-bootstrapped"]], prefix="golden", reporter=reporter, signer=None)
    for path, (status, digest) in before.items():
        after = path.stat()
        assert (after.st_mode, after.st_mtime_ns, after.st_nlink) == (status.st_mode, status.st_mtime_ns, 1), path
        assert sha256(path) == digest
    assert not list((store.rpms / ".work").iterdir())


def test_an_image_is_linked_not_copied(store: Store, chain: dict[str, Build], reporter: Reporter) -> None:
    package(store, [chain["sandbox-base"]], prefix="golden", reporter=reporter, signer=None)
    log = (store.logs / "sandbox-base-20261121.1/package.log").read_text()
    assert "+ ln sandbox-base-20261121.1.qcow2 " in log
    assert "+ cp --reflink" not in log


def test_packaging_again_makes_nothing_new_and_the_same_bytes_if_it_must(
    store: Store, chain: dict[str, Build], reporter: Reporter
) -> None:
    base = chain["sandbox-base"]
    (first,) = package(store, [base], prefix="golden", reporter=reporter, signer=None)
    digests = {path: sha256(path) for path in (first.image_rpm, first.link_rpm)}
    inode = first.image_rpm.stat().st_ino
    (left := store.rpms / ".work" / base.stem / "written").mkdir(parents=True)  # as by one that was killed then
    (second,) = package(store, [base], prefix="golden", reporter=reporter, signer=None)
    assert (first.is_new, second.is_new) == (True, False)
    assert not left.parent.exists()
    assert second.image_rpm.stat().st_ino == inode
    first.image_rpm.unlink()
    (third,) = package(store, [base], prefix="golden", reporter=reporter, signer=None)
    assert third.is_new
    assert {path: sha256(path) for path in digests} == digests


@pytest.mark.parametrize("image", ["sandbox-base", "sandbox-upgrade", "sandbox-bootstrapped"])
def test_one_flipped_byte_anywhere_in_the_chain_is_refused(
    store: Store, chain: dict[str, Build], reporter: Reporter, image: str
) -> None:
    disk = store.qcow2(chain[image])
    disk.chmod(0o644)
    with disk.open("r+b") as stream:
        stream.seek(disk.stat().st_size // 2)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 1]))
    with pytest.raises(VerifyError, match=f"'{image}-20261121.1' was changed after it was built") as refused:
        package(store, [chain["sandbox-bootstrapped"]], prefix="golden", reporter=reporter, signer=None)
    assert ("file", str(disk)) in refused.value.details
    assert not list(store.rpms.glob("*.rpm"))


def test_a_package_with_other_bytes_than_the_build_is_refused(
    store: Store, chain: dict[str, Build], reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest in the finished RPM is compared, so a change between the check and rpmbuild does not slip through."""
    build = chain["sandbox-base"].model_copy(
        update={"id": chain["sandbox-base"].id.model_copy(update={"sha256": "0" * 64})}
    )
    monkeypatch.setattr("builder.package.verify_digest", lambda *_, **__: None)
    with pytest.raises(VerifyError, match=r"the package of 'sandbox-base-20261121\.1' does not hold the image"):
        package(store, [build], prefix="golden", reporter=reporter, signer=None)
    assert not list(store.rpms.glob("*.rpm"))


def test_a_build_without_its_package_list_is_damaged(store: Store, chain: dict[str, Build], reporter: Reporter) -> None:
    store.package_list(chain["sandbox-base"]).unlink()
    with pytest.raises(VerifyError, match=r"the package list of 'sandbox-base-20261121\.1' is gone"):
        package(store, [chain["sandbox-base"]], prefix="golden", reporter=reporter, signer=None)


def test_a_failing_rpmbuild_keeps_its_folder_and_leaves_no_rpm(
    store: Store, chain: dict[str, Build], reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builder.package.render_spec", lambda *_, **__: "Name: sandbox-base\n")
    with pytest.raises(ToolError, match=r"could not package 'sandbox-base-20261121\.1'") as failed:
        package(store, [chain["sandbox-base"]], prefix="golden", reporter=reporter, signer=None)
    assert "Version field must be present" in dict(failed.value.details)["output"]
    assert not list(store.rpms.glob("*.rpm"))
    assert (store.rpms / ".work/sandbox-base-20261121.1/sandbox-base-20261121.1.spec").exists()


def test_a_failing_rpmbuild_leaves_no_script_behind(
    store: Store, chain: dict[str, Build], reporter: Reporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*words: Any, **settings: Any) -> str:
        return render_spec(*words, **settings).replace("%install\n", "%install\nexit 7\n", 1)

    monkeypatch.setattr("builder.package.render_spec", failing)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "aside"))
    (tmp_path / "aside").mkdir()
    with pytest.raises(ToolError) as failed:
        package(store, [chain["sandbox-base"]], prefix="golden", reporter=reporter, signer=None)
    assert f"Bad exit status from {tmp_path / 'aside'}/" in dict(failed.value.details)["output"]
    assert list((tmp_path / "aside").iterdir()) == []


def test_the_printed_commands_pack_the_same_image(store: Store, chain: dict[str, Build], reporter: Reporter) -> None:
    base = chain["sandbox-base"]
    (job,) = plan(store, [base], prefix="golden", signer=None)
    assert not store.rpms.exists()
    query(["sh", "-ec", job.commands()], why="paste the commands")
    by_hand = rpm.file_digests(job.topdir / "RPMS" / job.image_rpm.name)
    (found,) = package(store, [base], prefix="golden", reporter=reporter, signer=None)
    by_golden = rpm.file_digests(found.image_rpm)
    assert by_hand and by_hand.items() <= by_golden.items()
    assert {path.partition(".1.")[2] for path in by_golden.keys() - by_hand.keys()} == {"cdx.json", "intoto.jsonl"}


@pytest.mark.parametrize(
    "text",
    [
        "%(touch {aside})",
        "%{{nil}} %{{expand:%(touch {aside})}} %{{lua:io.open('{aside}','w')}}",
        "one\n%description\ntwo",
        "one\n%files\n/etc/passwd",
        "%if 0\nhidden\n%endif",
        "# %(touch {aside})\n#plain",
        "ends with a backslash \\",
        "50 %% of 100 %, %1 %* %# %[1+1] ${{HOME}} $(touch {aside}) `touch {aside}`",
        "\n\n  indented\n\n\nfar\n",
        "%include /etc/passwd\n%global name evil\n%undefine version",
    ],
)
def test_hostile_descriptions_reach_the_rpm_as_text(
    tmp_path: Path, store: Store, reporter: Reporter, text: str
) -> None:
    aside = tmp_path / "aside"
    description = text.format(aside=aside)
    build = add_build(store, "sandbox-base", description=description)
    (found,) = package(store, [build], prefix="golden", reporter=reporter, signer=None)
    for path in (found.image_rpm, found.link_rpm):
        assert rpm.ask(path, "%{DESCRIPTION}").startswith(f"{rpm.plain(description)}\n\n")
    assert not aside.exists()


HOSTILE = st.text(st.sampled_from("%%%{}()[]#\\\n \tabif\x1bé")) | st.sampled_from(
    ["%if 1", "%else", "%endif", "%files", "%prep", "%description", "%changelog", "%dnl x", "%define x \\"]
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(HOSTILE, max_size=4).map("\n".join))
def test_rpm_reads_any_description_back(tmp_path_factory: pytest.TempPathFactory, description: str) -> None:
    spec = tmp_path_factory.mktemp("spec") / "image.spec"
    spec.write_text(render_spec(make_build("sandbox-base", description=description), prefix="golden"))
    read = query(["rpmspec", "-q", "--qf", "%{DESCRIPTION}\a", spec], why="read the spec").split("\a")[:-1]
    assert len(read) == 2
    kept = rpm.plain(description)
    for text in read:
        assert text.startswith(f"{kept}\n\n" if kept else ("This package", "Version "))

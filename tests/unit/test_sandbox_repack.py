"""Staged folders and the specs made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.errors import VerifyError
from builder.sandbox import repack, stage
from builder.sandbox.definition import Package
from builder.sandbox.repack import Version


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/usr/bin/[", '"/usr/bin/?"'),
        ("/usr/lib/system-systemd\\x2dfsck.slice", '"/usr/lib/system-systemd\\x2dfsck.slice"'),
        ("/usr/share/a b", '"/usr/share/a b"'),
        ("/usr/share/100%", '"/usr/share/100%%"'),
    ],
)
def test_names_that_rpm_would_read_otherwise_are_escaped(name: str, expected: str) -> None:
    assert repack.escape(name) == expected


def test_the_spec_carries_names_requirements_and_no_scriptlet(tmp_path: Path) -> None:
    package = Package("coreutils", "Small tools", debian=("coreutils", "grep"), provides=("grep",))
    text = repack.spec(
        package, Version("9.1", "1"), requires=["system-libs", "glibc"], file_list=tmp_path / "files", staged=tmp_path
    )
    lines = text.splitlines()
    assert "Name: coreutils" in lines
    assert "Provides: grep = 9.1-1" in lines
    assert "Provides: debian(grep)" in lines
    assert [line for line in lines if line.startswith("Requires:")] == ["Requires: glibc", "Requires: system-libs"]
    assert not {"%pre", "%post", "%preun", "%postun"} & set(lines)


def test_the_file_list_leaves_shared_folders_to_their_owner(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/ls").write_text("")
    (tmp_path / "usr/lib/own").mkdir(parents=True)
    listed = repack.file_list(
        tmp_path, attributes=[("/usr/bin/ls", "4755 root mail")], shared=frozenset({"/usr", "/usr/bin", "/usr/lib"})
    )
    assert listed.splitlines() == ['%attr(4755,root,mail) "/usr/bin/ls"', '%attr(-,-,-) %dir "/usr/lib/own"']


def test_attributes_of_a_file_that_is_not_there_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(VerifyError, match="no such file in the package, but attributes for it: /etc/shadow"):
        repack.file_list(tmp_path, attributes=[("/etc/shadow", "0000 root root")], shared=frozenset())


def test_folders_are_merged_into_usr(tmp_path: Path) -> None:
    for name in ("bin/sh", "usr/bin/env", "lib/udev/rules.d/1.rules", "usr/lib/udev/rules.d/2.rules"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    stage.merge_usr(tmp_path)
    files = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert files == {"usr/bin/sh", "usr/bin/env", "usr/lib/udev/rules.d/1.rules", "usr/lib/udev/rules.d/2.rules"}
    assert not (tmp_path / "bin").exists()


def test_thinning_removes_what_it_emptied_and_no_more(tmp_path: Path) -> None:
    for name in ("usr/share/doc/a/copyright", "usr/share/man/man1/a.1", "usr/bin/a"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "var/log").mkdir(parents=True)
    stage.thin(tmp_path, ["usr/share/doc/*", "usr/share/man/*"])
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")}
    assert left == {"usr", "usr/bin", "usr/bin/a", "var", "var/log"}


def test_an_overlay_brings_links_and_scripts_and_spares_other_trees(tmp_path: Path) -> None:
    overlay, root, other = tmp_path / "overlay", tmp_path / "root", tmp_path / "other"
    for folder in (overlay / "etc", root / "etc", other):
        folder.mkdir(parents=True)
    (other / "conf").write_text("theirs")
    (root / "etc/conf").hardlink_to(other / "conf")
    (overlay / "etc/conf").write_text("ours")
    (overlay / "etc/run").write_text("#!/bin/sh\n")
    (overlay / "etc/mtab.link").write_text("../proc/self/mounts\n")
    stage.add_overlay(overlay, root)
    assert (root / "etc/conf").read_text() == "ours"
    assert (other / "conf").read_text() == "theirs"
    assert (root / "etc/mtab").readlink() == Path("../proc/self/mounts")
    assert (root / "etc/run").stat().st_mode & 0o777 == 0o755


def test_more_than_one_kernel_is_an_error(tmp_path: Path) -> None:
    for release in ("6.1", "6.2"):
        (tmp_path / "usr/lib/modules" / release).mkdir(parents=True)
    with pytest.raises(VerifyError, match="one kernel was expected"):
        stage.kernel_release(tmp_path)

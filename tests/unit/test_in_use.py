"""Which files running machines stand on, by what QEMU was started with."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from builder.clones import in_use


def process(proc: Path, pid: int, *words: str) -> None:
    (proc / str(pid)).mkdir(parents=True)
    (proc / str(pid) / "cmdline").write_text("\0".join(words) + "\0")


def test_files_of_qemus_by_the_machines_name(tmp_path: Path) -> None:
    disk, base = '{"driver":"file","filename":"/s/disk.qcow2"}', '{"driver":"file","filename":"/s/base.qcow2"}'
    nbd = '{"driver":"nbd","server":{"type":"unix"}}'
    start = ("qemu-system-x86_64", "-name", "guest=golden-web1,debug-threads=on")
    process(tmp_path, 1, *start, "-blockdev", disk, "-blockdev", base, "-blockdev", nbd, "-blockdev", "[", "-S")
    process(tmp_path, 2, "sshd", "-name", "x", "-blockdev", disk)
    process(tmp_path, 3, "cat")
    (tmp_path / "4").mkdir()
    (tmp_path / "4/cmdline").symlink_to("gone")
    assert in_use.machines(proc=tmp_path) == {"golden-web1": [Path("/s/disk.qcow2"), Path("/s/base.qcow2")]}


def test_a_link_is_the_same_file_and_another_is_not(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    (tmp_path / "c").hardlink_to(tmp_path / "a")
    assert in_use.is_same(tmp_path / "a", tmp_path / "c")
    assert not in_use.is_same(tmp_path / "a", tmp_path / "b")
    assert not in_use.is_same(tmp_path / "a", tmp_path / "none")


def test_what_may_not_be_looked_at_goes_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: Path, _other: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "samefile", refuse)
    assert in_use.is_same(Path("/images/base-1.qcow2"), Path("/home/x/.bases/1/base-1.qcow2"))
    assert not in_use.is_same(Path("/images/base-1.qcow2"), Path("/home/x/.bases/1/base-2.qcow2"))

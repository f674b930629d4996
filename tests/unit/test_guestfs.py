"""What comes back from a guest that is not trusted."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from builder import seal
from builder.errors import VerifyError
from builder.tools import guestfs


def output_disk(path: Path, files: dict[str, bytes]) -> Path:
    guestfs.make_output_disk(path)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with path.open("r+b") as stream:
        stream.write(data.getvalue())
    return path


def test_files_come_back_by_name(tmp_path: Path) -> None:
    disk = output_disk(tmp_path / "o", {"./packages": b"a-1-1.noarch\n", "./release": b"image=x\n"})
    assert guestfs.read_output_disk(disk) == {"packages": b"a-1-1.noarch\n", "release": b"image=x\n"}


def test_a_name_that_leads_elsewhere_is_only_a_name(tmp_path: Path) -> None:
    disk = output_disk(tmp_path / "o", {"../../escaped": b"x", "/etc/escaped": b"y"})
    assert set(guestfs.read_output_disk(disk)) == {"../../escaped", "/etc/escaped"}
    assert [path.name for path in tmp_path.iterdir()] == ["o"]


def test_a_guest_that_left_nothing(tmp_path: Path) -> None:
    guestfs.make_output_disk(tmp_path / "o")
    with pytest.raises(VerifyError, match="the guest left nothing readable on its output disk"):
        guestfs.read_output_disk(tmp_path / "o")


def test_a_guest_that_left_garbage(tmp_path: Path) -> None:
    (tmp_path / "o").write_bytes(b"\xff" * 10_000)
    with pytest.raises(VerifyError, match="the guest left nothing readable"):
        guestfs.read_output_disk(tmp_path / "o")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "o"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("packages")
        member.type = tarfile.SYMTYPE
        member.linkname = "/etc/passwd"
        archive.addfile(member)
    assert guestfs.read_output_disk(path) == {}


def test_packages_are_sorted_and_a_guest_without_any_was_not_installed(tmp_path: Path) -> None:
    report = seal.read_report(output_disk(tmp_path / "o", {"./packages": b"b-1-1.noarch\na-1-1.noarch\n"}))
    assert report.packages == ("a-1-1.noarch", "b-1-1.noarch")
    with pytest.raises(VerifyError, match="the guest has no package installed"):
        seal.read_report(output_disk(tmp_path / "p", {"./packages": b""}))


def test_what_steps_printed_is_a_log_for_each(tmp_path: Path) -> None:
    log = (
        b"Setting a random seed\n== golden runs cache-begin\n== golden runs 1-install\nComplete!\n\xff\n"
        b"a line == golden runs not a heading\n== golden runs 2-run\n\n== golden runs ../x\nevil\n"
    )
    seal.keep_output(output_disk(tmp_path / "o", {"./log": log}), tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.glob("*.log")} == {
        "1-install.log": "Complete!\n�\na line == golden runs not a heading\n",
        "2-run.log": "\n== golden runs ../x\nevil\n",
    }


def test_a_phase_in_which_nothing_was_printed_leaves_no_log(tmp_path: Path) -> None:
    seal.keep_output(output_disk(tmp_path / "o", {"./packages": b"a\n"}), tmp_path)
    assert list(tmp_path.glob("*.log")) == []

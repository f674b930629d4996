"""`golden doctor` on machines that lack things."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from builder import cli
from builder.preflight import doctor, kvm
from builder.preflight.doctor import Finding
from builder.progress import Reporter
from tests.fake.conftest import Fake


def examine(state: Path) -> dict[str, Finding]:
    return {finding.check: finding for finding in doctor.examine(state, reporter=Reporter("quiet"))}


@pytest.fixture(autouse=True)
def no_kvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm, "DEVICE", tmp_path / "no-kvm")


@pytest.fixture
def bare(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Nothing on PATH but the fakes."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("GOLDEN_LIBVIRT_URI", f"qemu+unix:///system?socket={tmp_path}/no-socket")
    return fake


def test_what_golden_cannot_do_without_fails_and_the_rest_is_a_warning(bare: Fake, tmp_path: Path) -> None:
    found = examine(tmp_path)
    assert (found["qemu-img"].state, found["mksquashfs"].state) == ("fail", "warn")
    assert found["qemu-img"].found == "missing; needed for: every image"
    assert "install" in found["qemu-img"].remedy
    assert found["qemu"].found == "there is no QEMU on this machine"


def test_a_version_is_taken_from_where_the_program_says_it(bare: Fake, tmp_path: Path) -> None:
    bare("qemu-img", "echo; echo 'qemu-img version 7.2.22'")
    bare("ssh", "echo 'OpenSSH_9.2p1' >&2")
    bare("mksquashfs", "echo 'mksquashfs version 4.5'; exit 1")
    bare("rpmbuild", "exit 127")
    found = examine(tmp_path)
    assert found["qemu-img"].found == "qemu-img version 7.2.22"
    assert found["ssh"].found == "OpenSSH_9.2p1"
    assert found["mksquashfs"].found == "mksquashfs version 4.5"
    assert (found["rpmbuild"].state, found["rpmbuild"].found) == ("ok", "present")


def test_a_libvirt_that_does_not_answer_fails_with_what_to_type(bare: Fake, tmp_path: Path) -> None:
    bare("libvirtd", "")
    finding = examine(tmp_path)["libvirt"]
    assert finding.state == "fail"
    assert finding.found.startswith(f"libvirt is not reachable at qemu+unix:///system?socket={tmp_path}/no-socket (")
    assert finding.remedy in ("systemctl start libvirtd", "virtlogd -d && libvirtd -d")


def test_little_room_and_memory_are_said(bare: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_DISK_LEAST_BYTES", 1 << 60)
    monkeypatch.setattr(doctor, "_MEMORY_GOOD_BYTES", 1 << 60)
    found = examine(tmp_path)
    assert (found["disk"].state, found["memory"].state) == ("fail", "warn")
    assert found["memory"].remedy == "have 1048576.0 TiB or more"


def test_the_command_ends_with_3_and_names_what_is_missing(
    bare: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["golden", "--state", str(tmp_path), "--progress", "quiet", "doctor", "--json"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 3
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["usable"] is False
    assert err.startswith("golden: error: this machine lacks what golden needs: qemu-img, virt-install")
    assert [f["check"] for f in report["findings"]][-4:] == ["disk", "memory", "qemu", "every byte"]

"""What preflight refuses before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import preflight
from builder.errors import HostError
from builder.preflight import closed_directory, doctor, kvm
from builder.preflight.kvm import Accelerator


def test_all_missing_programs_are_named_at_once() -> None:
    with pytest.raises(HostError, match="could not build 'a': this machine lacks no-such-1, no-such-2") as caught:
        preflight.require(["sh", "no-such-1", "no-such-2"], "build 'a'")
    assert "install no-such-1 && " in (caught.value.try_next or "")


def test_what_is_there_is_not_complained_about() -> None:
    preflight.require(["sh"], "build 'a'")
    preflight.need_disk(Path("/"), 1, "build 'a'")


def test_too_little_room_is_refused_for_a_place_that_does_not_exist_yet(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="could not build 'a': not enough room on the disk") as caught:
        preflight.need_disk(tmp_path / "not" / "there", 1 << 60, "build 'a'")
    assert ("needed", "1048576.0 TiB") in caught.value.details
    assert caught.value.try_next == f"df -h {tmp_path}"


def test_without_kvm_limits_are_longer_and_the_user_is_told_why() -> None:
    slow = Accelerator(kind="tcg", reason="there is no /dev/kvm")
    assert slow.note == "no usable KVM (there is no /dev/kvm): running under TCG, time limits ×5"
    assert slow.time_factor == 5
    fast = Accelerator(kind="kvm", reason="a kernel booted in 0.8 s")
    assert (fast.note, fast.time_factor) == (None, 1)


def test_kvm_is_for_guests_of_the_hosts_own_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm.platform, "machine", lambda: "x86_64")
    fast = Accelerator(kind="kvm", reason="a kernel booted in 0.8 s")
    assert (fast.kind_for("x86_64"), fast.kind_for("aarch64")) == ("kvm", "tcg")
    assert Accelerator(kind="tcg", reason="").kind_for("x86_64") == "tcg"


def test_an_image_of_another_architecture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.platform, "machine", lambda: "x86_64")
    preflight.need_architecture("x86_64", "rocky9-base")
    with pytest.raises(HostError, match="it is an image for aarch64, and this machine is x86_64") as caught:
        preflight.need_architecture("aarch64", "rocky9-arm-base")
    assert (caught.value.try_next or "").startswith("golden build --dry-run rocky9-arm-base")


@pytest.mark.parametrize(
    ("mode", "is_closed"), [(0o700, True), (0o750, True), (0o744, True), (0o711, False), (0o755, False)]
)
def test_the_directory_that_shuts_qemu_out_is_named(open_path: Path, mode: int, is_closed: bool) -> None:
    shut = open_path / "shut"
    (shut / "state").mkdir(parents=True)
    shut.chmod(mode)
    found = closed_directory(shut / "state" / "later", user=64055, group=64055)
    assert found == (shut if is_closed else None)


def test_owner_and_group_have_their_own_bits(open_path: Path) -> None:
    shut = open_path / "shut"
    shut.mkdir(mode=0o700)
    status = shut.stat()
    assert closed_directory(shut, user=status.st_uid, group=64055) is None
    shut.chmod(0o710)
    assert closed_directory(shut, user=64055, group=status.st_gid) is None


@pytest.mark.parametrize(
    ("mode", "may"), [(0o600, False), (0o640, False), (0o660, True), (0o666, True), (0o006, False)]
)
def test_who_may_open_kvm_follows_from_its_mode(tmp_path: Path, mode: int, may: bool) -> None:
    path = tmp_path / "kvm"
    path.touch()
    path.chmod(mode)
    own = path.stat()
    assert doctor._may_open(path, user=own.st_uid + 12345, group=own.st_gid) is may

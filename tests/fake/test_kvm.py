"""Proving KVM, with QEMUs and kernels that fail in every way seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.errors import HostError
from builder.preflight import kvm
from builder.preflight.kvm import Accelerator
from builder.progress import Reporter
from tests.fake.conftest import Fake, Family

PANIC = "[ 0.9] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)"


class Host:
    """A host with a /dev/kvm, a kernel, and a QEMU that does what it is told to."""

    def __init__(self, folder: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state, self._boots, self._fake = folder / "state", folder / "boots", fake
        self.device, self.boot = folder / "kvm", folder / "boot"
        self.modules = folder / "modules"
        self.device.touch()
        self.boot.mkdir()
        (self.boot / "vmlinuz-6.1").touch()
        monkeypatch.setattr(kvm, "DEVICE", self.device)
        monkeypatch.setattr(kvm, "_BOOT", self.boot)
        monkeypatch.setattr(kvm, "_MODULES", self.modules)

    def has_qemu(self, body: str, *, version: str = "7.2") -> None:
        """body: what it does when it boots; $console is where its serial console goes."""
        self._fake(
            "qemu-system-x86_64",
            f"""[ "$1" = --version ] && {{ echo "QEMU emulator version {version}"; exit; }}
            for word; do case $word in file:*) console=${{word#file:}} ;; esac; done
            echo "$@" >> {self._boots}
            {body}""",
        )

    def accelerator(self, *, is_renewed: bool = False) -> Accelerator:
        return kvm.accelerator(self.state, reporter=Reporter("quiet"), is_renewed=is_renewed)

    @property
    def boots(self) -> list[str]:
        return self._boots.read_text().splitlines() if self._boots.exists() else []


@pytest.fixture
def host(tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, fake, monkeypatch)


def test_a_kernel_that_gets_as_far_as_its_panic_proves_kvm(host: Host) -> None:
    host.has_qemu(f"echo '{PANIC}' > $console")
    found = host.accelerator()
    assert found.kind == "kvm"
    assert found.reason.startswith("a kernel booted in ")
    assert f"-accel kvm -cpu host -machine q35 -m 512 -kernel {host.boot}/vmlinuz-6.1" in host.boots[0]


def test_a_kernel_that_hangs_proves_nothing_and_qemu_is_ended(
    host: Host, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kvm, "_PROOF_TIMEOUT_S", 0.5)
    host.has_qemu(f"{family.join}; echo 'Probing EDD (edd=off to disable)...' > $console; sleep 60")
    found = host.accelerator()
    assert found.kind == "tcg"
    assert found.reason == "a kernel did not boot with it: ended by golden: still running after 0 s"
    assert found.detail == "Probing EDD (edd=off to disable)..."
    assert family.has_ended()


@pytest.mark.parametrize(
    ("body", "reason", "detail"),
    [
        ("echo 'Could not access KVM kernel module' >&2; exit 1", "exit 1", "Could not access KVM kernel module"),
        ("echo 'Assertion failed' >&2; kill -ABRT $$", "killed by SIGABRT", "Assertion failed"),
    ],
)
def test_a_qemu_that_fails_says_why(host: Host, body: str, reason: str, detail: str) -> None:
    host.has_qemu(body)
    found = host.accelerator()
    assert found == Accelerator(kind="tcg", reason=f"a kernel did not boot with it: {reason}", detail=detail)


@pytest.mark.parametrize("body", ["exit 0", "echo 'Linux version 6.1' > $console"])
def test_a_qemu_that_ends_well_without_a_kernel_booting_proves_nothing(host: Host, body: str) -> None:
    host.has_qemu(body)
    assert host.accelerator() == Accelerator(kind="tcg", reason="QEMU ended, but no kernel had booted")


def test_without_the_device_nothing_is_tried(host: Host) -> None:
    host.has_qemu(f"echo '{PANIC}' > $console")
    host.device.unlink()
    assert host.accelerator() == Accelerator(kind="tcg", reason=f"there is no {host.device}")
    assert host.boots == []


def test_without_a_kernel_to_try_it_with_kvm_is_not_believed(host: Host) -> None:
    host.has_qemu(f"echo '{PANIC}' > $console")
    (host.boot / "vmlinuz-6.1").unlink()
    assert host.accelerator().reason.startswith(f"no kernel in {host.boot} or {host.modules} may be read")
    assert host.boots == []


def test_the_answer_is_remembered_until_qemu_changes_or_doctor_asks(host: Host) -> None:
    host.has_qemu(f"echo '{PANIC}' > $console")
    first = host.accelerator()
    assert host.accelerator() == first
    assert len(host.boots) == 1
    host.accelerator(is_renewed=True)
    assert len(host.boots) == 2
    host.has_qemu("exit 1", version="8.0")
    assert host.accelerator().kind == "tcg"
    assert len(host.boots) == 3


def test_a_damaged_memory_is_no_answer(host: Host) -> None:
    host.has_qemu(f"echo '{PANIC}' > $console")
    host.accelerator()
    (host.state / "host" / "accelerator.json").write_text('{"for": {}}')
    assert host.accelerator().kind == "kvm"
    assert len(host.boots) == 2


def test_without_qemu_there_is_nothing_to_ask(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(HostError, match="there is no QEMU on this machine"):
        host.accelerator()

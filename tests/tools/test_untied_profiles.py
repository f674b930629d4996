"""Profiles of network cards, untied by the very lines that the seal runs in a guest."""

from __future__ import annotations

import subprocess
from pathlib import Path

from builder.seal import untie_profiles

OF_CLOUD_INIT = """\
[connection]
id=cloud-init eth0
type=ethernet

[ethernet]
mtu=1500
mac-address=52:54:00:AA:BB:01

[ipv4]
method=auto
"""
BRIDGE = """\
[connection]
type=bridge
interface-name=br0

[bridge]
mac-address=52:54:00:aa:bb:02
"""
OF_HARDWARE = "[ethernet]\nmac-address=3c:fd:fe:00:00:01\n"
IFCFG = 'DEVICE=eth0\nHWADDR="52:54:00:aa:bb:01"\nMACADDR=52:54:00:aa:bb:03\n'


def test_a_profile_for_a_card_of_qemus_is_for_any_card(tmp_path: Path) -> None:
    keyfiles, scripts = tmp_path / "system connections", tmp_path / "network-scripts"
    keyfiles.mkdir()
    scripts.mkdir()
    before = {"Wired connection 1": OF_CLOUD_INIT, "br0": BRIDGE, "hardware": OF_HARDWARE}
    for name, text in before.items():
        (keyfiles / name).write_text(text)
        (keyfiles / name).chmod(0o600)
    (scripts / "ifcfg-eth0").write_text(IFCFG)
    script = untie_profiles([str(keyfiles), str(scripts), str(tmp_path / "missing")])
    subprocess.run(["sh", "-euc", script], check=True)
    after = {path.name: path.read_text() for path in keyfiles.iterdir()}
    assert after == before | {"Wired connection 1": OF_CLOUD_INIT.replace("mac-address=52:54:00:AA:BB:01\n", "")}
    # NetworkManager passes over what others may read.
    assert {path.stat().st_mode & 0o777 for path in keyfiles.iterdir()} == {0o600}
    assert (scripts / "ifcfg-eth0").read_text() == "DEVICE=eth0\nMACADDR=52:54:00:aa:bb:03\n"


def test_a_guest_without_profiles(tmp_path: Path) -> None:
    subprocess.run(["sh", "-euc", untie_profiles([str(tmp_path / "missing")])], check=True)

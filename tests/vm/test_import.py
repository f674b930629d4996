"""A cloud-style image becomes a base: downloaded, grown, prepared, sealed, and it answers."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from tests.mirror import mirror
from tests.vm.conftest import Golden
from tests.vm.test_chain import facts

# What a cloud image lacks of what golden's own have, and what it has that golden takes away.
UNGOLDEN = """
rm -rf /etc/golden-release /etc/sudoers.d/golden /root/.ssh
userdel --remove golden
usermod --password '$6$salt$hash' root
usermod --password '$6$salt$hash' mail
mkdir -p /etc/cloud
"""


# The project's own word on root's password; root of an image without one is locked (test_chain).
HASH = "$6$saltsaltsalt$" + "aB3./" * 17 + "z"


@pytest.fixture
def cloud_image(golden: Golden, open_folder: Path, shared_path: Path) -> Path:
    """The sandbox's base as if others had made it: whole by itself, with a smaller disk than it will get."""
    image, script = shared_path / "cloud.qcow2", shared_path / "ungolden.sh"
    base = Path(str(facts(golden, "sandbox-base")["file"]))
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", "-c", base, image], check=True)
    script.write_text(f"#!/bin/sh\nset -eu\n{UNGOLDEN}")
    environment = golden.environment | {"LIBGUESTFS_BACKEND": "direct", "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}
    subprocess.run(
        ["virt-customize", "--format", "qcow2", "--add", image, "--run", script, "--no-network"],
        env=environment,
        check=True,
    )
    return image


def test_a_cloud_image_becomes_a_base_that_answers_and_has_grown(
    golden: Golden, cloud_image: Path, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = cloud_image.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    # A proxy on this host's loopback: the mirror is excepted, and the guest hears of it under another address.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with mirror() as server:
        project = golden.with_images(
            open_folder,
            f"""
[distribution.cloud]
inherits = "sandbox"
source = {{ qcow2 = "{server.put("cloud.qcow2", data)}", sha256 = "{digest}" }}

[image.cloud-base]
distribution = "cloud"
disk = "6 GiB"
steps = [{{ run = 'echo "$http_proxy $no_proxy" > /etc/proxies-seen' }}]
""",
        )
        # golden.private.toml holds what is not for everybody; it makes no image private that it does not name.
        (open_folder / "golden.private.toml").write_text(f"[project]\nroot_password_hash = '{HASH}'\n")
        printed = project("build", "cloud-base", "--dry-run").stdout
        assert (
            f"curl --fail --location --create-dirs --output {golden.state}/cache/files/{digest}/cloud.qcow2" in printed
        )
        built = project("build", "cloud-base", "--json")
        assert len(server.requests) == 1
    (build,) = built.json
    assert build["inputs"]["image cloud.qcow2"] == digest
    assert build["virtual_bytes"] == 6 * 1024**3
    assert "cloud-base: prepare + run + root-password + seal" in built.stderr
    assert hashlib.sha256(cloud_image.read_bytes()).hexdigest() == digest
    project("clone", "create", "cloud", "--image", "cloud-base")
    try:
        seen = project("clone", "ssh", "cloud", "--", "sh", "-c", LOOK).stdout.splitlines()
    finally:
        project("clone", "destroy", "cloud")
    size, *rest = seen
    assert int(size) > 5.5 * 1024**3
    assert rest == [
        "image=cloud-base",
        "http://169.254.2.2:9 127.0.0.1,169.254.2.2",
        "/etc/cloud/cloud-init.disabled",
        f"root:{HASH}",
        "mail:!$6$salt$hash",
        "golden:!",
        "golden is root",
    ]


LOOK = """
df --output=size -B1 / | tail -n 1
cat /etc/golden-release /etc/proxies-seen
ls /etc/cloud/cloud-init.disabled
awk -F: '$2 != "*" { print $1 ":" $2 }' /etc/shadow
runuser -u golden -- sudo -n sh -c 'echo golden is $(id -un)'
"""

"""A cloud-init NoCloud seed: user-data and meta-data on a disk that is found by its label. Made with xorriso."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from builder import run

# Source: cloud-init's documentation, "NoCloud": a file system of this label, ISO 9660 or vfat, on any block device.
_LABEL = "CIDATA"


def meta_data(*, instance: str, hostname: str) -> str:
    """instance: an id that no other machine has; cloud-init runs once for each. JSON is YAML."""
    return json.dumps({"instance-id": instance, "local-hostname": hostname}, indent=1) + "\n"


def user_data(*, hostname: str, authorized_keys: list[str]) -> str:
    """golden's own: a name, and who may log in as root."""
    content = {
        "hostname": hostname,
        "disable_root": False,
        "ssh_pwauth": False,
        "ssh_deletekeys": True,
        "users": [{"name": "root", "ssh_authorized_keys": authorized_keys}],
    }
    return "#cloud-config\n" + json.dumps(content, indent=1) + "\n"


def argv(folder: Path, target: Path) -> run.Argv:
    return ["xorriso", "-as", "mkisofs", "-quiet", "-V", _LABEL, "-J", "-R", "-o", target, folder]


def create(target: Path, *, user_data: str, meta_data: str) -> None:
    """The seed as an ISO image. Raises HostError without xorriso, ToolError if it fails."""
    with tempfile.TemporaryDirectory(prefix="golden-seed-") as name:
        folder = Path(name)
        (folder / "user-data").write_text(user_data, encoding="utf-8")
        (folder / "meta-data").write_text(meta_data, encoding="utf-8")
        run.query(argv(folder, target), why=f"make the seed {target.name}")

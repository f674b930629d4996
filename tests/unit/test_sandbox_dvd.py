"""What lies on the DVD: .treeinfo, comps, the order of modules in an initrd."""

from __future__ import annotations

import configparser
import hashlib
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from builder.errors import VerifyError
from builder.sandbox import definition, dvd, initrd


def test_treeinfo_names_kernel_and_initrd_where_virt_install_looks(tmp_path: Path) -> None:
    for name in ("images/pxeboot/vmlinuz", "images/pxeboot/initrd.img", "images/install.img", "repodata/repomd.xml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    found = configparser.ConfigParser()
    found.read_string(dvd.treeinfo(tmp_path, release="9.1", timestamp=1))
    # virtinst/install/urldetect.py: `general` gives arch, `images-ARCH` the paths.
    section = f"images-{found['general']['arch']}"
    assert found[section]["kernel"] == "images/pxeboot/vmlinuz"
    assert found[section]["initrd"] == "images/pxeboot/initrd.img"
    assert found["general"]["family"] == "Golden Sandbox"
    digest = hashlib.sha256(b"images/install.img").hexdigest()
    assert found["checksums"]["images/install.img"] == f"sha256:{digest}"


def test_comps_has_the_group_core() -> None:
    recipe = definition.load()
    group = ET.fromstring(dvd.comps(recipe)).find("group")
    assert group is not None
    assert group.findtext("id") == "core"
    assert [row.text for row in group.iter("packagereq")] == list(recipe.core)


def kernel(base: Path) -> Path:
    base.mkdir()
    (base / "modules.dep").write_text(
        "kernel/xfs.ko: kernel/libcrc32c.ko kernel/crc32c_generic.ko\n"
        "kernel/libcrc32c.ko: kernel/crc32c_generic.ko\n"
        "kernel/crc32c_generic.ko:\n"
        "kernel/virtio-rng.ko:\n"
    )
    (base / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    return base


def test_modules_are_loaded_after_what_they_need_and_once(tmp_path: Path) -> None:
    order = initrd.loading_order(["virtio_rng", "xfs", "libcrc32c", "ext4"], kernel(tmp_path / "6.1"))
    assert order == ["kernel/virtio-rng.ko", "kernel/crc32c_generic.ko", "kernel/libcrc32c.ko", "kernel/xfs.ko"]


def test_a_module_that_the_kernel_lacks_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VerifyError, match="has no module zfs"):
        initrd.loading_order(["zfs"], kernel(tmp_path / "6.1"))

"""Kickstart -> layers -> RPMs -> dnf repository -> a clone that answers."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.vm.conftest import ALL, Golden, what_is_left

PARENTS = {
    "sandbox-base": None,
    "sandbox-upgrade": "sandbox-base",
    "sandbox-bootstrapped": "sandbox-upgrade",
    "sandbox-tools-installed": "sandbox-upgrade",
}


def facts(golden: Golden, image: str) -> dict[str, object]:
    found: dict[str, object] = golden("show", image, "--json").json
    return found


def qemu_img(*words: str | Path) -> dict[str, object]:
    answer = subprocess.run(["qemu-img", *words, "--output=json"], check=True, capture_output=True).stdout
    found: dict[str, object] = json.loads(answer)
    return found


def test_the_tree_is_built(golden: Golden) -> None:
    listed = golden("list", "--json").json
    assert [entry["image"] for entry in listed] == ALL
    assert all(len(entry["builds"]) == 1 for entry in listed)


def test_building_leaves_nothing_beside_the_builds(golden: Golden) -> None:
    assert what_is_left(golden) == []


@pytest.mark.parametrize("image", ALL)
def test_an_image_is_what_its_facts_say(golden: Golden, image: str) -> None:
    found = facts(golden, image)
    file = Path(str(found["file"]))
    assert file.stat().st_mode & 0o777 == 0o444
    assert file.stat().st_size == found["size_bytes"]
    with file.open("rb") as stream:
        assert hashlib.file_digest(stream, "sha256").hexdigest() == found["id"]["sha256"]  # type: ignore[index]
    packages = file.with_suffix(".packages").read_text()
    assert hashlib.sha256(packages.encode()).hexdigest() == found["packages_sha256"]
    names = packages.splitlines()
    assert names == sorted(names)
    assert len(names) == found["packages"]
    assert qemu_img("check", file)["check-errors"] == 0


@pytest.mark.parametrize("image", ALL)
def test_an_image_stands_on_its_parent_by_a_relative_name(golden: Golden, image: str) -> None:
    found = facts(golden, image)
    info = qemu_img("info", str(found["file"]))
    parent = PARENTS[image]
    if parent is None:
        assert "backing-filename" not in info
    else:
        assert info["backing-filename"] == Path(str(facts(golden, parent)["file"])).name
        assert info["backing-filename-format"] == "qcow2"
    assert info["format-specific"]["data"]["compression-type"] == "zstd"  # type: ignore[index]


def test_the_upgrade_upgrades_packages(golden: Golden) -> None:
    changes = golden("diff", "sandbox-base", "sandbox-upgrade", "--json").json["changes"]
    assert len(changes) >= 3
    assert {change["kind"] for change in changes} == {"upgraded"}


def test_the_layers_hold_what_they_install(golden: Golden) -> None:
    added = {
        image: {change["name"] for change in golden("diff", "sandbox-upgrade", image, "--json").json["changes"]}
        for image in ("sandbox-bootstrapped", "sandbox-tools-installed")
    }
    assert {"rakudo.x86_64", "raku-zef.x86_64"} <= {
        name.replace(".noarch", ".x86_64") for name in added["sandbox-bootstrapped"]
    }
    assert {"tree.x86_64", "jq.x86_64"} <= added["sandbox-tools-installed"]


def test_a_second_build_starts_nothing(golden: Golden) -> None:
    ended = golden("build", "--json")
    assert [build["id"]["image"] for build in ended.json] == ALL
    for image in ALL:
        assert f"{image}: {facts(golden, image)['id']['version']} stands: nothing changed" in ended.stderr  # type: ignore[index]
    assert not list((golden.store / "work").iterdir())


def test_a_dry_run_writes_commands_and_starts_nothing(golden: Golden) -> None:
    ended = golden("build", "--dry-run", "--rebuild", "sandbox-bootstrapped")
    assert "# sandbox-bootstrapped\n" in ended.stdout
    script = "\n".join(line for line in ended.stdout.splitlines())
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    for word in ("virt-customize", "virsh", "ssh", "qemu-img convert"):
        assert word in ended.stdout
    scripts = golden.store / "dry-run" / "sandbox-bootstrapped" / "steps"
    assert "install rakudo raku-zef" in (scripts / "1-install.sh").read_text()


LOOK_INSIDE = """
echo machine-id; cat /etc/machine-id
echo keys; ls /etc/ssh | grep host_ || true
echo seed; ls /var/lib/systemd/random-seed 2>/dev/null || true
echo caches; find /var/cache/dnf -type f | head
echo logs; find /var/log -type f -size +0 | head
echo passwords; awk -F: '$2 !~ /^[*!]/' /etc/shadow
echo root; awk -F: '$1 == "root" { print substr($2, 1, 1) }' /etc/shadow
echo printed; ls /tmp/builder.log /var/tmp/* 2>/dev/null || true
echo marker; cat /etc/golden-release
echo end
"""


def test_a_sealed_image_holds_nothing_of_its_own(golden: Golden) -> None:
    """Looked at without starting it: a guest that boots makes all of it again."""
    ended = subprocess.run(
        ["guestfish", "--ro", "--format=qcow2", "-a", str(facts(golden, "sandbox-bootstrapped")["file"]), "-i"],
        input=f"sh {json.dumps(LOOK_INSIDE)}\n",
        env=golden.environment | {"LIBGUESTFS_BACKEND": "direct", "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in ended.stdout.splitlines() if line]
    after = ["passwords", "root", "!", "printed", "marker", "image=sandbox-base", "end"]
    assert lines == ["machine-id", "keys", "seed", "caches", "logs", *after]


def test_dnf_installs_the_whole_chain(golden: Golden, installed: Path) -> None:
    images = installed / "usr/share/golden/images"
    expected = [facts(golden, image) for image in ALL[:3]]
    for found in expected:
        file = images / Path(str(found["file"])).name
        assert file.stat().st_mode & 0o777 == 0o444
        with file.open("rb") as stream:
            assert hashlib.file_digest(stream, "sha256").hexdigest() == found["id"]["sha256"]  # type: ignore[index]
        assert file.with_suffix(".packages").exists()
        assert file.with_suffix(".json").exists()
    link = images / "sandbox-bootstrapped.qcow2"
    assert link.readlink() == Path(Path(str(expected[2]["file"])).name)
    assert not list(images.glob("sandbox-tools*"))


def test_a_clone_of_the_installed_image_answers_and_leaves_nothing(golden: Golden, installed: Path) -> None:
    images = installed / "usr/share/golden/images"
    golden("clone", "create", "trial", "--image", "sandbox-bootstrapped", "--images", images)
    try:
        (listed,) = golden("clone", "list", "--json").json
        assert (listed["name"], listed["state"]) == ("trial", "running")
        overlay = golden.state / "clones" / "trial"
        backing = {qemu_img("info", "-U", path)["full-backing-filename"] for path in overlay.glob("*.qcow2")}
        (held,) = (Path(str(name)) for name in backing)
        assert held.name == (images / "sandbox-bootstrapped.qcow2").resolve().name
        assert held.samefile(images / "sandbox-bootstrapped.qcow2")
        answer = golden("clone", "ssh", "trial", "--", "raku", "-e", "say 6 * 7")
        assert answer.stdout == "42\n"
        machine_id = golden("clone", "ssh", "trial", "--", "cat", "/etc/machine-id").stdout
        assert len(machine_id.strip()) == 32
        failed = golden("clone", "ssh", "trial", "--", "systemctl", "--failed", "--plain", "--no-legend").stdout
        assert failed == ""
        golden("clone", "ssh", "trial", "--", "sh", "-c", "exit 7", expect=7)
        assert "Linux version" in golden("clone", "console", "trial", "--log").stdout
    finally:
        golden("clone", "destroy", "trial")
    assert golden("clone", "list", "--json").json == []
    assert not list((golden.state / "clones").glob("trial*"))
    domains = subprocess.run(["virsh", "list", "--all", "--name"], capture_output=True, text=True, check=True).stdout
    assert "golden-trial" not in domains
    verified = subprocess.run(
        ["rpm", f"--root={installed}", "-Va", "golden-*"], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stdout) == (0, "")


def test_one_flipped_byte_in_a_parent_is_refused(golden: Golden, installed: Path) -> None:
    """At packaging, too: tests/tools/test_package_rpms.py. Here the packages are made, from the right bytes."""
    in_store = Path(str(facts(golden, "sandbox-base")["file"]))
    for file in (in_store, installed / "usr/share/golden/images" / in_store.name):
        flip(file)
    try:
        changed = f"'{in_store.stem}' was changed after it was built"
        assert changed in golden("build", "--rebuild", "sandbox-tools-installed", expect=5).stderr
        refused = golden(
            *("clone", "create", "trial", "--image", "sandbox-bootstrapped"),
            *("--images", installed / "usr/share/golden/images"),
            expect=5,
        )
        assert in_store.stem in refused.stderr
        assert golden("clone", "list", "--json").json == []
    finally:
        for file in (in_store, installed / "usr/share/golden/images" / in_store.name):
            flip(file)


def flip(file: Path) -> None:
    """Change one bit in the middle of a file, as a bad disk does; a second time mends it."""
    times = file.stat()
    with file.open("r+b") as stream:
        stream.seek(file.stat().st_size // 2)
        byte = stream.read(1)[0]
        stream.seek(-1, 1)
        stream.write(bytes([byte ^ 1]))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))

"""Every kind of step that a sandbox can show, really done to one guest, and looked at from inside it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.conftest import Golden, what_is_left

DEFINITION = r"""
[image.sandbox-steps]
parent = "sandbox-upgrade"
steps = [
  { copy = { "files" = "/opt/my app" }, mode = "0640" },
  { write = { "/etc/motd" = "it's $HOME\n", "/etc/systemd/system/beacon.service" = '''
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'cat /proc/sys/kernel/random/boot_id >> /var/lib/beacon'
[Install]
WantedBy=multi-user.target
''' } },
  { services = { enable = ["beacon.service"], mask = ["systemd-timesyncd.service"] } },
  { repos = { more = "updates" }, keep = false },
  { install = ["tree", "jq"] },
  { remove = ["jq"] },
  { sshkeys = ["files/other.pub"] },
  { selinux = { mode = "permissive" } },
  { script = "files/set up.sh" },
  { run = ["install -m 0644 '/opt/my app/harness' /root/.ssh/id_test", "echo offline says so"] },
  # What a service prints ends no build; an installer's would have.
  { shell = "echo 'Traceback (most recent call last)' > /dev/console" },
  { shell = ["systemctl start beacon.service", "test $(wc -l < /var/lib/beacon) = 1"] },
  { ansible = "ansible/site.yml", vars = { greeting = "hello" } },
  { reboot = true },
  { shell = ['''
# Waits for it, if it is still under way.
systemctl start beacon.service
test $(wc -l < /var/lib/beacon) = 2
test $(sort -u /var/lib/beacon | wc -l) = 2
test "$(cat /etc/motd)" = "it's \$HOME"
test "$(cat '/opt/my app/a "b" $c')" = text
test "$(stat -c '%a %U' '/opt/my app/a "b" $c')" = "640 root"
test "$(readlink '/opt/my app/link')" = /etc/shadow
test "$(cat /etc/scripted)" = "by python3 in /"
test "$(cat /etc/played)" = "hello with Linux"
rpm -q tree
if rpm -q jq; then exit 1; fi
test "$(systemctl is-enabled systemd-timesyncd.service)" = masked
grep -q 'of somebody else' /root/.ssh/authorized_keys
test -z "$(find /var/cache/dnf -type f)"
test ! -e /etc/yum.repos.d/more.repo
# By the repositories of golden.toml, which are there for the time of the build; there is no other.
dnf -y reinstall tree
test -n "$(find /var/cache/dnf -type f)"
grep -q ' /var/cache/dnf ext4 ' /proc/mounts
'''] },
]
"""

SCRIPT = """\
#!/usr/bin/env python3
import os
open("/etc/scripted", "w").write("by python3 in " + os.getcwd())
"""

PLAYBOOK = """\
- hosts: all
  tasks:
    - ansible.builtin.copy:
        content: "{{ greeting }} with {{ ansible_facts['system'] }}"
        dest: /etc/played
        mode: "0644"
"""


@pytest.fixture(scope="module")
def built(golden: Golden, shared_path: Path) -> Iterator[Golden]:
    folder = shared_path / "steps"
    project = golden.with_images(folder, DEFINITION)
    write_files(folder)
    project("build", "sandbox-steps")
    yield project
    for path in (golden.store / "images").glob("sandbox-steps-*"):
        path.unlink()
    shutil.rmtree(folder)


def write_files(folder: Path) -> None:
    """The project's files that the recipe reads."""
    files = folder / "files"
    files.mkdir()
    (files / 'a "b" $c').write_text("text\n")
    (files / "link").symlink_to("/etc/shadow")
    (files / "set up.sh").write_text(SCRIPT)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "of somebody else", "-f", folder / "other"], check=True
    )
    shutil.move(folder / "other.pub", files / "other.pub")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", files / "harness"], check=True)
    (folder / "ansible").mkdir()
    (folder / "ansible" / "site.yml").write_text(PLAYBOOK)


def test_each_step_did_what_it_says_and_left_nothing(built: Golden) -> None:
    """The last step of the recipe looks at all of it; it failed the build otherwise."""
    assert what_is_left(built) == []
    found = built("show", "sandbox-steps", "--json").json
    logs = built.store / "logs" / f"sandbox-steps-{found['id']['version']}"
    assert "PLAY RECAP" in (logs / "13-ansible.log").read_text()
    # Offline steps print into the guest, whose next boot forgets it; golden has kept it.
    assert (logs / "10-run.log").read_text() == "offline says so\n"
    assert "Complete!" in (logs / "5-install.log").read_text()
    assert "tree" in (logs / "5-install.log").read_text()


def test_a_private_key_in_the_guest_is_seen_and_not_packaged_unless_it_is_named(built: Golden) -> None:
    assert list(built("show", "sandbox-steps", "--json").json["private_keys"]) == ["/root/.ssh/id_test"]
    assert "private key: /root/.ssh/id_test in the guest\n" in built("show", "sandbox-steps").stdout
    refused = built("package", "sandbox-steps", "--dry-run", expect=2)
    assert "private keys are not packaged unless golden.toml names them: sandbox-steps-" in refused.stderr
    assert (
        'in [image.sandbox-steps] of golden.toml: keeps_private_keys = { "/root/.ssh/id_test" = "FILE.pub" }'
        in refused.stderr
    )
    text = built.file.read_text()
    named = 'keeps_private_keys = { "/root/.ssh/id_test" = "files/harness.pub" }\n'
    begin = 'parent = "sandbox-upgrade"\nsteps = [\n  { copy'
    try:
        built.file.write_text(text.replace(begin, named + begin))
        assert "rpmbuild" in built("package", "sandbox-steps", "--dry-run").stdout
    finally:
        built.file.write_text(text)


def test_the_difference_to_the_parent(built: Golden) -> None:
    found = built("diff", "sandbox-steps", "--json").json
    assert found["a"].startswith("sandbox-upgrade-")
    assert {(change["kind"], change["name"]) for change in found["changes"]} >= {("added", "tree.x86_64")}
    assert not any(change["name"].startswith("jq.") for change in found["changes"])


def test_a_changed_file_rebuilds_the_layer_and_is_named(built: Golden) -> None:
    file = built.file.parent / "files" / 'a "b" $c'
    file.write_text("other\n")
    try:
        (*_, planned) = built("plan", "sandbox-steps", "--json").json
        assert (planned["action"], planned["reason"]) == ("rebuild", 'file files/a "b" $c changed')
    finally:
        file.write_text("text\n")


def test_it_boots(built: Golden) -> None:
    """As a clone: another boot, on which what was enabled has run."""
    built("clone", "create", "steps", "--image", "sandbox-steps")
    try:
        assert built("clone", "ssh", "steps", "--", "cat", "/etc/motd").stdout == "it's $HOME\n"
        assert built("clone", "ssh", "steps", "--", "systemctl", "is-active", "beacon.service").stdout == "active\n"
        assert built("clone", "ssh", "steps", "--", "ls", "/etc/distro.repos.d", expect=2).stdout == ""
    finally:
        built("clone", "destroy", "steps")

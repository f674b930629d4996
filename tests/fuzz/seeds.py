"""Good input for each reader: what hostile input is made of."""

from __future__ import annotations

import io
import struct
import tarfile

from builder.tools.domain import LABEL_NAMESPACE
from tests.builds import make_build

_PROJECT = """
[project]
name = "demo"
url = "http://mirror.example/golden"
[signing]
key = "0123456789ABCDEF0123456789ABCDEF01234567"
[publish]
target = "web@mirror.example:/srv/golden"
[retention]
keep = 3
age = "7 d"
composes = 2
[distribution.sandbox]
inherits = "el9"
source = { dvd = "sandbox.iso", sha256 = "0000000000000000000000000000000000000000000000000000000000000000" }
repositories = { updates = "updates" }
[image.sandbox-base]
distribution = "sandbox"
disk = "4 GiB"
[image.sandbox-app]
parent = "sandbox-base"
refresh = "weekly"
description = "100 % of \\"it\\""
steps = [
  { install = ["bash", "nginx"] },
  { run = "echo ok" },
  { shell = ["true"] },
  { copy = { "a" = "/etc/a" } },
]
verify = { commands = ["true"], boot_within = "60 s" }
[matrix]
el = ["sandbox"]
"""
_KICKSTART = """
lang en_US.UTF-8
rootpw --lock
sshkey --username=root "ssh-ed25519 AAAAC3Nza golden"
clearpart --all
autopart --type=plain
bootloader --append="console=ttyS0"
%include more.ks
%ksappend /none
%packages
@core
%end
%post --log=/root/post
echo authorized_keys
%end
poweroff
"""
_TREE = "[general]\nname = x\n[images-x86_64]\nkernel = images/pxeboot/vmlinuz\ninitrd = ../../etc/passwd\n"
_LEASE = """{"format": 1, "name": "web1", "image": {"image": "a-b", "version": "20261121.1", "sha256": "%s"},
"files": ["/x.qcow2"], "uuid": "0", "uri": "qemu:///system", "memory_mib": 512, "cpus": 1, "accelerator": "tcg",
"ssh_port": 1, "key": null, "made": "2026-11-21T00:00:00Z"}""" % ("0" * 64)
_LABEL = f"""<domain><metadata><g:machine xmlns:g="{LABEL_NAMESPACE}" purpose="clone" owner="12" work="/x"/></metadata>
</domain>"""
_REPOMD = "<repomd><revision>1700000000</revision><data><timestamp>1700000000</timestamp></data></repomd>"


_ID = '{"image": "a-b", "version": "20261121.1", "sha256": "%s"}' % ("0" * 64)
_VERDICT = """{"image": "a-b", "version": "20261121.1", "sha256": "%s", "passed": true, "at": "", "seconds": 1,
"boot_s": 2, "accelerator": "tcg", "promises": "", "tests": [{"name": "t", "result": "passed"}]}""" % ("0" * 64)


def _archive() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:", format=tarfile.PAX_FORMAT) as archive:
        for name, text in (("./packages", "bash-5-1.x86_64\n"), ("./log", "== golden: 1-run\nx\n"), ("./ü", "y")):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return data.getvalue()


def _qcow2() -> bytes:
    header = bytearray(112)
    header[:8] = b"QFI\xfb" + struct.pack(">I", 3)
    struct.pack_into(">Q", header, 24, 4 * 1024**2)
    return bytes(header)


_BUNDLE = """{"format": 1, "test": "tests/x", "image": "a-b", "run": 1, "cause": "test", "why": "it broke",
"machines": [{"role": "main", "image": {"image": "a-b", "version": "20261121.1", "sha256": "%s"},
"disk": "disks/main.qcow2", "memory_mib": 64, "cpus": 1, "ssh_port": 22}], "key": null,
"made": "2026-11-21T00:00:00Z"}""" % ("0" * 64)
_DECLARATION = """
scripts = ["a.sh"]
image = "sandbox-base"
memory = "64 MiB"
limits = { boot = "1 h" }
fatal = ["BUG: .*"]
environment = { A = "b" }
[machines.engine]
ports = [80]
"""

SEEDS: dict[str, bytes] = {
    "project": _PROJECT.encode(),
    "treeinfo": _TREE.encode(),
    "users_kickstart": _KICKSTART.encode(),
    "console": b"[    0.1] Linux\r\n\x1b[31mKernel panic - not syncing: VFS\x1b[0m\r\nlogin: ",
    "output_disk": _archive(),
    "package_list": b"bash-5.2-1.x86_64\nless-1:608-2.x86_64\n\fbash-5.2-1.x86_64\nA <a@b> 5-1\n- x\n/root/k\0",
    "facts": make_build("sandbox-base").model_dump_json().encode(),
    "lease": _LEASE.encode(),
    "bundle": _BUNDLE.encode(),
    "tests_declaration": _DECLARATION.encode(),
    "checksum_file": b"%s  a.iso\nSHA256 (a.iso) = %s\n" % (b"0" * 64, b"0" * 64),
    "memory_file": struct.pack("=16s5I56x", b"LibvirtQemudSave", 2, 64, 1, 0, 8)
    + b"<domain/>\0cookie\0".ljust(64, b"\0"),
    "image_header": _qcow2(),
    "label": _LABEL.encode(),
    "repository": _REPOMD.encode(),
    "sizes": b"20 GiB",
    "kickstart_template": b"{% for i in [1, 2] %}# {{ title | upper }} {{ i + 1 }}\n{% endfor %}lang en_US\n",
    "kickstart_part": b"lang en_US\n%packages\n@core\n%end\n%include none\n",
    "names": b"sandbox-base@20261121.1",
    "delivery": b'{"format": 1, "id": %s, "key": "k", "files": {"a.rpm": "00"}}' % _ID.encode(),
    "check": b'{"build": %s, "key": "k", "inputs": {}, "texts": {}, "reason": "", "at": ""}' % _ID.encode(),
    "statements": b'{"payload": "e30=", "payloadType": "application/vnd.in-toto+json", "signatures": []}\n',
    "channel": b"http://mirror.example/golden/candidate/composes/20261121.1\n",
    "verdict": _VERDICT.encode(),
    "snapshot": b'{"name": "a", "has_memory": true, "size_bytes": 1, "made": "", "crc32": {"disk.qcow2": 0}}',
    "ansible_report": b'<testsuites><testsuite><testcase name="[guest] p: t"><skipped/></testcase>'
    b"</testsuite></testsuites>",
    "test_results": b'<testsuites><testsuite name="s"><testcase name="t" time="1">'
    b'<failure message="m"/></testcase></testsuite></testsuites>',
    "agents_answer": b"golden: reachable\ngolden: failed\n",
}

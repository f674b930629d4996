"""The steps of golden.toml: what each may say, and what is said of it when it does not."""

from __future__ import annotations

from typing import Any

import pytest

from builder.config_steps import parse_step
from builder.steps import (
    Ansible,
    Copy,
    Groups,
    Modules,
    Reboot,
    Remove,
    Repos,
    Run,
    Selinux,
    Services,
    SshKeys,
    Step,
    Write,
)

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBmhLf6 somebody"


@pytest.mark.parametrize(
    ("raw", "step"),
    [
        ({"remove": "vim"}, Remove(packages=("vim",))),
        ({"groups": ["core"], "timeout": "2 h"}, Groups(groups=("core",), timeout_s=7200)),
        (
            {"modules": {"enable": ["nodejs:18"], "disable": ["php"]}},
            Modules(enable=("nodejs:18",), disable=("php",)),
        ),
        ({"copy": {"files/app": "/opt/app"}}, Copy(paths={"files/app": "/opt/app"})),
        (
            {"copy": {"./files//app": "/opt//app/"}, "mode": "0640", "owner": "app"},
            Copy(paths={"files/app": "/opt/app/"}, mode=0o640, owner="app:app"),
        ),
        ({"write": {"/etc/motd": "hi\n"}, "owner": "0:0"}, Write(texts={"/etc/motd": "hi\n"}, owner="0:0")),
        ({"script": "scripts/set-up.sh"}, Run(script="scripts/set-up.sh")),
        ({"services": {"enable": "sshd", "mask": ["a@b.service"]}}, Services(enable=("sshd",), mask=("a@b.service",))),
        ({"selinux": {"mode": "permissive"}}, Selinux(mode="permissive")),
        (
            {"selinux": {"booleans": {"httpd_can_network_connect": True}}},
            Selinux(booleans={"httpd_can_network_connect": True}),
        ),
        ({"sshkeys": [KEY, "keys/other.pub"], "user": "app"}, SshKeys(keys=(KEY, "keys/other.pub"), user="app")),
        ({"repos": {"extras": "https://example.org/el9"}}, Repos(urls={"extras": "https://example.org/el9"})),
        ({"repos": {"ours": "rpms"}, "keep": False}, Repos(urls={"ours": "rpms"}, is_kept=False)),
        (
            {"ansible": "ansible/site.yml", "vars": {"port": 80}, "in_groups": ["web"], "roles": "more"},
            Ansible(playbook="ansible/site.yml", variables={"port": 80}, groups=("web",), roles=("more",)),
        ),
        ({"reboot": True}, Reboot()),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_good_step(raw: dict[str, Any], step: Step) -> None:
    assert parse_step(raw).step == step


def test_a_step_may_be_for_some_distributions_only() -> None:
    assert parse_step({"install": "jq", "only": ["rocky9"]}).only == ("rocky9",)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("upgrade", "a step is a table, such as { install = [...] }, not 'upgrade'"),
        ({"instal": "x"}, "unknown step 'instal', did you mean 'install'?"),
        ({"install": "x", "ownr": "y"}, "'install' has no option 'ownr'"),
        ({"copy": {"a": "/b"}, "mod": "0644"}, "'copy' has no option 'mod', did you mean 'mode'?"),
        ({"reboot": 1}, "'reboot' can only be true"),
        ({"install": ["--installroot=/x"]}, "'--installroot=/x' would be read as an option by dnf, not as a name"),
        ({"remove": []}, "'remove' takes one text or a list of texts, none of them empty"),
        ({"modules": {"enable": ["nodejs"]}}, "'nodejs' is no module to enable; write NAME:STREAM"),
        ({"modules": {"enabled": ["a:1"]}}, "'modules' has no 'enabled', did you mean 'enable'?"),
        ({"copy": "files/app"}, '\'copy\' takes a table, such as { "files/app" = "/opt/app" }'),
        ({"copy": {"/etc/passwd": "/x"}}, "'/etc/passwd' is not below the folder of golden.toml"),
        ({"copy": {"../x": "/x"}}, "'../x' is not below the folder of golden.toml"),
        ({"copy": {"a": "opt/app"}}, "'opt/app' is no path in the guest; one begins with '/'"),
        ({"copy": {"a": "/opt/../etc"}}, "'/opt/../etc' has a '..' in it"),
        ({"copy": {"a\nb": "/x"}}, "'a\\nb' is no path of the project"),
        ({"copy": {"a": "/x"}, "mode": 644}, "644 is no mode; write its octal digits as a text"),
        ({"copy": {"a": "/x"}, "mode": "0888"}, "'0888' is no mode"),
        ({"copy": {"a": "/x"}, "owner": "$(id)"}, "'$(id)' is no owner; write USER or USER:GROUP"),
        ({"write": {"/etc/": "x"}}, "'/etc/' is a folder; name the file to write"),
        ({"write": {"/etc/x": 3}}, "what is written to '/etc/x' is a text, not 3"),
        ({"services": {"enable": ["-x"]}}, "'-x' is not the name of a unit"),
        ({"selinux": {}}, "'selinux' takes a table"),
        ({"selinux": {"mode": "permisive"}}, "'permisive' is no mode of SELinux, did you mean 'permissive'?"),
        ({"selinux": {"booleans": {"a=1 b": True}}}, "'a=1 b' is not the name of a boolean"),
        ({"sshkeys": "-----BEGIN OPENSSH PRIVATE KEY-----"}, "that is a private key"),
        ({"sshkeys": KEY, "user": "a b"}, "'a b' is not the name of a user"),
        ({"repos": {"A B": "https://example.org"}}, "'A B' is not a name"),
        ({"repos": {"ours": "rpms"}}, "'ours' is a folder of the project, which no finished guest can reach; add keep"),
        ({"repos": {"x": "https://example.org/\nexec=1"}}, "'x' needs an http(s) URL or a folder of the project"),
        ({"ansible": "site.yml"}, "the playbook 'site.yml' lies beside golden.toml; put it into a folder of its own"),
        ({"ansible": "a/b.yml", "in_groups": ["x y"]}, "'x y' is not the name of an inventory group"),
    ],
)
def test_a_bad_step(raw: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_step(raw)
    assert str(caught.value).startswith(message)

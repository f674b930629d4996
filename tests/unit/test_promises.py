"""What an image promises: steps and `verify` tables of its chain, added up."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import config
from builder.errors import ConfigError
from builder.model import FileCheck
from builder.promises import Promises, promises

HEAD = """
[distribution.sandbox]
inherits = "el9"
source = { dvd = "sandbox.iso" }

[image.sandbox-base]
distribution = "sandbox"
"""


def of(folder: Path, text: str, image: str) -> Promises:
    file = folder / "golden.toml"
    file.write_text(HEAD + text)
    return promises(config.load(file), image)


def problems(folder: Path, verify: str) -> list[str]:
    file = folder / "golden.toml"
    file.write_text(f"{HEAD}verify = {verify}\n")
    with pytest.raises(ConfigError) as caught:
        config.load(file)
    return [f"{problem.where}: {problem.what}" for problem in caught.value.problems]


def test_steps_and_tables_of_the_chain_add_up(tmp_path: Path) -> None:
    found = of(
        tmp_path,
        """
verify = { commands = ["true"], boot_within = "60s", growth = "10%", size_below = "1 GiB" }
[image.sandbox-web]
parent = "sandbox-base"
steps = [
  { install = ["nginx", "@core", "perl*", "https://x.example/y.rpm", "jq"] },
  { services = { enable = ["nginx.service"], mask = ["firewalld.service"] } },
  { write = { "/etc/motd" = "hello", "/tmp/gone" = "x" } },
  { selinux = { mode = "permissive" } },
]
[image.sandbox-web.verify]
services = ["nginx.service"]
files = { "/etc/motd" = { mode = "0644", contains = "hello" } }
tests = ["t.py"]
[image.sandbox-top]
parent = "sandbox-web"
steps = [{ remove = ["jq"] }, { services = { disable = ["nginx.service"] } }]
verify = { packages = ["curl"], growth = "20%" }
""",
        "sandbox-top",
    )
    assert found.packages == ("nginx", "curl")
    assert found.absent == ("jq",)
    assert (found.services, found.enabled, found.disabled) == ((), (), ("nginx.service",))
    assert found.masked == ("firewalld.service",)
    assert found.files == {"/etc/motd": FileCheck(mode=0o644, contains="hello")}
    assert found.commands == ("true",)
    assert (found.selinux, found.selinux_is_own) == ("permissive", True)
    assert found.tests == ("t.py",)
    assert (found.boot_within_s, found.growth_percent, found.size_below_bytes) == (60, 20, None)


def test_a_file_that_later_commands_may_have_removed_is_not_promised(tmp_path: Path) -> None:
    steps = 'steps = [{ write = { "/root/once" = "x" } }, { shell = "sh /root/once; rm /root/once" }]'
    assert of(tmp_path, steps, "sandbox-base").files == {}


def test_inherit_false_leaves_what_is_below_out(tmp_path: Path) -> None:
    text = """
verify = { commands = ["true"], boot_within = "60s" }
[image.sandbox-top]
parent = "sandbox-base"
verify = { inherit = false, packages = ["curl"] }
"""
    found = of(tmp_path, text, "sandbox-top")
    assert (found.commands, found.packages, found.boot_within_s) == ((), ("curl",), None)


def test_the_mode_of_selinux_is_the_projects_own_if_golden_toml_names_it_where_it_counts(tmp_path: Path) -> None:
    own = """
[distribution.other]
inherits = "sandbox"
[image.other-base]
distribution = "other"
"""

    def mode(text: str, image: str) -> tuple[str, bool]:
        found = of(tmp_path, text, image)
        return found.selinux, found.selinux_is_own

    assert mode("", "sandbox-base") == ("enforcing", False)
    assert mode("steps = [{ selinux = { booleans = { a = true } } }]", "sandbox-base") == ("enforcing", False)
    assert mode('steps = [{ selinux = { mode = "enforcing" } }]', "sandbox-base") == ("enforcing", True)
    family = '[distribution.el9]\nselinux = "permissive"\n'
    assert mode(own + family, "sandbox-base") == mode(own + family, "other-base") == ("permissive", True)
    nearer = '[distribution.rocky9]\nselinux = "permissive"\n[distribution.third]\ninherits = "rocky9"\n'
    third = f'{nearer}source = {{ dvd = "x.iso" }}\n[image.third-base]\ndistribution = "third"\n'
    assert mode(third, "third-base") == ("permissive", True)
    assert mode(third, "sandbox-base") == ("enforcing", False)


def test_other_promises_have_another_digest(tmp_path: Path) -> None:
    first = of(tmp_path, 'verify = { commands = ["true"] }', "sandbox-base")
    assert first.digest() == of(tmp_path, 'verify = { commands = ["true"] }', "sandbox-base").digest()
    assert first.digest() != of(tmp_path, 'verify = { commands = ["false"] }', "sandbox-base").digest()


@pytest.mark.parametrize(
    ("verify", "problem"),
    [
        ('{ growth = "20" }', "growth: '20' is not a growth; write a whole number and a percent sign, such as '20%'"),
        ('{ boot_within = "60" }', "boot_within: '60' is not a duration"),
        ('{ size_below = "1G" }', "size_below: '1G' is not a size"),
        ('{ package = ["x"] }', "package: unknown key, did you mean 'packages'?"),
        ('{ files = ["etc/motd"] }', "'etc/motd' is no path in the guest; those begin with '/'"),
        ('{ files = { "/x" = { mode = 644 } } }', "644 is not a mode; write it as text in octal, such as '0644'"),
        ('{ files = { "/x" = { owned = "root" } } }', "unknown key, did you mean 'owner'?"),
    ],
)
def test_a_bad_table_is_refused(tmp_path: Path, verify: str, problem: str) -> None:
    (found,) = problems(tmp_path, verify)
    assert problem in found

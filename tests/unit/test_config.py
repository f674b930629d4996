"""golden.toml: what is accepted, and every problem of a bad one at once, with its line."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.catalogue import catalogue
from builder.config import load
from builder.errors import ConfigError
from builder.media import Source
from builder.steps import Install, Run, Shell, Upgrade
from builder.toml_lines import key_lines

GOOD = """\
[project]
prefix = "acme"

[distribution.sandbox]
inherits = "el9"
source = { dvd = "sandbox.iso" }
repositories = { updates = "updates", far = "https://example.org/repo" }
limits = { boot = "10s" }

[image.sandbox-base]
distribution = "sandbox"
disk = "4 GiB"

[image.sandbox-upgrade]
parent = "sandbox-base"
steps = [ { upgrade = true } ]

[image.sandbox-bootstrapped]
parent = "sandbox-upgrade"
description = "ready"
steps = [ { install = ["rakudo"] }, { run = "echo a" }, { shell = ["raku -v"], timeout = "5 min" } ]
"""


def problems(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "golden.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert caught.value.exit_code == 2
    return [str(problem) for problem in caught.value.problems]


def test_a_good_file(tmp_path: Path) -> None:
    file = tmp_path / "golden.toml"
    file.write_text(GOOD, encoding="utf-8")
    project = load(file)
    assert project.prefix == "acme"
    assert project.ssh_key == tmp_path / "keys/id_ed25519"
    sandbox = project.distributions["sandbox"]
    assert sandbox.source == Source(dvd=str(tmp_path / "sandbox.iso"))
    assert sandbox.kickstart_version == "RHEL9"
    assert [repository.location for repository in sandbox.repositories] == [
        str(tmp_path / "updates"),
        "https://example.org/repo",
    ]
    assert (sandbox.limits.boot_s, sandbox.limits.silence_s) == (10, 120)
    top = project.images["sandbox-bootstrapped"]
    assert (top.distribution, top.layer, top.disk_bytes) == ("sandbox", "bootstrapped", None)
    assert top.steps == (
        Install(packages=("rakudo",)),
        Run(commands=("echo a",)),
        Shell(commands=("raku -v",), timeout_s=300),
    )
    assert project.images["sandbox-upgrade"].steps == (Upgrade(),)
    assert [image.layer for image in project.chain("sandbox-bootstrapped")] == ["bootstrapped", "upgrade", "base"]


def test_only_images_that_are_gone_are_obsolete(tmp_path: Path) -> None:
    text = '[distribution.rocky9]\nsource = {{ dvd = "r.iso" }}\n[image.rocky9-base]\ndistribution = "rocky9"\n{}'
    known = text.format('obsoletes = ["rocky9-base", "../up"]\n')
    assert [line for line in problems(tmp_path, known) if "'rocky9-base' is an image; only one that is gone" in line]
    assert [line for line in problems(tmp_path, known) if "'../up'" in line]
    file = tmp_path / "golden.toml"
    file.write_text(text.format('obsoletes = ["rocky9-old"]\n'))
    assert load(file).images["rocky9-base"].obsoletes == ("rocky9-old",)


def test_all_problems_at_once(tmp_path: Path) -> None:
    assert problems(
        tmp_path,
        """\
[project]
nam = "x"

[distribution.sandbox]
inherits = "el9"
memory = "20"

[image.sandbox-base]
distribution = "sandbox"
disk = "20G"
pakages = ["x"]

[image.sandbox-upgrade]
parent = "sandbox-bas"
steps = [
  { upgrade = true },
  { instal = ["x"] },
  { shell = "true", timeout = "5 m" },
]

[image.sandbox-a]
parent = "sandbox-b"

[image.sandbox-b]
parent = "sandbox-a"
""",
    ) == [
        "line 2, project.nam: unknown key, did you mean 'name'?",
        "line 6, distribution.sandbox.memory: '20' is not a size; write a whole number and one of KiB, MiB, GiB, TiB",
        "line 10, image.sandbox-base.disk: '20G' is not a size; write a whole number and one of KiB, MiB, GiB, TiB",
        "line 11, image.sandbox-base.pakages: unknown key, did you mean 'packages'?",
        "line 14, image.sandbox-upgrade.parent: there is no image 'sandbox-bas', did you mean 'sandbox-base'?",
        "line 17, image.sandbox-upgrade.steps.1: unknown step 'instal', did you mean 'install'?",
        "line 18, image.sandbox-upgrade.steps.2: '5 m' is not a duration; write a whole number and one of s, min, h, d",
        "line 22, image.sandbox-a.parent: a cycle: sandbox-a -> sandbox-b -> sandbox-a",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("imge = 1\n", "line 1, imge: unknown key, did you mean 'image'?"),
        ("image = 1\n", "line 1, image: is not a table; write [image.NAME]"),
        ("[image]\nx-base = 1\n", "line 2, image.x-base: is not a table; write [image.x-base]"),
        ("[image.x-base]\n", "line 1, image.x-base: needs 'parent' (for a layer) or 'distribution' (for a base)"),
        (
            '[image.x-base]\ndistribution = "rocky-9"\n',
            "line 2, image.x-base.distribution: there is no distribution 'rocky-9', did you mean 'rocky9'?",
        ),
        (
            '[image.web]\ndistribution = "rocky9"\n',
            "line 1, image.web: an image is named DISTRIBUTION-LAYER; this one begins with 'rocky9-'",
        ),
        (
            '[image."rocky9-a b"]\ndistribution = "rocky9"\n',
            "line 1, image.rocky9-a b: 'rocky9-a b' is not a name; use a-z, 0-9, and single '-' or '.' between them",
        ),
        (
            '[image.rocky9-base]\ndistribution = "rocky9"\n[image.rocky9-up]\nparent = "rocky9-base"\ndisk = "1 GiB"\n',
            "line 5, image.rocky9-up.disk: 'disk' belongs to a base; a layer has its parent's",
        ),
        (
            '[image.rocky9-base]\ndistribution = "rocky9"\nsteps = [ { install = [] } ]\n',
            "line 3, image.rocky9-base.steps.0: 'install' takes one text or a list of texts, none of them empty",
        ),
        (
            '[image.rocky9-base]\ndistribution = "rocky9"\nsteps = [ { install = ["a"], run = ["b"] } ]\n',
            "line 3, image.rocky9-base.steps.0: a step says one thing to do, one of upgrade, install, remove, "
            "groups, modules, copy, write, run, script, services, selinux, sshkeys, repos, shell, ansible, sparrowdo, "
            "reboot; this one has ['install', 'run']",
        ),
        (
            '[distribution.a]\ninherits = "b"\n[distribution.b]\ninherits = "a"\n',
            "line 2, distribution.a.inherits: inherits from itself: a -> b -> a",
        ),
        (
            '[distribution.a]\ninherits = "el99"\n',
            "line 2, distribution.a.inherits: there is no distribution 'el99', did you mean 'el9'?",
        ),
        ('[project]\nprefix = "My RPMs"\n', "line 2, project.prefix: 'My RPMs' is not a name;"),
    ],
)
def test_one_problem(tmp_path: Path, text: str, expected: str) -> None:
    assert any(problem.startswith(expected) for problem in problems(tmp_path, text)), problems(tmp_path, text)


def test_a_file_that_is_no_toml(tmp_path: Path) -> None:
    assert "at line 1" in problems(tmp_path, "image = 3 4\n")[0]


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no"):
        load(tmp_path / "golden.toml")


def test_the_catalogue_is_right_by_itself(tmp_path: Path) -> None:
    file = tmp_path / "golden.toml"
    file.write_text("", encoding="utf-8")
    assert set(load(file).distributions) == set(catalogue())


@given(
    st.recursive(
        st.integers() | st.booleans() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=10,
    ).filter(lambda value: isinstance(value, dict))
)
def test_lines_are_found_for_whatever_toml_there_is(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    text = "a = " + as_toml(value)
    assert ("a",) in key_lines(text)
    assert tomllib.loads(text) == {"a": value}
    file = tmp_path_factory.mktemp("p") / "golden.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError):
        load(file)


def as_toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return "{" + ", ".join(f"{as_toml(key)} = {as_toml(inner)}" for key, inner in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(as_toml, value)) + "]"
        case str():
            return '"' + "".join(f"\\U{ord(c):08x}" for c in value) + '"'
    return str(value)


def test_a_template_beside_the_project_goes_before_golden_s_own(tmp_path: Path) -> None:
    file = tmp_path / "golden.toml"
    file.write_text('[distribution.a]\ninherits = "el9"\nkickstart = "mine.ks.j2"\n', encoding="utf-8")
    expected = (
        "line 3, distribution.a.kickstart: there is no kickstart template 'mine.ks.j2' beside golden.toml, "
        "and golden's are el.ks.j2"
    )
    assert problems(tmp_path, file.read_text()) == [expected]
    (tmp_path / "mine.ks.j2").write_text("text\n")
    assert load(file).distributions["a"].kickstart == tmp_path / "mine.ks.j2"

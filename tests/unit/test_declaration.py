"""What a test's declaration may say, and what is said of one that is wrong."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from builder.errors import ConfigError
from builder.harness import declaration
from builder.harness.declaration import Role, Script, Test
from builder.tools.domain import Nic


def write(top: Path, name: str, text: str, *files: str) -> Path:
    path = top / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    for file in files:
        (path.parent / file).parent.mkdir(parents=True, exist_ok=True)
        (path.parent / file).touch()
    return path


def load(top: Path, text: str, *files: str) -> Test:
    return declaration.load(write(top, "it/golden-test.toml", text, *files), top=top)


def test_all_that_can_be_said(tmp_path: Path) -> None:
    text = """
image = ["a", "b@20261121.1"]
suite = "net"
memory = "1 GiB"
ports = [80]
scripts = ["setup.sh", { run = "sub/check.sh", on = "host0" }]
environment = { MODE = "fast" }
limits = { boot = "90s", run = "5 min" }
fatal = ["segfault at"]
may_reboot = true
lan = true
cold = true
firmware = "uefi"
networks = ["network=default"]
bug = "https://bugs.example.org/1"
until = 2026-12-31
[machines.engine]
memory = "2 GiB"
cpus = 2
ports = [443, 8443]
seed = "engine.yaml"
networks = ["network=default", "bridge=virbr0"]
[machines.host0]
image = "c"
firmware = "bios"
"""
    default = Nic(kind="network", source="default")
    assert load(tmp_path, text, "setup.sh", "sub/check.sh", "engine.yaml") == Test(
        name="it",
        folder=tmp_path / "it",
        images=("a", "b@20261121.1"),
        roles={
            "engine": Role(
                memory_mib=2048,
                cpus=2,
                ports=(443, 8443),
                seed="engine.yaml",
                networks=(default, Nic(kind="bridge", source="virbr0")),
                firmware="uefi",
            ),
            "host0": Role(image="c", memory_mib=1024, ports=(80,), networks=(default,), firmware="bios"),
        },
        suite="net",
        scripts=(Script(run="setup.sh", on="engine"), Script(run="sub/check.sh", on="host0")),
        environment={"MODE": "fast"},
        boot_s=90,
        run_s=300,
        fatal=("segfault at",),
        may_reboot=True,
        lan=True,
        cold=True,
        bug="https://bugs.example.org/1",
        until=date(2026, 12, 31),
    )


def test_the_least_that_can_be_said(tmp_path: Path) -> None:
    found = load(tmp_path, 'pytest = "test_x.py"\n', "test_x.py")
    assert (found.payload, found.file, found.main, found.images) == ("pytest", "test_x.py", "main", ())


def test_a_file_is_a_test_as_a_folder_is(tmp_path: Path) -> None:
    write(tmp_path, "net/golden-test.toml", 'scripts = ["a.sh"]', "a.sh")
    write(tmp_path, "net/dns.golden-test.toml", 'scripts = ["b.sh"]', "b.sh")
    write(tmp_path, ".git/golden-test.toml", "nonsense")
    write(tmp_path, "storage/nfs/golden-test.toml", 'image = "x"\nscripts = ["c.sh"]', "c.sh")
    assert [test.name for test in declaration.find(tmp_path)] == ["net", "net/dns", "storage/nfs"]
    assert [test.name for test in declaration.find(tmp_path, ["net"])] == ["net", "net/dns"]
    assert [test.name for test in declaration.find(tmp_path, ["*/nfs", "net/d*"])] == ["net/dns", "storage/nfs"]
    with pytest.raises(ConfigError, match="no test matches 'net/dsn', did you mean 'net/dns'\\?"):
        declaration.find(tmp_path, ["net/dsn"])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('skripts = ["a.sh"]', "line 1, it/golden-test.toml, skripts: unknown key, did you mean 'scripts'?"),
        ("", "it/golden-test.toml: it is one of scripts, sparrowfile, pytest"),
        ('scripts = ["a.sh"]\npytest = "a.sh"', "line 2, it/golden-test.toml, pytest: it is one of scripts, spar"),
        (
            '\nscripts = ["b.sh"]',
            "line 2, it/golden-test.toml, scripts.0: there is no file 'b.sh' in the test's folder",
        ),
        ('scripts = ["../a.sh"]', "there is no file '../a.sh' in the test's folder"),
        ('scripts = [{ run = "a.sh", on = "mian" }]', "scripts.0: there is no machine 'mian', did you mean 'main'?"),
        ('scripts = ["a.sh"]\nmachines = ["A b"]', "'A b' cannot be a machine's name"),
        ('scripts = ["a.sh"]\nmemory = "1G"', "line 2, it/golden-test.toml, memory: '1G' is not a size"),
        (
            'scripts = ["a.sh"]\nports = [70000]',
            "line 2, it/golden-test.toml, ports.0: input should be less",
        ),
        ('scripts = ["a.sh"]\nlimits = { run = "5" }', "limits.run: '5' is not a duration"),
        ('scripts = ["a.sh"]\nseed = "s.yaml"', "line 2, it/golden-test.toml, seed: there is no file 's.yaml'"),
        ('scripts = ["a.sh"]\nfatal = ["("]', "fatal.0: '(' is no regular expression"),
        ('pytest = "a.sh"\nresults = "disk"', "results: results come on a disk from scripts on a single machine"),
        (
            'scripts = ["a.sh"]\nnetworks = ["br0"]',
            "line 2, it/golden-test.toml, networks.0: 'br0' is no network; write network=NAME or bridge=NAME",
        ),
        ('scripts = ["a.sh"]\nfirmware = "efi"', "line 2, it/golden-test.toml, firmware: "),
        ('scripts = ["a.sh"]\nlan = true', "line 2, it/golden-test.toml, lan: a LAN is of several 'machines'"),
        ('scripts = ["a.sh"]\nuntil = 2026-12-31', "until: a date without a 'bug' says nothing"),
        ('scripts = ["a.sh"]\nenvironment = { "A B" = "" }', "environment.A B: 'A B' cannot be a variable's name"),
        ('scripts = ["a.sh"', "it/golden-test.toml: "),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, "a.sh")
    assert problem in "\n".join(map(str, caught.value.problems))


def test_all_problems_of_all_tests_are_said_together(tmp_path: Path) -> None:
    write(tmp_path, "a/golden-test.toml", "x = 1")
    write(tmp_path, "b/golden-test.toml", "y = 1\nz = 1")
    with pytest.raises(ConfigError, match="the declarations of tests have 3 problems") as caught:
        declaration.find(tmp_path)
    assert len(caught.value.problems) == 3


def test_no_test_at_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no test below"):
        declaration.find(tmp_path)


def test_a_known_failure_has_its_time(tmp_path: Path) -> None:
    text = 'scripts = ["a.sh"]\nbug = "https://bugs.example.org/1"\nuntil = 2026-12-31'
    found = load(tmp_path, text, "a.sh")
    assert found.is_known_to_fail(date(2026, 12, 31))
    assert not found.is_known_to_fail(date(2027, 1, 1))

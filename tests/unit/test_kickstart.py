"""Kickstarts: rendered from one template for every distribution, and refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from pykickstart.parser import KickstartParser
from pykickstart.version import makeVersion

from builder import bases, install, templates
from builder.config import load
from builder.errors import ConfigError
from builder.media import Source
from builder.model import Distribution, Image
from builder.tools import kickstart

KEY = "ssh-ed25519 AAAAC3Nza golden"
IMAGE = Image(name="sandbox-base", distribution="sandbox", layer="base", disk_bytes=1)


def distributions(tmp_path: Path) -> dict[str, Distribution]:
    file = tmp_path / "golden.toml"
    file.write_text('[distribution.sandbox]\ninherits = "el9"\nsource = { dvd = "sandbox.iso" }\n')
    return load(file).distributions


def test_the_sandbox_and_rocky_differ_in_nothing_but_their_title(tmp_path: Path) -> None:
    known = distributions(tmp_path)
    rocky_dvd = known["rocky9"].model_copy(update={"source": Source(dvd="/rocky.iso")})
    sandbox, rocky = (install.kickstart(IMAGE, it, ssh_public_key=KEY) for it in (known["sandbox"], rocky_dvd))
    differing = [(a, b) for a, b in zip(sandbox.splitlines(), rocky.splitlines(), strict=True) if a != b]
    assert [a.split(" for ")[0] for a, _ in differing] == ["# sandbox-base: rendered by golden from el.ks.j2"]


@pytest.mark.parametrize("layout", ["plain", "separate-lvm"])
def test_nobody_has_a_password(tmp_path: Path, layout: str) -> None:
    """What a project says of root's password is a step, later: it is not in the kickstart."""
    for it in distributions(tmp_path).values():
        distribution = it.model_copy(update={"source": Source(dvd="/x.iso"), "layout": layout})
        text = install.kickstart(IMAGE, distribution, ssh_public_key=KEY)
        parser = KickstartParser(makeVersion(distribution.kickstart_version))
        parser.readKickstartFromString(text)
        root, (user,) = parser.handler.rootpw, parser.handler.user.userList
        assert (root.lock, root.password) == (True, "")
        assert (user.name, user.lock, user.password) == ("golden", True, "")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("text\nnonsense --x\n", "line 2, kickstart: Unknown command: nonsense"),
        ("rootpw --lokc\n", "line 1, kickstart: "),
        ("%post\necho\n", "Section %post does not end with %end"),
    ],
)
def test_a_bad_kickstart_is_refused_with_its_line(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match="nothing was started") as caught:
        kickstart.validate(text, version="RHEL9", name="sandbox-base")
    assert problem in str(caught.value.problems[0])
    assert caught.value.exit_code == 2


def test_an_unknown_syntax_version_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'RHEL99' is not a version of the kickstart syntax; known are .*RHEL9"):
        kickstart.validate("text\n", version="RHEL99", name="x")


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a\nb {{ nowhere }}\n", 2, "'nowhere' is undefined"),
        ("a\n\n{% if %}\n", 3, "Expected an expression"),
    ],
)
def test_a_bad_template_is_refused_with_its_line(tmp_path: Path, text: str, line: int, what: str) -> None:
    (tmp_path / "x.j2").write_text(text)
    with pytest.raises(ConfigError, match=r"the template 'x\.j2' could not be rendered") as caught:
        templates.render(tmp_path, "x.j2")
    (problem,) = caught.value.problems
    assert problem.line == line
    assert what in problem.what


def test_an_undefined_variable_in_an_included_fragment_names_the_fragment(tmp_path: Path) -> None:
    (tmp_path / "x.j2").write_text("{% include 'part.j2' %}\n")
    (tmp_path / "part.j2").write_text("one\ntwo {{ nowhere }}\n")
    with pytest.raises(ConfigError) as caught:
        templates.render(tmp_path, "x.j2")
    assert caught.value.problems[0].where == str(tmp_path / "part.j2")
    assert caught.value.problems[0].line == 2


def dvd(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "x.iso"
    path.write_bytes(data)
    return path


def volume(blocks: int) -> bytes:
    descriptor = bytearray(2048)
    descriptor[0:6] = b"\x01CD001"
    descriptor[80:84] = blocks.to_bytes(4, "little")
    descriptor[128:130] = (2048).to_bytes(2, "little")
    return bytes(16 * 2048) + bytes(descriptor)


def test_a_whole_dvd_is_taken(tmp_path: Path) -> None:
    install.check_dvd(dvd(tmp_path, volume(17)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no DVD image"),
        (bytes(100_000), "is no DVD image"),
        (volume(5000), "is cut short: its volume has 10240000 bytes, the file 34816"),
    ],
)
def test_what_is_no_whole_dvd_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        install.check_dvd(dvd(tmp_path, data))


def test_a_distribution_without_a_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'rhel9' has no source to make a base from"):
        bases.source_of(distributions(tmp_path)["rhel9"])


def test_a_missing_dvd_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the DVD is not there: .*/none\.iso") as refused:
        install.check_dvd(tmp_path / "none.iso")
    assert "name another file or an http(s) address" in (refused.value.try_next or "")

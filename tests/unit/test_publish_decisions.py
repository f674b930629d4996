"""What publishing decides and writes without reading a single RPM."""

from __future__ import annotations

import configparser
from pathlib import Path
from urllib.parse import quote

import pytest

from builder.channels import check, checked_url, client_config
from builder.channels.compose import current
from builder.channels.sets import missing_requirements
from builder.errors import ConfigError, VerifyError
from builder.store import Store
from builder.tools.createrepo import Capability, Package


def at(name: str, version: str) -> Capability:
    return (name, "EQ", "0", version, "1")


def bare(name: str) -> Capability:
    return (name, None, None, None, None)


def rpm(name: str, *, provides: tuple[Capability, ...] = (), requires: tuple[Capability, ...] = ()) -> Package:
    return Package(
        href=f"Packages/{name}.rpm",
        sha256="",
        size_bytes=0,
        mtime_s=0,
        requires=frozenset(requires),
        provides=frozenset(provides),
        metadata=None,
    )


PARENT = rpm("parent", provides=(at("parent", "20261121.1"), bare("golden-image-id(parent:aa)")))


@pytest.mark.parametrize(
    ("requirement", "missing"),
    [
        (at("parent", "20261121.1"), []),
        (bare("parent"), []),
        (bare("golden-image-id(parent:aa)"), []),
        (at("parent", "20261121.2"), ["child.rpm requires parent = 20261121.2-1"]),
        (at("other", "20261121.1"), ["child.rpm requires other = 20261121.1-1"]),
        (bare("golden-image-id(parent:bb)"), ["child.rpm requires golden-image-id(parent:bb)"]),
    ],
)
def test_a_requirement_is_met_exactly_or_missing(requirement: Capability, missing: list[str]) -> None:
    assert missing_requirements([rpm("child", requires=(requirement,)), PARENT]) == missing


@pytest.mark.parametrize(
    "url", ["", "mirror.example", "ftp://mirror.example", "http://", "http://a b", "http://a\nb", "http://a?b", "/srv"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="is not an address at which channels can be served"):
        checked_url(url)


def test_an_address_loses_its_trailing_slash() -> None:
    assert checked_url("https://mirror.example:8443/golden/") == "https://mirror.example:8443/golden"
    assert checked_url("http://[::1]:8710") == "http://[::1]:8710"


FINGERPRINT = "79C4DA23BF9079A48AD25F58C293D3A5CA88BD84"


def test_client_config_points_at_the_mirrorlist_and_the_key() -> None:
    text = client_config(
        "candidate", prefix="acme", project="web", url="http://mirror.example/golden/", fingerprint=FINGERPRINT
    )
    parsed = configparser.ConfigParser()
    parsed.read_string(text)
    assert dict(parsed["acme-candidate"]) == {
        "name": "VM images of web, channel candidate",
        "mirrorlist": "http://mirror.example/golden/candidate/mirrorlist",
        "metadata_expire": "300",
        "gpgcheck": "1",
        "repo_gpgcheck": "1",
        "gpgkey": "http://mirror.example/golden/candidate/key.asc",
        "enabled": "1",
    }
    assert "# Signed with the key 79C4 DA23 BF90 79A4 8AD2 5F58 C293 D3A5 CA88 BD84.\n" in text


def test_client_config_with_a_key_that_the_client_has(tmp_path: Path) -> None:
    key = tmp_path / "RPM-GPG-KEY golden"
    text = client_config(
        "stable", prefix="acme", project="web", url="http://a.example", fingerprint=FINGERPRINT, key_file=key
    )
    assert f"gpgkey=file://{quote(str(key))}\n" in text
    assert "dnf asks" not in text


def test_client_config_of_a_project_that_signs_nothing_says_so() -> None:
    text = client_config("candidate", prefix="acme", project="web", url="http://a.example", fingerprint=None)
    assert "unsigned = true" in text
    assert "gpgcheck=0\nrepo_gpgcheck=0\n" in text
    assert "gpgkey" not in text


def test_a_channel_without_a_mirrorlist_was_never_published(tmp_path: Path) -> None:
    assert current(tmp_path) is None
    with pytest.raises(ConfigError, match="nothing was published to the channel 'candidate' yet"):
        check(Store(tmp_path, "demo"), "candidate", signer=None)


def test_a_mirrorlist_that_names_nothing_is_damage(tmp_path: Path) -> None:
    (tmp_path / "mirrorlist").write_text("http://mirror.example/candidate/composes/20261121.1/\n")
    with pytest.raises(VerifyError, match="names a compose that is not there"):
        current(tmp_path)

"""Which Debian packages the sandbox needs, and what becomes of their names and versions."""

from __future__ import annotations

import pytest

from builder.sandbox import assign, debian, definition
from builder.sandbox.debian import Deb
from builder.sandbox.repack import Version, rpm_version


def deb(name: str, depends: str = "", provides: tuple[str, ...] = (), version: str = "1.0-1") -> Deb:
    return Deb(name, version, f"{name}_{version}_amd64.deb", debian.parse_depends(depends), provides)


def world(*debs: Deb) -> dict[str, Deb]:
    return {each.name: each for each in debs}


def test_dependencies_are_alternatives_without_versions_and_architectures() -> None:
    parsed = debian.parse_depends("libc6 (>= 2.34), default-mta | mail-transport-agent, python3:any [amd64]")
    assert parsed == (("libc6",), ("default-mta", "mail-transport-agent"), ("python3",))


def test_a_file_name_holds_the_epoch_percent_encoded() -> None:
    assert debian.version_of("passwd_1%3a4.13+dfsg1-1_amd64.deb") == "1:4.13+dfsg1-1"


def test_closure_follows_the_alternative_that_apt_chose() -> None:
    debs = world(deb("a", "x | y"), deb("y", "z"), deb("z"))
    assert debian.closure(["a"], debs, ignored=()) == ["a", "y", "z"]


def test_closure_finds_virtual_packages() -> None:
    debs = world(deb("a", "mail-transport-agent"), deb("exim", provides=("mail-transport-agent",)))
    assert debian.closure(["a"], debs, ignored=()) == ["a", "exim"]


def test_closure_leaves_out_the_ignored_and_what_only_they_need() -> None:
    debs = world(deb("a", "perl, libc6"), deb("perl", "perl-modules"), deb("perl-modules"), deb("libc6"))
    assert debian.closure(["a"], debs, ignored={"perl"}) == ["a", "libc6"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1:5.2.15-2+b13", Version("5.2.15", "2+b13")),
        ("2026f-0+deb12u1", Version("2026f", "0+deb12u1")),
        ("20250419~deb12u2", Version("20250419~deb12u2", "1")),
        ("1.2-rc1-3", Version("1.2.rc1", "3")),
    ],
)
def test_a_debian_version_becomes_version_and_release(text: str, expected: Version) -> None:
    assert rpm_version(text) == expected


def test_a_bump_makes_the_release_newer() -> None:
    assert rpm_version("2026f-0+deb12u1", bump=".1").release == "0+deb12u1.1"


def test_rpms_require_the_rpms_that_carry_what_their_debian_packages_depend_on() -> None:
    recipe = definition.Definition(
        release="9.1",
        updates_release="9.2",
        roots={"guest": ("base-files", "bash"), "updates": ("tree", "nm"), "installer": (), "boot": ()},
        ignored=frozenset(),
        unwanted=(),
        packages=(
            definition.Package("setup", "Accounts", debian=("base-files",)),
            definition.Package("bash", "Shells", debian=("bash",)),
        ),
        updates=(),
        core=("setup", "bash"),
        additions=(definition.Package("network", "A network", debian=("nm", "libnm*")),),
    )
    debs = world(
        *(deb("base-files", "bash"), deb("bash", "libc6"), deb("libc6"), deb("tree", "libc6, bash")),
        *(deb("nm", "libnm0, libc6", version="1.42-1"), deb("libnm0", "libc6, bash", version="7-1")),
    )
    contents = assign.assign(recipe, debs)
    requires = {content.package.name: content.requires for content in (*contents.base, *contents.additions)}
    assert requires == {
        "setup": (),
        "bash": ("setup", assign.LEFT_OVER),
        assign.LEFT_OVER: ("setup",),
        "tree": ("bash", "setup", assign.LEFT_OVER),
        "network": ("bash", "setup", assign.LEFT_OVER),
    }
    (network,) = [content for content in contents.additions if content.package.name == "network"]
    assert [each.name for each in network.debs] == ["nm", "libnm0"]
    assert network.version == Version("1.42", "1")


def test_the_distribution_file_is_whole() -> None:
    recipe = definition.load()
    names = [package.name for package in recipe.packages]
    assert set(recipe.core) <= set(names)
    assert {update.name for update in recipe.updates} <= set(names)
    assert len(recipe.updates) >= 3
    assert not {addition.name for addition in recipe.additions} & {
        provided for package in recipe.packages for provided in (package.name, *package.provides)
    }
    assert recipe.owner("linux-image-6.1.0-56-cloud-amd64") == "kernel"
    assert recipe.owner("linux-image-6.1.0-56-amd64") is None


def test_every_debian_package_has_one_owner() -> None:
    claims = [name for package in definition.load().packages for name in package.debian]
    assert sorted(claims) == sorted(set(claims))

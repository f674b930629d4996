"""The catalogue: every kickstart that it can lead to is valid, and planning all of it needs no network."""

from __future__ import annotations

import itertools
import json
import socket
import tempfile
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest
from click.testing import CliRunner
from pykickstart.parser import KickstartParser
from pykickstart.version import makeVersion

from builder import bases, install
from builder.catalogue import catalogue
from builder.cli import golden
from builder.config import load
from builder.decision import Decision
from builder.derived import image_of
from builder.errors import ConfigError
from builder.media import Source
from builder.model import Distribution, Image, Project
from builder.store import Store
from tests.builds import make_build

KEY = "ecdsa-sha2-nistp384 AAAAE2Vj golden"
ALL = list(catalogue())
LAYOUTS = ("plain", "separate", "lvm", "separate-lvm")
MACHINES = (("x86_64", "bios"), ("x86_64", "uefi"), ("aarch64", "uefi"))
CONSOLES = {"x86_64": "ttyS0", "aarch64": "ttyAMA0"}
MOUNT_POINTS = {
    "plain": {"/"},
    "separate": {"/", "/boot", "/var", "/home"},
    "lvm": {"/", "/boot"},
    "separate-lvm": {"/", "/boot", "/var", "/home"},
}


@cache
def known(arch: str) -> dict[str, Distribution]:
    """The catalogue as a project sees it that wants all of it for one architecture."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "golden.toml")
        file.write_text("".join(f'[distribution.{name}]\narch = "{arch}"\n' for name in ALL))
        return load(file).distributions


def render(distribution: Distribution, **changes: object) -> str:
    image = Image(name=f"{distribution.name}-base", distribution=distribution.name, layer="base")
    return install.kickstart(image, distribution.model_copy(update=changes), ssh_public_key=KEY)


def test_the_catalogue_has_what_the_documentation_promises() -> None:
    assert [
        *("rocky8", "rocky9", "rocky10", "almalinux8", "almalinux9", "almalinux10"),
        *("centos-stream9", "centos-stream10", "fedora43", "fedora44", "rhel8", "rhel9", "rhel10", "oraclelinux9"),
    ] == ALL


@pytest.mark.parametrize(
    ("name", "machine", "layout"),
    list(itertools.product(ALL, MACHINES, LAYOUTS)),
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_every_kickstart_is_valid_and_says_what_was_asked(name: str, machine: tuple[str, str], layout: str) -> None:
    arch, firmware = machine
    distribution = known(arch)[name]
    text = render(distribution, firmware=firmware, layout=layout)
    parser = KickstartParser(makeVersion(distribution.kickstart_version))
    parser.readKickstartFromString(text)
    said = parser.handler
    points = {part.mountpoint for part in said.partition.partitions} | {lv.mountpoint for lv in said.logvol.lvList}
    assert points - {"pv.01"} == MOUNT_POINTS[layout] | ({"/boot/efi"} if firmware == "uefi" else set())
    assert bool(said.logvol.lvList) == ("lvm" in layout)
    assert said.clearpart.disklabel == ("gpt" if firmware == "uefi" else "msdos")
    assert f"console={CONSOLES[arch]},115200n8" in said.bootloader.appendLine
    assert {entry.username: entry.key for entry in said.sshkey.sshUserList} == {"root": KEY, "golden": KEY}
    assert said.rootpw.lock
    assert said.reboot.seen
    assert "\npoweroff\n" in text
    assert {"openssh-server", "python3", "qemu-guest-agent", "sudo"} <= set(said.packages.packageList)
    assert "hostname" not in text
    if distribution.source is None:
        assert said.cdrom.seen
    else:
        assert said.url.url == distribution.source.url
        assert f"/{arch}/" in said.url.url
        assert all(f"/{arch}/" in repo.baseurl for repo in said.repo.repoList)


@pytest.mark.parametrize("name", ALL)
def test_options_are_valid_everywhere_too(name: str) -> None:
    text = render(
        known("x86_64")[name], file_system="ext4", package_set="ost", packages=("jq",), fips=True, layout="separate-lvm"
    )
    packages = text[text.index("%packages") :]
    for package in ("rsync", "python3-libselinux", "crypto-policies-scripts", "jq", "@core"):
        assert f"\n{package}\n" in packages
    assert 'net.ifnames=0 fips=1"' in text
    assert "--fstype=xfs" not in text


@pytest.mark.parametrize(
    ("name", "addon"),
    [("rocky8", "org_fedora_oscap"), ("rhel9", "com_redhat_oscap"), ("almalinux9", "com_redhat_oscap")],
)
def test_openscap_goes_by_the_installers_own_name(name: str, addon: str) -> None:
    text = render(known("x86_64")[name], openscap="cis_server_l1")
    profile = "xccdf_org.ssgproject.content_profile_cis_server_l1"
    section = f"%addon {addon}\n    content-type = scap-security-guide\n    profile = {profile}\n%end\n"
    assert section in text
    assert section in render(known("x86_64")[name], openscap=profile)


def test_the_network_of_a_guest_has_one_default_route_and_a_stable_address() -> None:
    text = render(known("x86_64")["rocky9"])
    first, others = text.split("golden-first.nmconnection <<'END'\n")[1].split("golden-others.nmconnection <<'END'\n")
    assert "interface-name=eth0" in first
    assert "never-default" not in first.split("\nEND\n")[0]
    assert others.split("\nEND\n")[0].count("never-default=true") == 2
    assert text.count("dhcp-duid=ll") == text.count("dhcp-iaid=mac") == 2
    assert "net.ifnames=0" in text


def test_an_ed25519_key_is_refused_for_fips_mode() -> None:
    image = Image(name="rocky9-base", distribution="rocky9", layer="base")
    fips = known("x86_64")["rocky9"].model_copy(update={"fips": True})
    with pytest.raises(ConfigError, match="'rocky9' does not let in in FIPS mode") as caught:
        install.kickstart(image, fips, ssh_public_key="ssh-ed25519 AAAA golden")
    assert caught.value.try_next is not None
    assert caught.value.try_next.startswith("ssh-keygen -t ecdsa -b 384")


def whole_catalogue(folder: Path) -> Path:
    """A golden.toml with a base of everything; what has no public tree gets a DVD."""
    (folder / "keys").mkdir()
    (folder / "keys/id_ed25519.pub").write_text("ssh-ed25519 AAAA golden\n")
    dvd = bytearray(17 * 2048)
    dvd[16 * 2048 : 16 * 2048 + 6] = b"\x01CD001"
    dvd[16 * 2048 + 128 : 16 * 2048 + 130] = (2048).to_bytes(2, "little")
    (folder / "some.iso").write_bytes(dvd)
    lines = []
    for name, distribution in known("x86_64").items():
        if distribution.source is None:
            lines.append(f'[distribution.{name}]\nsource = {{ dvd = "some.iso" }}')
        lines.append(f'[image.{name}-base]\ndistribution = "{name}"\n[image.{name}-app]\nparent = "{name}-base"')
    file = folder / "golden.toml"
    file.write_text("\n".join(lines))
    return file


def test_the_whole_catalogue_is_planned_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("planning asked the network")

    project = load(whole_catalogue(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    planned = Decision(project, Store(tmp_path / "state", "x"), project.images).plan()
    assert [step.image for step in planned] == [name for d in ALL for name in (f"{d}-base", f"{d}-app")]
    assert planned[0].inputs["network tree"] == "https://download.rockylinux.org/pub/rocky/8/BaseOS/x86_64/os/"
    assert "DVD some.iso" in next(step for step in planned if step.image == "rhel9-base").inputs


def test_without_a_source_the_user_is_told_what_to_write() -> None:
    with pytest.raises(ConfigError, match="the distribution 'rhel9' has no source to make a base from") as caught:
        bases.location_of(known("x86_64")["rhel9"])
    assert caught.value.try_next == (
        'add to golden.toml: [distribution.rhel9] source = { dvd = "…" }, or { url = "https://…" } of a tree'
    )


def tree(folder: Path, text: str) -> Distribution:
    folder.mkdir()
    (folder / ".treeinfo").write_text(text)
    return known("x86_64")["rocky9"].model_copy(update={"source": Source(tree=folder)})


WHOLE = "[images-x86_64]\nkernel = vmlinuz\n"


def test_a_whole_tree_is_taken(tmp_path: Path) -> None:
    distribution = tree(tmp_path / "tree", WHOLE)
    (tmp_path / "tree/vmlinuz").touch()
    assert bases.location_of(distribution) == tmp_path / "tree"
    assert f'url --url="{(tmp_path / "tree").as_uri()}"' in render(distribution)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (WHOLE, "is not whole: vmlinuz is missing"),
        ("[general]\nfamily = x\n", "is not whole: its .treeinfo names no kernel"),
        ("nonsense", "cannot be read: "),
    ],
)
def test_what_is_no_whole_tree_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bases.location_of(tree(tmp_path / "tree", text))


def test_a_folder_without_treeinfo_is_refused(tmp_path: Path) -> None:
    nowhere = known("x86_64")["rocky9"].model_copy(update={"source": Source(tree=tmp_path)})
    with pytest.raises(ConfigError, match=r"the tree of 'rocky9' is none: .*/\.treeinfo is missing"):
        bases.location_of(nowhere)


def test_an_image_overrides_its_distribution_and_its_layers_follow(tmp_path: Path) -> None:
    file = tmp_path / "golden.toml"
    file.write_text(
        """\
[distribution.rocky9-arm]
inherits = "rocky9"
arch = "aarch64"
[image.rocky9-base]
distribution = "rocky9"
layout = "lvm"
firmware = "uefi"
package_set = "ost"
packages = ["jq"]
file_system = "ext4"
fips = true
openscap = "ospp"
[image.rocky9-app]
parent = "rocky9-base"
[image.rocky9-other]
distribution = "rocky9"
[image.rocky9-arm-base]
distribution = "rocky9-arm"
"""
    )
    project = load(file)
    for name in ("rocky9-base", "rocky9-app"):
        it = project.distribution_of(name)
        assert (it.layout, it.firmware, it.package_set, it.packages) == ("lvm", "uefi", "ost", ("jq",))
        assert (it.file_system, it.fips, it.openscap) == ("ext4", True, "ospp")
    assert project.distribution_of("rocky9-other") == project.distributions["rocky9"]
    arm = project.distribution_of("rocky9-arm-base")
    assert (arm.arch, arm.firmware) == ("aarch64", "uefi")
    assert arm.source is not None
    assert arm.source.url == "https://download.rockylinux.org/pub/rocky/9/BaseOS/aarch64/os/"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '[distribution.rocky9]\narch = "aarch64"\nfirmware = "bios"\n',
            "line 3, distribution.rocky9.firmware: a machine of aarch64 has no BIOS; write 'uefi', or leave it out",
        ),
        (
            '[distribution.rocky9]\nlayout = "raid"\n',
            "line 2, distribution.rocky9.layout: input should be 'plain', 'separate', 'lvm' or 'separate-lvm', "
            "not 'raid'",
        ),
        (
            '[distribution.rocky9]\nsource = { url = "https://example.org/", dvd = "x.iso" }\n',
            "line 2, distribution.rocky9.source: a source is one thing: 'dvd' or 'qcow2', a path or an http(s) URL, "
            "'url' or 'tree', an installation tree, or 'image'; this one has dvd and url",
        ),
        (
            '[distribution.rocky9]\nsource = { ulr = "https://example.org/" }\n',
            "line 2, distribution.rocky9.source.ulr: unknown key, did you mean 'url'?",
        ),
        (
            '[distribution.rocky9]\nsource = { url = "ftp://example.org/\\" --x" }\n',
            "line 2, distribution.rocky9.source: 'ftp://example.org/\" --x' is not the address of a tree; "
            "write https://… or http://…",
        ),
        (
            '[image.rocky10-base]\ndistribution = "rocky10"\nopenscap = "ospp"\n',
            "line 3, image.rocky10-base.openscap: the installer of Rocky Linux 10 has no OpenSCAP add-on; "
            "EL 8 and 9 have one",
        ),
        (
            '[image.rocky9-base]\ndistribution = "rocky9"\nopenscap = "x\\n%end"\n',
            "line 3, image.rocky9-base.openscap: 'x\n%end' is not a profile's id; "
            "one looks like 'cis_server_l1' or 'ospp'",
        ),
        (
            '[distribution.rocky9]\nsource = { qcow2 = "x.qcow2" }\n[image.rocky9-base]\ndistribution = "rocky9"\n'
            'layout = "lvm"\n',
            "line 5, image.rocky9-base.layout: has no effect on an imported image, which is installed already",
        ),
        (
            '[image.rocky9-base]\ndistribution = "rocky9"\n[image.rocky9-a]\nparent = "rocky9-base"\nlayout = "lvm"\n',
            "line 5, image.rocky9-a.layout: 'layout' belongs to a base; a layer has its parent's",
        ),
        (
            '[image.rocky9-base]\ndistribution = "rocky9"\nkickstart_file = "my.ks"\nlayout = "lvm"\n',
            "line 4, image.rocky9-base.layout: has no effect on a kickstart_file, which is taken as it is",
        ),
        (
            '[image.el9-base]\ndistribution = "el9"\n',
            "line 2, image.el9-base.distribution: there is no distribution 'el9', did you mean",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "golden.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert any(str(problem).startswith(expected) for problem in caught.value.problems), caught.value.problems


def test_a_new_distribution_is_a_few_lines(tmp_path: Path) -> None:
    file = tmp_path / "golden.toml"
    file.write_text(
        '[distribution.mylinux9]\ninherits = "el9"\ntitle = "My Linux 9"\n'
        'source = { url = "https://example.org/9/{arch}/os/" }\n'
    )
    mine = load(file).distributions["mylinux9"]
    assert mine.source == Source(url="https://example.org/9/x86_64/os/")
    assert 'url --url="https://example.org/9/x86_64/os/"' in render(mine)


def test_what_golden_toml_says_of_a_family_holds_for_all_that_inherits_it(tmp_path: Path) -> None:
    file = tmp_path / "golden.toml"
    file.write_text('[distribution.el9]\nmemory = "5 GiB"\n')
    found = load(file).distributions
    assert {name for name, it in found.items() if it.memory_mib == 5120} == {
        *("el9", "rocky9", "almalinux9", "centos-stream9", "rhel9", "oraclelinux9")
    }
    assert (found["rocky9"].title, found["rocky8"].memory_mib) == ("Rocky Linux 9", 2048)


def test_what_stands_on_a_build_boots_as_it_does() -> None:
    build = make_build("rocky9-base").model_copy(update={"firmware": "uefi"})
    images = {
        "rocky9-base": image_of(build),
        "rocky9-x": Image(name="rocky9-x", distribution="rocky9", layer="x", parent="rocky9-base"),
    }
    project = Project(
        file=Path("/golden.toml"),
        name="p",
        prefix="golden",
        ssh_key=Path("/key"),
        url="",
        distributions=known("x86_64"),
        images=images,
    )
    assert known("x86_64")["rocky9"].firmware == "bios"
    assert project.distribution_of("rocky9-x").firmware == "uefi"


def test_golden_distributions_lists_them_without_a_project(tmp_path: Path) -> None:
    ended = CliRunner().invoke(golden, ["--file", str(tmp_path / "golden.toml"), "distributions", "--json"])
    assert ended.exit_code == 0, ended.output
    rows = {row["name"]: row for row in json.loads(ended.stdout)}
    assert list(rows) == ALL
    assert {row["problem"] for row in rows.values()} == {None}
    assert rows["fedora44"]["kickstart_version"] == "F44"
    key = Path("/usr/share/distribution-gpg-keys/fedora/RPM-GPG-KEY-fedora-44-primary")
    assert (rows["fedora44"]["gpg_key"], rows["fedora44"]["gpg_key_here"]) == (str(key), key.is_file())
    assert (rows["rhel9"]["source"], rows["rocky9"]["source_kind"], rows["rocky9"]["installed"]) == (None, "url", None)


def test_golden_distributions_tells_of_the_projects_own_and_what_is_wrong_with_it(tmp_path: Path) -> None:
    file = tmp_path / "golden.toml"
    (tmp_path / "mine.ks.j2").write_text("text\nnonsense\n")
    file.write_text('[distribution.mine9]\ninherits = "el9"\ntitle = "Mine"\nkickstart = "mine.ks.j2"\n')
    ended = CliRunner().invoke(
        golden, ["--file", str(file), "--state", str(tmp_path / "state"), "distributions", "--json"]
    )
    row = next(row for row in json.loads(ended.stdout) if row["name"] == "mine9")
    assert row["problem"] == (
        "the kickstart of 'mine9-base' is not valid for RHEL9; nothing was started; "
        "line 2, kickstart: Unknown command: nonsense"
    )


def test_the_key_of_each_distribution_is_where_the_package_of_keys_has_it() -> None:
    keys = {name: it.gpg_key for name, it in known("x86_64").items() if it.gpg_key}
    assert set(keys) == set(catalogue())
    for name, key in keys.items():
        assert key.is_relative_to("/usr/share/distribution-gpg-keys")
        assert key.name.startswith("RPM-GPG-KEY-")
        # "Rocky-9" for rocky9; CentOS signs all of its releases with one key.
        release = "".join(c for c in name if c.isdigit())
        assert key.name.endswith((release, f"{release}-release", f"{release}-primary")) or "CentOS-Official" in key.name

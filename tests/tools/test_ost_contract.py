"""What a harness written for ost-images expects, line by line: of packages, folder, environment and use.

By dnf-installed images of a few hundred KiB. What is expected of a guest: tests/vm/test_harness.py.
"""

from __future__ import annotations

import concurrent.futures
import grp
import json
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from builder.errors import ConfigError, HostError, VerifyError
from builder.harness import ost
from builder.model import Build
from builder.run import query
from builder.store import Store, sha256, write_atomically
from builder.tools import ssh
from tests.builds import add_chain
from tests.clients import Client
from tests.tools.conftest import Publisher

LEAF = "golden-sandbox-bootstrapped"
NEW = "20261122.1"
CHAIN = ("sandbox-base", "sandbox-upgrade", "sandbox-bootstrapped")


@pytest.fixture
def slave(client: Client, chain: dict[str, Build], publisher: Publisher) -> Client:
    """A host that installed the leaf from a channel, and the key that the images let in."""
    publisher.publish(*chain.values())
    client.install(LEAF)
    ssh.make_key(client.folder / "id", comment="test")
    return client


def lay_out(slave: Client, *, move: bool = False) -> Path:
    folder = slave.folder / "ost-images"
    layout = ost.plan(slave.images, distribution=None, folder=folder, key=slave.folder / "id")
    ost.install(layout, is_moved=move)
    return folder


def upgrade(slave: Client, store: Store, publisher: Publisher) -> None:
    publisher.publish(*add_chain(store, *CHAIN, version=NEW).values())
    slave.dnf("upgrade")


def info(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(query(["qemu-img", "info", "--output=json", path], why="look at an image"))
    return found


# --- packages


def test_a_leaf_pulls_the_whole_chain_by_names_of_prefix_distribution_layer(slave: Client) -> None:
    assert slave.names() == sorted([LEAF, *(f"golden-{image}-image-20261121.1" for image in CHAIN)])


def test_an_upgrade_moves_the_chain_in_lockstep_and_newer_sorts_higher(
    slave: Client, store: Store, publisher: Publisher
) -> None:
    upgrade(slave, store, publisher)
    link = (slave.images / "sandbox-bootstrapped.qcow2").resolve()
    assert link.name == f"sandbox-bootstrapped-{NEW}.qcow2"
    names = [Path(str(info(link)["full-backing-filename"])).name]
    names.append(Path(str(info(slave.images / names[0])["full-backing-filename"])).name)
    assert names == [f"sandbox-upgrade-{NEW}.qcow2", f"sandbox-base-{NEW}.qcow2"]


def test_a_layer_that_no_longer_exists_is_obsoleted(slave: Client, store: Store, publisher: Publisher) -> None:
    """An image that obsoletes it comes in its place, and images that nobody needs any more go as usual."""
    new = add_chain(store, *CHAIN[:2], version=NEW)["sandbox-upgrade"]
    facts = store.facts(new)
    facts.unlink()
    new = new.model_copy(update={"obsoletes": ("sandbox-bootstrapped", "sandbox-older")})
    write_atomically(facts, new.model_dump_json(), mode=0o444)
    publisher.publish(new)
    slave.dnf("upgrade")
    assert LEAF not in slave.names()
    assert "golden-sandbox-upgrade" in slave.names()
    slave.dnf("autoremove")
    images = [f"golden-{image}-image-{NEW}" for image in CHAIN[:2]]
    assert slave.names() == sorted(["golden-sandbox-upgrade", *images])


def test_all_images_by_a_pattern(slave: Client) -> None:
    """In a root of its own, as each of these tests."""
    slave.dnf("install", "golden-*")
    assert {f"golden-{image}" for image in (*CHAIN, "sandbox-tools-installed")} <= set(slave.names())


# --- the folder


def test_the_folder_is_flat_with_names_that_the_harness_knows(slave: Client) -> None:
    folder = lay_out(slave)
    expected = {f"{image}{end}" for image in CHAIN for end in (".qcow2", "-pkglist.txt", "-pkglist-diff.txt")}
    expected |= {f"{image}-20261121.1.qcow2" for image in CHAIN} | {"sandbox_id_rsa", "sandbox_id_rsa.pub"}
    assert {path.name for path in folder.iterdir()} == expected


def test_images_are_read_only_qcow2_with_a_relative_backing_name_and_format(slave: Client) -> None:
    folder = lay_out(slave)
    for image in CHAIN:
        path = folder / f"{image}.qcow2"
        assert path.stat().st_mode & 0o777 == 0o444
        found = info(path)
        assert (found["format"], found["format-specific"]["data"]["compat"]) == ("qcow2", "1.1")  # type: ignore[index]
        if image != "sandbox-base":
            assert "/" not in str(found["backing-filename"])
            assert found["backing-filename-format"] == "qcow2"
            assert Path(str(found["full-backing-filename"])).parent == folder


def test_nothing_is_copied(slave: Client) -> None:
    folder = lay_out(slave)
    for path in folder.glob("*.qcow2"):
        assert path.is_symlink()
        assert path.resolve().parent == slave.images.resolve()


def test_package_lists_and_what_changed_from_the_parent(slave: Client) -> None:
    folder = lay_out(slave)
    assert (folder / "sandbox-base-pkglist.txt").read_text() == "sandbox-base-20261121.1-marker-1-1.noarch\n"
    difference = (folder / "sandbox-upgrade-pkglist-diff.txt").read_text().splitlines()
    assert difference[:2] == ["--- sandbox-base-pkglist.txt", "+++ sandbox-upgrade-pkglist.txt"]
    assert difference[3:] == [
        "-sandbox-base-20261121.1-marker-1-1.noarch",
        "+sandbox-upgrade-20261121.1-marker-1-1.noarch",
    ]


def test_the_key_pair_is_the_projects_own(slave: Client) -> None:
    folder = lay_out(slave)
    assert (folder / "sandbox_id_rsa").read_bytes() == (slave.folder / "id").read_bytes()
    assert (folder / "sandbox_id_rsa").stat().st_mode & 0o777 == 0o600
    assert (folder / "sandbox_id_rsa.pub").read_text().startswith("ssh-ed25519 ")


def test_members_of_a_group_may_read_the_key_and_ssh_takes_it(slave: Client, open_path: Path) -> None:
    """Several users share a host. As nobody, whose group it is given to; the key itself stays as it is."""
    nobody, key, folder = pwd.getpwnam("nobody"), slave.folder / "id", open_path / "ost-images"
    group = grp.getgrgid(nobody.pw_gid).gr_name
    for _ in range(2):
        layout = ost.plan(slave.images, distribution=None, folder=folder, key=key, group=group)
        ost.install(layout, is_moved=False)
        shared = folder / "sandbox_id_rsa"
        status = shared.stat()
        assert (status.st_mode & 0o777, status.st_gid, shared.is_symlink()) == (0o640, nobody.pw_gid, False)
    assert key.stat().st_mode & 0o777 == 0o600
    argv = ["ssh-keygen", "-y", "-f", str(shared)]
    who: dict[str, Any] = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    public = subprocess.run(argv, capture_output=True, text=True, check=True, **who).stdout
    assert public.split()[:2] == (folder / "sandbox_id_rsa.pub").read_text().split()[:2]
    # Back to a link, and no further: what is not a copy of the key is not golden's.
    ost.install(ost.plan(slave.images, distribution=None, folder=folder, key=key), is_moved=False)
    assert shared.readlink() == key
    shared.unlink()
    shared.write_text("another's")
    with pytest.raises(ConfigError, match=r"sandbox_id_rsa is there and is no link"):
        ost.install(layout, is_moved=False)


def test_a_key_is_given_to_no_group_that_there_is_not_and_to_none_that_may_not_be(
    slave: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, folder = slave.folder / "id", tmp_path / "flat"
    with pytest.raises(ConfigError, match="there is no group 'nonesuch' on this host"):
        ost.plan(slave.images, distribution=None, folder=folder, key=key, group="nonesuch")
    layout = ost.plan(slave.images, distribution=None, folder=folder, key=key, group="root")

    def refuse(*_words: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    with pytest.raises(HostError, match="the key could not be given to the group root: Operation not permitted"):
        ost.install(layout, is_moved=False)
    assert not [path for path in folder.iterdir() if "id_rsa" in path.name and path.suffix != ".pub"]


def test_who_may_not_read_the_key_is_told(open_path: Path) -> None:
    folder, nobody = open_path, pwd.getpwnam("nobody")
    (folder / "sandbox_id_rsa").touch(mode=0o600)
    # Everything is imported before the rights are given up: the interpreter itself may lie where only root may look.
    program = f"""if True:
        import os
        import builder.cli.harness
        from builder.cli import golden
        os.setgroups([]), os.setgid({nobody.pw_gid}), os.setuid({nobody.pw_uid})
        golden(["harness", "env", "--profile", "ost", "--to", {str(folder)!r}])
    """
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert f"{folder}/sandbox_id_rsa is not yours to read; whoever laid it out can: golden harness install --group" in (
        ended.stderr
    )
    assert f"export OST_IMAGES_DIR={folder}\n" in ended.stdout


def test_rpm_names_the_package_of_an_image(slave: Client) -> None:
    folder = lay_out(slave)
    found = ost.environment(folder, distribution=None, set_already={})
    inside = Path("/") / Path(found["OST_IMAGES_BASE"]).relative_to(slave.root.resolve())
    assert slave.rpm("-qf", "--qf", "%{NAME}", str(inside)) == [found["OST_IMAGES_BASE_PACKAGE"]]


# --- the environment


def test_the_environment_names_what_is_there(slave: Client) -> None:
    folder = lay_out(slave)
    found = ost.environment(folder, distribution=None, set_already={})
    base = slave.images.resolve() / "sandbox-base-20261121.1.qcow2"
    assert found == {
        "OST_IMAGES_DIR": str(folder),
        "OST_IMAGES_DISTRO": "sandbox",
        "OST_IMAGES_SSH_KEY": str(folder / "sandbox_id_rsa"),
        "OST_IMAGES_BASE": str(base),
        "OST_IMAGES_BASE_PACKAGE": "golden-sandbox-base-image-20261121.1",
        "OST_IMAGES_UPGRADE": str(base).replace("base", "upgrade"),
        "OST_IMAGES_UPGRADE_PACKAGE": "golden-sandbox-upgrade-image-20261121.1",
    }


@pytest.mark.parametrize(
    ("layer", "variable"),
    [
        ("node", "NODE"),
        ("engine-installed", "ENGINE_INSTALLED"),
        ("host-installed", "HOST_INSTALLED"),
        ("he-installed", "HE_INSTALLED"),
        ("storage-base", "STORAGE_BASE"),
    ],
)
def test_each_layer_of_the_harness_has_its_variable(tmp_path: Path, layer: str, variable: str) -> None:
    image = tmp_path / f"el9-{layer}-20261121.1.qcow2"
    image.touch()
    (tmp_path / "el9_id_rsa").touch()
    (tmp_path / f"el9-{layer}.qcow2").symlink_to(image)
    found = ost.environment(tmp_path, distribution="el9", set_already={})
    assert found[f"OST_IMAGES_{variable}"] == str(image)
    assert found[f"OST_IMAGES_{variable}_PACKAGE"] == f"golden-el9-{layer}-image-20261121.1"
    renamed = ost.environment(tmp_path, distribution="el9", set_already={}, prefix="acme")
    assert renamed[f"OST_IMAGES_{variable}_PACKAGE"] == f"acme-el9-{layer}-image-20261121.1"


def test_each_variable_can_be_overridden_by_itself(slave: Client) -> None:
    folder = lay_out(slave)
    plain = ost.environment(folder, distribution=None, set_already={})
    for name in plain.keys() - {"OST_IMAGES_DIR", "OST_IMAGES_DISTRO"}:
        found = ost.environment(folder, distribution=None, set_already={name: "mine", "OTHER": "x"})
        assert found == plain | {name: "mine"}


def test_the_folder_that_is_set_is_where_everything_is_looked_for(slave: Client, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    lay_out(slave).rename(moved)
    found = ost.environment(None, distribution=None, set_already={"OST_IMAGES_DIR": str(moved)})
    assert found["OST_IMAGES_DIR"] == str(moved)
    assert found["OST_IMAGES_SSH_KEY"] == str(moved / "sandbox_id_rsa")
    assert found["OST_IMAGES_BASE"] == str(slave.images.resolve() / "sandbox-base-20261121.1.qcow2")
    # What is said on the command line goes before.
    elsewhere = lay_out(slave)
    found = ost.environment(elsewhere, distribution=None, set_already={"OST_IMAGES_DIR": str(moved)})
    assert (found["OST_IMAGES_DIR"], found["OST_IMAGES_SSH_KEY"]) == (
        str(elsewhere),
        str(elsewhere / "sandbox_id_rsa"),
    )
    with pytest.raises(ConfigError, match="nothing is laid out in /none"):
        ost.environment(None, distribution=None, set_already={"OST_IMAGES_DIR": "/none"})


def test_the_distribution_that_is_set_is_the_one_of_several(tmp_path: Path) -> None:
    for name in ("el8", "el9"):
        (tmp_path / f"{name}-base-20261121.1.qcow2").touch()
        (tmp_path / f"{name}-base.qcow2").symlink_to(f"{name}-base-20261121.1.qcow2")
        (tmp_path / f"{name}_id_rsa").touch()
    with pytest.raises(ConfigError, match="there are several distributions in"):
        ost.environment(tmp_path, distribution=None, set_already={})
    for name in ("el8", "el9"):
        found = ost.environment(tmp_path, distribution=None, set_already={"OST_IMAGES_DISTRO": name})
        assert found == {
            "OST_IMAGES_DIR": str(tmp_path),
            "OST_IMAGES_DISTRO": name,
            "OST_IMAGES_SSH_KEY": str(tmp_path / f"{name}_id_rsa"),
            "OST_IMAGES_BASE": str(tmp_path / f"{name}-base-20261121.1.qcow2"),
            "OST_IMAGES_BASE_PACKAGE": f"golden-{name}-base-image-20261121.1",
        }
    with pytest.raises(ConfigError, match="'el10' is not laid out in"):
        ost.environment(tmp_path, distribution=None, set_already={"OST_IMAGES_DISTRO": "el10"})


def test_a_folder_copied_with_its_files_has_its_variables(slave: Client, tmp_path: Path) -> None:
    """No package owns what is in it."""
    copied = tmp_path / "copied"
    shutil.copytree(lay_out(slave), copied)
    found = ost.environment(None, distribution=None, set_already={"OST_IMAGES_DIR": str(copied)})
    assert found == {
        "OST_IMAGES_DIR": str(copied),
        "OST_IMAGES_DISTRO": "sandbox",
        "OST_IMAGES_SSH_KEY": str(copied / "sandbox_id_rsa"),
        "OST_IMAGES_BASE": str(copied / "sandbox-base.qcow2"),
        "OST_IMAGES_UPGRADE": str(copied / "sandbox-upgrade.qcow2"),
    }


def test_a_shell_reads_it(slave: Client) -> None:
    folder = slave.folder / "a folder"
    golden = [sys.executable, "-m", "builder", "harness"]
    words = ["--profile", "ost", "--to", str(folder)]
    more = ["--images", str(slave.images), "--key", str(slave.folder / "id")]
    subprocess.run([*golden, "install", *words, *more], check=True)
    text = subprocess.run([*golden, "env", *words], check=True, capture_output=True, text=True).stdout
    said = subprocess.run(
        ["sh", "-c", f'{text}\ntest -r "$OST_IMAGES_BASE" && echo "$OST_IMAGES_DIR"'],
        check=True,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
    ).stdout
    assert said == f"{folder}\n"
    # What is set before counts for all that follows.
    variables = os.environ | {"OST_IMAGES_DIR": str(folder), "OST_IMAGES_DISTRO": "sandbox"}
    argv = [*golden, "env", "--profile", "ost"]
    assert subprocess.run(argv, check=True, capture_output=True, text=True, env=variables).stdout == text


# --- use


def test_many_overlays_at_once_and_the_image_is_only_read(slave: Client) -> None:
    folder = lay_out(slave)
    image = Path(ost.environment(folder, distribution=None, set_already={})["OST_IMAGES_UPGRADE"])
    before = sha256(image)

    def overlay(number: int) -> Path:
        path = slave.folder / f"overlay-{number}.qcow2"
        query(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, path], why="make an overlay")
        query(["qemu-io", "-c", "write -q -P 1 0 64k", path], why="write to it")
        return path

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        overlays = list(pool.map(overlay, range(16)))
    assert len({str(info(path)["full-backing-filename"]) for path in overlays}) == 1
    assert sha256(image) == before
    assert slave.rpm("--verify", "--all") == []


@pytest.mark.parametrize("is_by_name", [True, False], ids=["by the plain name", "by the environment"])
def test_an_upgrade_leaves_overlays_as_they_are(
    slave: Client, store: Store, publisher: Publisher, is_by_name: bool
) -> None:
    folder = lay_out(slave)
    found = ost.environment(folder, distribution=None, set_already={})
    image = folder / "sandbox-upgrade.qcow2" if is_by_name else Path(found["OST_IMAGES_UPGRADE"])
    path = slave.folder / "overlay.qcow2"
    query(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, path], why="make an overlay")
    raw = slave.folder / "raw"

    def content() -> str:
        query(["qemu-img", "convert", "-O", "raw", path, raw], why="read the overlay")
        return sha256(raw)

    before = content()
    upgrade(slave, store, publisher)
    assert content() == before
    with pytest.raises(ConfigError, match=r"'sandbox-.*' leads to 20261121\.1 and would lead") as refused:
        lay_out(slave)
    assert refused.value.try_next is not None
    assert "--move" in refused.value.try_next
    assert content() == before
    lay_out(slave, move=True)
    assert (folder / "sandbox-upgrade.qcow2").readlink().name == f"sandbox-upgrade-{NEW}.qcow2"
    assert (content() == before) is not is_by_name


def test_a_plain_copied_folder_without_rpm(slave: Client, tmp_path: Path) -> None:
    copy = tmp_path / "copied"
    shutil.copytree(slave.images, copy, symlinks=True)
    layout = ost.plan(copy, distribution="sandbox", folder=tmp_path / "flat", key=slave.folder / "id")
    ost.install(layout, is_moved=False)
    found = info(tmp_path / "flat" / "sandbox-bootstrapped.qcow2")
    assert found["full-backing-filename"] == str(tmp_path / "flat" / "sandbox-upgrade-20261121.1.qcow2")


# --- what is wrong


def test_laying_out_twice_changes_nothing(slave: Client) -> None:
    folder = lay_out(slave)
    layout = ost.plan(slave.images, distribution=None, folder=folder, key=slave.folder / "id")
    assert ost.install(layout, is_moved=False) == []


def test_what_cannot_be_laid_out(slave: Client, tmp_path: Path) -> None:
    key, folder = slave.folder / "id", tmp_path / "flat"
    with pytest.raises(ConfigError, match="no image is installed in"):
        ost.plan(tmp_path, distribution=None, folder=folder, key=key)
    with pytest.raises(ConfigError, match=r"no image of 'sandbx' is installed in .*, did you mean 'sandbox'"):
        ost.plan(slave.images, distribution="sandbx", folder=folder, key=key)
    with pytest.raises(ConfigError, match="the key that lets a harness into the images is not known"):
        ost.plan(slave.images, distribution=None, folder=folder, key=None)
    with pytest.raises(ConfigError, match="nothing is laid out in"):
        ost.environment(folder, distribution=None, set_already={})
    folder.mkdir()
    (folder / "sandbox-base.qcow2").touch()
    layout = ost.plan(slave.images, distribution=None, folder=folder, key=key)
    with pytest.raises(ConfigError, match=r"sandbox-base\.qcow2 is there and is no link"):
        ost.install(layout, is_moved=False)


def test_an_image_that_was_removed_is_told(slave: Client) -> None:
    folder = lay_out(slave)
    slave.dnf("remove", "golden-*")
    with pytest.raises(VerifyError, match="which is gone: its package was removed"):
        ost.environment(folder, distribution=None, set_already={})

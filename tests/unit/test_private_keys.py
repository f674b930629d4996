"""Private keys in guests: packaged only if golden.toml names them, and never the project's own."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from builder import private_keys
from builder.config import load
from builder.errors import ConfigError
from builder.model import Build, Project
from builder.seal import read_digests
from builder.store import Store, sha256, write_atomically
from tests.builds import make_build

DEFINITION = """\
[distribution.sandbox]
inherits = "el9"
[image.sandbox-base]
distribution = "sandbox"
[image.sandbox-upgrade]
parent = "sandbox-base"
keeps_private_keys = { "/root/.ssh/id_rsa" = "files/harness.pub" }
[image.sandbox-app]
parent = "sandbox-upgrade"
flat = true
"""
DIGEST = "a" * 64
HARNESS = "SHA256:" + base64.b64encode(hashlib.sha256(base64.b64decode("AAAA")).digest()).decode().rstrip("=")


def project(folder: Path) -> Project:
    (folder / "files").mkdir()
    (folder / "files/harness.pub").write_text("ssh-ed25519 AAAA harness\n")
    (folder / "golden.toml").write_text(DEFINITION)
    return load(folder / "golden.toml")


def stored(store: Store, image: str, *, parent: Build | None = None, keys: dict[str, str]) -> Build:
    """keys: as the facts have them; each is the one that golden.toml names."""
    held = {"private_keys": keys, "key_fingerprints": dict.fromkeys(keys, HARNESS)}
    build = make_build(image, parent=parent.id if parent else None).model_copy(update=held)
    store.images.mkdir(parents=True, exist_ok=True)
    write_atomically(store.facts(build), build.model_dump_json())
    return build


def test_a_key_that_nobody_named_is_refused_with_its_path_and_what_to_do(tmp_path: Path) -> None:
    store = Store(tmp_path, "demo")
    build = stored(store, "sandbox-base", keys={"/root/.ssh/id_rsa": DIGEST, "/etc/pki/x.key": DIGEST})
    with pytest.raises(ConfigError) as caught:
        private_keys.check(store, [build], private_keys.wanted(project(tmp_path)))
    assert str(caught.value) == (
        "private keys are not packaged unless golden.toml names them: sandbox-base-20261121.1: /root/.ssh/id_rsa; "
        "sandbox-base-20261121.1: /etc/pki/x.key"
    )
    assert caught.value.try_next is not None
    assert caught.value.try_next.endswith(
        "in [image.sandbox-base] of golden.toml: keeps_private_keys = "
        '{ "/root/.ssh/id_rsa" = "FILE.pub", "/etc/pki/x.key" = "FILE.pub" }, with the public halves'
    )


def test_a_key_that_is_named_goes_through_in_all_that_stands_on_it(tmp_path: Path) -> None:
    store = Store(tmp_path, "demo")
    found, keys = project(tmp_path), {"/root/.ssh/id_rsa": DIGEST}
    base = stored(store, "sandbox-base", keys={})
    upgrade = stored(store, "sandbox-upgrade", parent=base, keys=keys)
    app = stored(store, "sandbox-app", parent=upgrade, keys=keys)
    leaf = stored(store, "sandbox-app-private-pr-1", parent=app, keys=keys)
    flat = stored(store, "sandbox-app-flat", keys=keys).model_copy(update={"flattened": app.id})
    private_keys.check(store, [base, upgrade, app, leaf, flat], private_keys.wanted(found))
    # The base is below the image that named it.
    bad = stored(store, "sandbox-base", keys=keys)
    with pytest.raises(ConfigError, match=r"sandbox-base-20261121\.1: /root/\.ssh/id_rsa$"):
        private_keys.check(store, [bad], private_keys.wanted(found))


def test_the_project_s_own_key_is_refused_even_if_it_is_named(tmp_path: Path) -> None:
    store, found = Store(tmp_path, "demo"), project(tmp_path)
    found.ssh_key.parent.mkdir()
    found.ssh_key.write_text("the way in")
    build = stored(store, "sandbox-upgrade", keys={"/root/.ssh/id_rsa": sha256(found.ssh_key)})
    with pytest.raises(ConfigError, match="holds the project's own private key, the way into every image: /root"):
        private_keys.check(store, [build], private_keys.wanted(found))


def test_the_project_s_own_key_is_refused_in_whatever_form_it_is(tmp_path: Path) -> None:
    """Another comment, another format: other bytes, the same key."""
    store, found = Store(tmp_path, "demo"), project(tmp_path)
    found.ssh_key.parent.mkdir()
    public = found.ssh_key.with_name("id_ed25519.pub")
    public.write_text("ssh-ed25519 BBBB me\n")
    held = {"key_fingerprints": {"/root/.ssh/id_rsa": private_keys.fingerprint(public)}}
    build = stored(store, "sandbox-upgrade", keys={"/root/.ssh/id_rsa": DIGEST}).model_copy(update=held)
    with pytest.raises(ConfigError, match="holds the project's own private key, the way into every image: /root"):
        private_keys.check(store, [build], private_keys.wanted(found))


def test_a_key_that_is_named_with_its_public_half_is_that_key(tmp_path: Path) -> None:
    store, found = Store(tmp_path, "demo"), project(tmp_path)
    public = tmp_path / "files/harness.pub"
    public.unlink()
    with pytest.raises(ConfigError, match=r"the public key .*/files/harness\.pub cannot be read: No such file"):
        private_keys.wanted(found)
    public.write_text("not a key\n")
    with pytest.raises(ConfigError, match=r"harness\.pub is no public key as ssh-keygen writes it"):
        private_keys.wanted(found)
    public.write_text("ssh-ed25519 AAAA harness\n")
    build = stored(store, "sandbox-upgrade", keys={"/root/.ssh/id_rsa": DIGEST})
    for fingerprints, said in (
        ({}, "none that ssh takes without a passphrase"),
        ({"/root/.ssh/id_rsa": "SHA256:another"}, "SHA256:another"),
    ):
        other = build.model_copy(update={"key_fingerprints": fingerprints})
        with pytest.raises(ConfigError, match=r"another private key at /root/\.ssh/id_rsa than") as caught:
            private_keys.check(store, [other], private_keys.wanted(found))
        assert str(caught.value).endswith(f": {said}, not {private_keys.fingerprint(public)}")
    right = build.model_copy(update={"key_fingerprints": {"/root/.ssh/id_rsa": private_keys.fingerprint(public)}})
    private_keys.check(store, [right], private_keys.wanted(found))


def test_a_path_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "golden.toml").write_text(DEFINITION.replace('"/root/.ssh/id_rsa"', '"id_rsa"'))
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "golden.toml")
    assert "'id_rsa' is no path in the guest; one begins with '/'" in str(caught.value.problems[0])


def test_what_a_guest_says_of_its_keys_is_not_believed_in_form() -> None:
    good = f"{'0' * 64}  /root/a\nb c"
    assert read_digests(f"{good}\0{'0' * 63}  /x\0{'0' * 64} /y\0{'0' * 64}  relative\0\0nonsense\0") == {
        "/root/a\nb c": "0" * 64
    }

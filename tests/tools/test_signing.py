"""Keys that sign, by real gpg and rpmsign, and what the packages say of where they come from."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from builder import config, starter
from builder.channels import check
from builder.channels import compose as composes
from builder.errors import ConfigError, VerifyError
from builder.model import Build
from builder.package import package
from builder.progress import Reporter
from builder.publication import Signing
from builder.store import Store, sha256
from builder.tools import attestation, gpg, openpgp, rpm
from builder.tools.openpgp import Signer
from tests.builds import add_build, verify_builds
from tests.keys import signing as user_key
from tests.tools.conftest import Publisher


def test_a_new_key_is_for_its_owner_alone_and_no_agent_is_left(tmp_path: Path) -> None:
    file = tmp_path / "keys/signing.asc"
    openpgp.make_key(file, name="golden demo (VM images)")
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert "PRIVATE" not in openpgp.public_file(file).read_text()
    with openpgp.opened(Signing(file=file)) as signer:
        assert signer is not None
        assert signer.key_ids == openpgp.key_ids(openpgp.public_file(file).read_text()) == {signer.fingerprint[-16:]}
        home = signer.home
    assert not home.exists()
    running = subprocess.run(["ps", "-ewwo", "args"], check=True, capture_output=True, text=True).stdout
    assert str(home) not in running
    with pytest.raises(ConfigError, match="there is a key already"):
        openpgp.make_key(file, name="another")


def test_a_signature_is_one_that_others_accept(tmp_path: Path, signing: Signing, signer: Signer) -> None:
    assert signing.file is not None
    file = tmp_path / "repomd.xml"
    file.write_text("<repomd/>")
    signer.sign(file, tmp_path / "repomd.xml.asc")
    key = openpgp.public_file(signing.file)
    assert gpg.signed_text(file, signature=tmp_path / "repomd.xml.asc", key=key, what="x") == b"<repomd/>"


def test_a_key_that_gpg_has_already(tmp_path: Path, store: Store, reporter: Reporter) -> None:
    """Ed25519, as people make them today; in a home of its own, its agent running."""
    with user_key(tmp_path) as owned:
        listed = subprocess.run(
            ["gpg", "--homedir", owned.home, "--with-colons", "-K"], check=True, capture_output=True, text=True
        ).stdout
        fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))
        with openpgp.opened(Signing(key=fingerprint, homedir=owned.home)) as signer:
            assert signer is not None
            publisher = Publisher(store, reporter, signer)
            publisher.publish(add_build(store, "sandbox-base"))
            found = check(store, "candidate", signer=signer)
        assert (found.key, found.attested) == (fingerprint, 1)
        with (
            pytest.raises(ConfigError, match=f"there is no secret key {'A' * 40} in gpg in "),
            openpgp.opened(Signing(key="A" * 40, homedir=owned.home)),
        ):
            pass


def test_a_project_without_its_key_says_what_to_type(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="the project has no key to sign its packages with") as refused,
        openpgp.opened(Signing(file=tmp_path / "none.asc")),
    ):
        pass
    assert str(refused.value.try_next).startswith("golden repo key --make")
    (tmp_path / "public.asc").write_text("-----BEGIN PGP")
    with (
        pytest.raises(ConfigError, match="there is no secret key in"),
        openpgp.opened(Signing(file=tmp_path / "public.asc")),
    ):
        pass


def test_a_project_that_signs_nothing_has_no_signer() -> None:
    with openpgp.opened(None) as signer:
        assert signer is None


def test_golden_init_makes_the_key_and_keeps_it_out_of_git(tmp_path: Path) -> None:
    started = starter.start(tmp_path / "web", distribution="rocky9")
    assert started.signing_key.stat().st_mode & 0o777 == 0o600
    assert "/keys/" in started.gitignore.read_text().splitlines()
    assert config.load(started.file).publication.signing == Signing(file=started.signing_key)
    (tmp_path / "other/keys").mkdir(parents=True)
    (tmp_path / "other/keys/signing.asc").write_text("theirs")
    with pytest.raises(ConfigError, match=r"signing\.asc is there already; nothing was written"):
        starter.start(tmp_path / "other", distribution="rocky9")


def test_rpms_are_signed_before_anything_is_linked_to_them(
    store: Store, chain: dict[str, Build], reporter: Reporter, signer: Signer, tmp_path: Path
) -> None:
    (found,) = package(store, [chain["sandbox-base"]], prefix="golden", reporter=reporter, signer=signer)
    key = tmp_path / "key.asc"
    key.write_text(signer.public_key)
    for path in (found.image_rpm, found.link_rpm):
        assert rpm.signing_key(path) in signer.key_ids
        assert path.stat().st_nlink == 1
    assert rpm.refused([found.image_rpm, found.link_rpm], public_key=key) == {}
    again = package(store, [chain["sandbox-base"]], prefix="golden", reporter=reporter, signer=signer)
    assert not again[0].is_new


def test_packages_of_an_earlier_golden_are_signed_where_they_are_and_stay_the_same_packages(
    store: Store, chain: dict[str, Build], reporter: Reporter, signer: Signer
) -> None:
    (before,) = package(store, [chain["sandbox-base"]], prefix="golden", reporter=reporter, signer=None)
    assert rpm.signing_key(before.image_rpm) is None
    digest, data = rpm.header_digest(before.image_rpm), sha256(before.image_rpm)
    linked = store.root / "linked.rpm"
    linked.hardlink_to(before.image_rpm)
    (after,) = package(store, [chain["sandbox-base"]], prefix="golden", reporter=reporter, signer=signer)
    assert rpm.signing_key(after.image_rpm) in signer.key_ids
    assert rpm.header_digest(after.image_rpm) == digest
    assert sha256(linked) == data  # a compose that has it keeps its bytes


# --- provenance


def beside(store: Store, suffix: str) -> Path:
    (path,) = store.rpms.glob(f"*-image-*{suffix}")
    return path


def inside(rpm_file: Path, name: str, folder: Path) -> bytes:
    folder.mkdir(exist_ok=True)
    subprocess.run(f"rpm2cpio '{rpm_file}' | cpio -idm --quiet", shell=True, cwd=folder, check=True)  # noqa: S602
    return (folder / "usr/share/golden/images" / name).read_bytes()


@pytest.fixture
def packaged(store: Store, reporter: Reporter, signer: Signer) -> Build:
    """A base that was tested and packaged."""
    build = add_build(store, "sandbox-base", description="What all stand on")
    verify_builds(store, build)
    package(store, [build], prefix="golden", reporter=reporter, signer=signer)
    return build


def test_the_same_files_are_in_the_rpm_and_beside_it(store: Store, packaged: Build, tmp_path: Path) -> None:
    image_rpm = beside(store, ".noarch.rpm")
    for suffix, name in ((".build.json", ".json"), (".cdx.json",) * 2, (".intoto.jsonl",) * 2, (".tests.json",) * 2):
        assert beside(store, suffix).read_bytes() == inside(image_rpm, f"{packaged.stem}{name}", tmp_path / "out")
        assert beside(store, suffix).stat().st_mode & 0o777 == 0o444


def test_the_list_of_packages_is_cyclonedx(store: Store, packaged: Build) -> None:
    from cyclonedx.model.bom import Bom

    text = beside(store, ".cdx.json").read_text()
    document = json.loads(text)
    assert document["bomFormat"] == "CycloneDX"
    assert document["specVersion"] == "1.6"
    assert len(Bom.from_json(document).components) == 1  # type: ignore[attr-defined]
    assert document["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": packaged.id.sha256}]
    (component,) = document["components"]
    assert component["purl"] == "pkg:rpm/sandbox/sandbox-base-20261121.1-marker@1-1?arch=noarch&distro=sandbox&epoch=0"
    assert document["dependencies"][0]["ref"]


def statements(store: Store, signer: Signer | None) -> list[dict[str, Any]]:
    return attestation.read(beside(store, ".intoto.jsonl").read_text(), signer=signer, what="the base")


def test_the_statements_say_who_made_it_of_what_and_how_it_was_tested(
    store: Store, packaged: Build, signer: Signer
) -> None:
    provenance, tests = statements(store, signer)
    assert provenance["_type"] == "https://in-toto.io/Statement/v1"
    assert provenance["predicateType"] == "https://slsa.dev/provenance/v1"
    subjects = {subject["name"]: subject["digest"]["sha256"] for subject in provenance["subject"]}
    assert subjects[f"{packaged.stem}.qcow2"] == packaged.id.sha256
    assert subjects[f"{packaged.stem}.cdx.json"] == sha256(beside(store, ".cdx.json"))
    assert subjects[f"{packaged.stem}.json"] == sha256(store.facts(packaged))
    assert provenance["predicate"]["buildDefinition"]["internalParameters"]["key"] == packaged.key
    assert provenance["predicate"]["runDetails"]["metadata"]["finishedOn"].startswith("2024-11-21T10:10:00")
    assert tests["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert tests["predicate"]["result"] == "PASSED"
    assert tests["subject"] == provenance["subject"]


def test_what_a_build_was_made_of_is_named_with_its_digest() -> None:
    from builder.model import ImageId
    from tests.builds import make_build

    parent = ImageId(image="sandbox-base", version="20261121.1", sha256="b" * 64)
    inputs = {"repository updates": f"sha256 {'a' * 64}", "parent sandbox-base": "c" * 64, "step 1: upgrade": "{}"}
    build = make_build("sandbox-upgrade", parent=parent).model_copy(update={"inputs": inputs})
    (statement,) = attestation.statements(build, {}, tests=None)
    definition = statement["predicate"]["buildDefinition"]
    assert definition["resolvedDependencies"] == [
        {"name": "sandbox-base-20261121.1.qcow2", "digest": {"sha256": "b" * 64}},
        {"name": "repository updates", "digest": {"sha256": "a" * 64}},
    ]
    assert definition["externalParameters"]["inputs"] == inputs


def test_a_statement_that_was_changed_or_is_not_signed_is_refused(
    store: Store, packaged: Build, signer: Signer
) -> None:
    first = json.loads(beside(store, ".intoto.jsonl").read_text().splitlines()[0])
    payload = base64.b64decode(first["payload"]).replace(b'"tcg"', b'"kvm"')
    changed = json.dumps({**first, "payload": base64.b64encode(payload).decode()})
    unsigned = json.dumps({**first, "signatures": []})
    for text in (changed, unsigned, "{}", "nonsense"):
        with pytest.raises(VerifyError, match="the attestation of x is damaged or not signed with the project's key"):
            attestation.read(text, signer=signer, what="x")


def test_check_compares_what_lies_beside_a_package_with_what_was_signed(
    store: Store, packaged: Build, signer: Signer, reporter: Reporter
) -> None:
    publisher = Publisher(store, reporter, signer)
    publisher.publish(packaged)
    assert check(store, "candidate", signer=signer).attested == 1
    folder = composes.need_current(store.channels / "candidate") / "Packages"
    (bom,) = folder.glob("*.cdx.json")
    text = bom.read_text().replace("marker", "merker")
    bom.unlink()
    bom.write_text(text)
    with pytest.raises(VerifyError, match="is not sound") as refused:
        check(store, "candidate", signer=signer)
    assert refused.value.details == [("attestation", f"{bom} is not the file that its statement vouches for")]


def test_check_refuses_unsigned_and_foreign_signatures(
    store: Store, packaged: Build, signer: Signer, reporter: Reporter, tmp_path: Path
) -> None:
    publisher = Publisher(store, reporter, signer)
    publisher.publish(packaged)
    file = tmp_path / "other.asc"
    openpgp.make_key(file, name="another")
    with openpgp.opened(Signing(file=file)) as other, pytest.raises(VerifyError) as refused:
        check(store, "candidate", signer=other)
    said = "\n".join(text for _, text in refused.value.details)
    assert "the signature of repomd.xml was refused: it is signed with another key" in said
    assert said.count("SIGNATURES NOT OK") == 2
    assert "is not the public half of the project's key" in said
    (composes.need_current(store.channels / "candidate") / "repodata/repomd.xml.asc").unlink()
    with pytest.raises(VerifyError) as refused:
        check(store, "candidate", signer=signer)
    assert [label for label, _ in refused.value.details] == ["unsigned"]


def test_the_environment_s_gpg_home_is_not_touched(
    store: Store,
    chain: dict[str, Build],
    reporter: Reporter,
    signer: Signer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    monkeypatch.setenv("HOME", str(home))
    Publisher(store, reporter, signer).publish(chain["sandbox-base"])
    assert {path.name for path in home.iterdir()} <= {".rpmdb"}  # which rpm makes when it is asked anything

"""Signatures by real gpg, with keys made for the test."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder.errors import ConfigError, VerifyError
from builder.tools import gpg
from tests.keys import Signer, signing

TEXT = "0" * 64 + "  x.iso\n"


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signer]:
    with signing(tmp_path_factory.mktemp("signer")) as made:
        yield made


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signer]:
    with signing(tmp_path_factory.mktemp("other")) as made:
        yield made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "CHECKSUM"
    path.write_text(TEXT)
    return path


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(VerifyError) as caught:
        call()
    assert [label for label, _ in caught.value.details] == ["key"]
    return caught.value.what


def test_a_detached_signature(signer: Signer, file: Path) -> None:
    signature = signer.detached(file)
    assert gpg.signed_text(file, signature=signature, key=signer.key, what="x") == TEXT.encode()


def test_of_a_clearsigned_file_only_what_was_signed_counts(signer: Signer, file: Path) -> None:
    signed = signer.clearsigned(file)
    signed.write_text(f"{'f' * 64}  x.iso\n{signed.read_text()}\n{'f' * 64}  x.iso\n")
    assert gpg.signed_text(signed, signature=None, key=signer.key, what="x") == TEXT.encode()


def test_a_file_changed_after_it_was_signed(signer: Signer, file: Path) -> None:
    signature, signed = signer.detached(file), signer.clearsigned(file)
    file.write_text(TEXT.replace("0", "1"))
    signed.write_text(signed.read_text().replace("0" * 64, "1" * 64))
    expected = "the signature of x was refused: the signature does not fit: the file was changed after it was signed"
    found = refusal(lambda: gpg.signed_text(file, signature=signature, key=signer.key, what="x"))
    assert found.startswith(expected)
    found = refusal(lambda: gpg.signed_text(signed, signature=None, key=signer.key, what="x"))
    assert found.startswith(expected)


def test_a_good_signature_by_another_key(signer: Signer, other: Signer, file: Path) -> None:
    signature = other.detached(file)
    found = refusal(lambda: gpg.signed_text(file, signature=signature, key=signer.key, what="x"))
    assert found.startswith("the signature of x was refused: it is signed with another key (key ")


def test_an_expired_key(tmp_path: Path, file: Path) -> None:
    with signing(tmp_path, when="20200101T000000", expires="1d") as old:
        signature = old.detached(file)
        found = refusal(lambda: gpg.signed_text(file, signature=signature, key=old.key, what="x"))
    assert found.startswith("the signature of x was refused: it is signed with a key that has expired")


def test_no_signature_at_all(signer: Signer, file: Path) -> None:
    found = refusal(lambda: gpg.signed_text(file, signature=None, key=signer.key, what="x"))
    assert found == "the signature of x was refused: there is no signature in it"


def test_a_missing_key_and_one_that_is_none(tmp_path: Path, file: Path) -> None:
    gone = tmp_path / "gone.asc"
    with pytest.raises(ConfigError, match=f"the key that x has to be signed with is not there: {gone}"):
        gpg.signed_text(file, signature=None, key=gone, what="x")
    with pytest.raises(ConfigError, match="holds no OpenPGP public key"):
        gpg.signed_text(file, signature=None, key=file, what="x")


def test_the_user_s_keyring_is_not_asked(
    signer: Signer, other: Signer, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the user trusts a key, golden does not."""
    monkeypatch.setenv("GNUPGHOME", str(other.home))
    signature = other.detached(file)
    assert subprocess.run(["gpg", "--verify", signature, file], capture_output=True, check=False).returncode == 0
    found = refusal(lambda: gpg.signed_text(file, signature=signature, key=signer.key, what="x"))
    assert "it is signed with another key" in found

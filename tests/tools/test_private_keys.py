"""Private keys in a guest, found by the very lines that the seal runs there."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from builder.private_keys import fingerprint
from builder.seal import list_private_keys, read_digests, read_fingerprints

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


def test_keys_of_every_kind_are_found_and_nothing_else_is(tmp_path: Path) -> None:
    guest, answer = tmp_path / "guest", tmp_path / "answer"
    (guest / "home/a b").mkdir(parents=True)
    (guest / "etc").mkdir()
    openssh, pkcs8 = guest / "home/a b/id 'x'", guest / "etc/server.pem"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", openssh], check=True)
    rsa = guest / "etc/old.key"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "1024", "-m", "PEM", "-N", "", "-f", rsa], check=True)
    pkcs8.write_text(f"{CERTIFICATE}-----BEGIN PRIVATE KEY-----\nMC4C\n-----END PRIVATE KEY-----\n")
    (guest / "etc/only-certificate.pem").write_text(CERTIFICATE)
    (guest / "etc/notes").write_text("grep for '-----BEGIN PRIVATE KEY-----'\n")
    (guest / "etc/link").symlink_to(rsa)
    (guest / "etc/binary").write_bytes(bytes(range(256)) * 100)
    script = list_private_keys([str(guest / "home"), str(guest / "etc"), str(guest / "missing")], str(answer))
    subprocess.run(["sh", "-euc", script], check=True)
    assert read_digests(answer.read_text()) == {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in (openssh, pkcs8, rsa)
    }
    named = read_fingerprints((tmp_path / "answer-fingerprints").read_text())
    assert named == {str(path): fingerprint(path.with_name(f"{path.name}.pub")) for path in (openssh, rsa)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answer", "answer-fingerprints", "guest"]


def test_one_key_in_files_of_other_bytes_is_one_key(tmp_path: Path) -> None:
    """As PEM, for all to read, and with another comment; a key with a passphrase tells nothing."""
    guest, answer = tmp_path / "guest", tmp_path / "answer"
    guest.mkdir()
    keys = {name: guest / name for name in ("one", "other", "locked")}
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-C", "me", "-f", keys["one"]], check=True)
    for name, words in (("other", ["-N", "", "-m", "PEM"]), ("locked", ["-N", "a passphrase"])):
        keys[name].write_bytes(keys["one"].read_bytes())
        keys[name].chmod(0o600)
        subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", *words, "-f", keys[name]], check=True)
    keys["other"].chmod(0o644)
    subprocess.run(["sh", "-euc", list_private_keys([str(guest)], str(answer))], check=True)
    assert len(set(read_digests(answer.read_text()).values())) == 3
    one = fingerprint(guest / "one.pub")
    assert read_fingerprints((tmp_path / "answer-fingerprints").read_text()) == {
        str(keys["one"]): one,
        str(keys["other"]): one,
    }
    said = subprocess.run(["ssh-keygen", "-l", "-f", guest / "one.pub"], check=True, capture_output=True, text=True)
    assert said.stdout.split()[1] == one


def test_a_guest_without_any(tmp_path: Path) -> None:
    subprocess.run(["sh", "-euc", list_private_keys([str(tmp_path)], str(tmp_path / "answer"))], check=True)
    assert (tmp_path / "answer").read_text() == ""

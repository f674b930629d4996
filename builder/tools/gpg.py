"""GnuPG: whether a file was signed with one certain key. The user's own keyring is neither read nor written."""

from __future__ import annotations

import tempfile
from pathlib import Path

from builder import run
from builder.errors import ConfigError, VerifyError

# What gpg reports on its status stream, worst first, and what it means for the user. A key that has expired or was
# revoked makes gpg end with 0 all the same. Source: GnuPG, doc/DETAILS, "Status codes".
_REFUSED = {
    "BADSIG": "the signature does not fit: the file was changed after it was signed",
    "REVKEYSIG": "it is signed with a key that was revoked",
    "EXPKEYSIG": "it is signed with a key that has expired",
    "EXPSIG": "the signature has expired",
    "NO_PUBKEY": "it is signed with another key",
    "ERRSIG": "the signature cannot be checked",
    "NODATA": "there is no signature in it",
}

# Where the package distribution-gpg-keys puts the keys of distributions. Source: its spec.
_PACKAGED_KEYS = Path("/usr/share/distribution-gpg-keys")


def signed_text(file: Path, *, signature: Path | None, key: Path, what: str) -> bytes:
    """What of `file` was signed with `key`: all of it with a `signature` apart, else what lies inside its clearsign.

    what: the file as users know it. Raises ConfigError if `key` is missing or no public key, VerifyError with the
    reason if nothing, or something else, was signed with it.
    """
    if not key.is_file():
        raise ConfigError(
            f"the key that {what} has to be signed with is not there: {key}",
            try_next="install distribution-gpg-keys (of Fedora and EPEL), or name a file of your own: gpg_key = …"
            if key.is_relative_to(_PACKAGED_KEYS)
            else None,
        )
    with tempfile.TemporaryDirectory(prefix="golden-gpg-") as folder:
        home = Path(folder)
        gpg = ["gpg", "--homedir", folder, "--batch", "--no-tty", "--no-autostart", "--status-fd", "1"]
        imported = run.query([*gpg, "--import", key], why=f"read the key {key}", ok=(0, 1, 2))
        if "IMPORT_OK" not in _codes(imported):
            raise ConfigError(f"{key} holds no OpenPGP public key")
        inside = home / "signed"
        if signature is not None:
            argv: list[str | Path] = [*gpg, "--verify", signature, file]
        else:
            argv = [*gpg, "--output", inside, "--decrypt", file]
        codes = _codes(run.query(argv, why=f"check the signature of {what}", ok=(0, 1, 2)))
        # Signatures of others beside the one that counts do no harm: `only that key` is the keyring's business.
        if not {"GOODSIG", "VALIDSIG"} <= set(codes) or "BADSIG" in codes:
            reasons = [f"{text}{_signer(codes[code])}" for code, text in _REFUSED.items() if code in codes]
            raise VerifyError(
                f"the signature of {what} was refused: {reasons[0] if reasons else 'gpg found no good one'}",
                details=[("key", str(key))],
            )
        return file.read_bytes() if signature is not None else inside.read_bytes()


def _codes(status: str) -> dict[str, str]:
    """Status code -> its arguments, of the first line that has it."""
    found: dict[str, str] = {}
    for line in status.splitlines():
        prefix, _, rest = line.partition(" ")
        if prefix == "[GNUPG:]":
            code, _, words = rest.partition(" ")
            found.setdefault(code, words)
    return found


def _signer(arguments: str) -> str:
    first = arguments.partition(" ")[0]
    return f" (key {first})" if len(first) >= 16 else ""

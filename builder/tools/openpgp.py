"""OpenPGP keys that sign: the project's own from a file, or one that the user's gpg has. `gpg` is the reader's side.

A key from a file is taken into a keyring of its own for the time of the work, in memory, at a short path: gpg-agent's
socket needs one. No agent is left behind; what a golden that was killed left is cleared by the next one.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from builder import run
from builder.errors import ConfigError
from builder.publication import Signing
from builder.store import write_atomically

# What every rpm since EL7 verifies, and 128 bits of security (NIST SP 800-57): rpm learned Ed25519 later.
_ALGORITHM = "rsa3072"
_MEMORY = Path("/dev/shm")
_AGENT_ENDS_S = 5.0


@dataclass(frozen=True)
class Signer:
    """A key that can sign here. fingerprint: 40 hex digits. home: the keyring that has the secret half, as GNUPGHOME.

    signing_fingerprint: of the subkey that gpg signs with, or of the key itself. public_key: armored. key_ids: of the
    key and its subkeys, 16 hex digits each, as signatures name them.
    """

    fingerprint: str
    signing_fingerprint: str
    home: Path
    public_key: str
    key_ids: frozenset[str]

    def sign(self, file: Path, signature: Path) -> None:
        """Write an armored signature of `file` to `signature`. Raises HostError or ToolError."""
        argv: list[str | Path] = [*_gpg(self.home), "--yes", "--armor", "--local-user", self.fingerprint]
        run.query([*argv, "--output", signature, "--detach-sign", file], why=f"sign {file.name}")


@contextlib.contextmanager
def opened(signing: Signing | None) -> Iterator[Signer | None]:
    """The project's key, ready to sign while the block runs; None if the project does not sign.

    Raises ConfigError if the key is not there, HostError or ToolError from gpg.
    """
    if signing is None:
        yield None
    elif signing.file is None:
        home = signing.homedir or Path(os.environ.get("GNUPGHOME") or Path.home() / ".gnupg")
        yield _signer(home, str(signing.key), where=f"gpg in {home}")
    else:
        if not signing.file.is_file():
            raise ConfigError(
                f"the project has no key to sign its packages with: there is no {signing.file}",
                try_next='golden repo key --make, or say in golden.toml under [signing]: key = "FINGERPRINT", '
                "or unsigned = true",
            )
        with _keyring() as home:
            run.query([*_gpg(home), "--import", signing.file], why=f"read the key {signing.file}", ok=(0, 2))
            yield _signer(home, None, where=str(signing.file))


def make_key(file: Path, *, name: str) -> None:
    """A new key without a passphrase: its secret half in `file`, for its owner alone, the public one beside it.

    name: whose it is, as dnf shows it to those who trust it. It never expires: clients could not be told in time.
    Raises ConfigError if there is one, HostError or ToolError from gpg.
    """
    if file.exists() or file.is_symlink():
        raise ConfigError(f"there is a key already: {file}")
    with _keyring() as home:
        words = ["--quick-generate-key", name, _ALGORITHM, "sign", "never"]
        run.query(
            [*_gpg(home), "--passphrase", "", "--allow-freeform-uid", *words], why="make the signing key", timeout_s=300
        )
        signer = _signer(home, None, where="the new keyring")
        secret = run.query([*_gpg(home), "--armor", "--export-secret-keys"], why="write the signing key")
    file.parent.mkdir(mode=0o700, exist_ok=True)
    write_atomically(public_file(file), signer.public_key)
    # Whole or not at all, never over another one, and at no time for other eyes.
    handle, part = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(secret)
            stream.flush()
            os.fsync(stream.fileno())
        os.link(part, file)
    finally:
        Path(part).unlink()


def owner(project: str) -> str:
    """How the key of a project is called."""
    return f"golden {project} (VM images)"


def public_file(file: Path) -> Path:
    """Where the public half of the key in `file` lies: `signing.asc` -> `signing.pub.asc`."""
    return file.with_suffix(f".pub{file.suffix}")


def key_ids(public_key: str) -> frozenset[str]:
    """The ids of all keys and subkeys in armored text, 16 hex digits each. Raises ConfigError if there is none."""
    with _keyring() as home:
        file = home / "key.asc"
        file.write_text(public_key, encoding="utf-8")
        listed = run.query([*_gpg(home), "--with-colons", "--show-keys", file], why="read a public key", ok=(0, 2))
    found = _ids(listed)
    if not found:
        raise ConfigError("there is no OpenPGP public key in it")
    return found


def end_agent(home: Path) -> None:
    """End the agent of a keyring; it is over when this returns. It holds the secret key, and answers before it ends."""
    argv: list[str | Path] = ["gpg-connect-agent", "--homedir", home, "--no-autostart", "GETINFO pid", "/bye"]
    found = re.match(r"D (\d+)$", run.query(argv, why="find gpg's agent", ok=(0, 1, 2)), re.MULTILINE)
    agent = _process(int(found[1])) if found else None
    run.query(["gpgconf", "--homedir", home, "--kill", "all"], why="end gpg's agent", ok=(0, 1, 2))
    if agent is not None:
        with os.fdopen(agent, "rb", buffering=0) as process:
            if not select.select([process], [], [], _AGENT_ENDS_S)[0]:
                signal.pidfd_send_signal(process.fileno(), signal.SIGKILL)
                select.select([process], [], [], _AGENT_ENDS_S)


def _signer(home: Path, fingerprint: str | None, *, where: str) -> Signer:
    listed = run.query(
        [*_gpg(home), "--with-colons", "--list-secret-keys", *([fingerprint] if fingerprint else [])],
        why="look for the signing key",
        ok=(0, 2),
    )
    found = [line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:")]
    if not found:
        raise ConfigError(
            f"there is no secret key {f'{fingerprint} ' if fingerprint else ''}in {where}",
            try_next="gpg --list-secret-keys --fingerprint",
        )
    public = run.query([*_gpg(home), "--armor", "--export", fingerprint or found[0]], why="read the public key")
    return Signer(
        fingerprint=found[0],
        signing_fingerprint=_signing_fingerprint(listed) or found[0],
        home=home,
        public_key=public,
        key_ids=_ids(listed),
    )


def _signing_fingerprint(listed: str) -> str | None:
    """Of the newest key or subkey that may sign, which is the one that gpg takes.

    Source: GnuPG, doc/DETAILS, "Format of the colon listings", fields 2 (validity), 6 (created), 12 (capabilities).
    """
    found: list[tuple[int, str]] = []
    created = None
    for record in (line.split(":") for line in listed.splitlines()):
        if record[0] in ("sec", "ssb"):
            created = int(record[5]) if "s" in record[11] and record[1] not in ("e", "r") else None
        elif record[0] == "fpr" and created is not None:
            found.append((created, record[9]))
            created = None
    return max(found)[1] if found else None


def _ids(listed: str) -> frozenset[str]:
    """Source: GnuPG, doc/DETAILS, "Format of the colon listings", field 5."""
    records = (line.split(":") for line in listed.splitlines())
    return frozenset(record[4] for record in records if record[0] in ("sec", "ssb", "pub", "sub"))


@contextlib.contextmanager
def _keyring() -> Iterator[Path]:
    memory = _MEMORY if os.access(_MEMORY, os.W_OK) else Path("/tmp")
    for left in memory.glob("golden-key-*"):
        if _is_left(left):
            end_agent(left)
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=f"golden-key-{os.getpid()}-", dir=memory, ignore_cleanup_errors=True
    ) as folder:
        try:
            yield Path(folder)
        finally:
            end_agent(Path(folder))


def _is_left(folder: Path) -> bool:
    """Whether it is the keyring of a golden of this user's that was killed: the secret key must not lie about."""
    process = folder.name.removeprefix("golden-key-").partition("-")[0]
    try:
        is_ours = folder.lstat().st_uid == os.geteuid() and not folder.is_symlink()
    except FileNotFoundError:
        return False
    return is_ours and process.isdigit() and not Path("/proc", process).exists()


def _process(number: int) -> int | None:
    """A handle that is readable once the process has ended; None if it has. Source: pidfd_open(2)."""
    try:
        return os.pidfd_open(number)
    except ProcessLookupError:
        return None


def _gpg(home: Path) -> list[str | Path]:
    return ["gpg", "--homedir", home, "--batch", "--no-tty", "--quiet"]

"""Private keys in guests: which ones may be packaged, and which builds hold others."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import Field

from builder.errors import ConfigError
from builder.model import Build, Frozen, Project
from builder.store import Store, sha256

# How PEM and OpenSSH's own format begin and end a private key. Sources: RFC 7468; OpenSSH, PROTOCOL.key.
MARK = b"PRIVATE KEY-----"


class Wanted(Frozen):
    """What a project says of private keys. Nothing said: none is packaged.

    kept: image -> paths in its guest, those of the images that it stands on with it, and the fingerprint of the key
    that may be there. own: SHA-256 and fingerprint of the project's own private key, the way
    into every image, which is never packaged.
    """

    kept: dict[str, dict[str, str]] = Field(default={})
    own: tuple[str, ...] = ()

    def keys(self, images: Iterable[str]) -> dict[str, str]:
        return {path: key for image in images for path, key in self.kept.get(image, {}).items()}


def wanted(project: Project) -> Wanted:
    """Raises ConfigError for a public key that is named and cannot be read."""
    kept = {
        name: {
            path: fingerprint(public)
            for image in reversed(project.chain(name))
            for path, public in image.keeps_private_keys.items()
        }
        for name in project.images
    }
    public = project.ssh_key.with_name(f"{project.ssh_key.name}.pub")
    own = [sha256(project.ssh_key)] if project.ssh_key.is_file() else []
    own += [fingerprint(public)] if public.is_file() else []
    return Wanted(kept=kept, own=tuple(own))


def fingerprint(public: Path) -> str:
    """As ssh-keygen writes it, "SHA256:…". Raises ConfigError. Source: RFC 4648, section 4; ssh-keygen(1), "-l"."""
    try:
        blob = base64.b64decode(public.read_text(encoding="utf-8").split()[1], validate=True)
    except OSError as error:
        raise ConfigError(f"the public key {public} cannot be read: {error.strerror}") from error
    except (ValueError, IndexError) as error:
        raise ConfigError(f"{public} is no public key as ssh-keygen writes it: KIND BASE64 COMMENT") from error
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def check(store: Store, builds: Sequence[Build], wanted: Wanted) -> None:
    """Raises ConfigError for builds whose guests hold private keys that the project does not name."""
    problems: list[str] = []
    unnamed: dict[str, list[str]] = {}
    for build in builds:
        lineage = {link.image for link in store.chain(build)} | ({build.source.image} if build.source else set())
        allowed = wanted.keys(lineage)
        for path, digest in build.private_keys.items():
            found = build.key_fingerprints.get(path)
            if digest in wanted.own or found in wanted.own:
                raise ConfigError(
                    f"'{build.stem}' holds the project's own private key, the way into every image: {path}",
                    try_next=f'in [image.{build.image}] of golden.toml: steps = [ …, {{ run = "rm {path}" }} ]; and a '
                    "new key for the project, if the image was given to anybody",
                )
            if (key := allowed.get(path)) is not None and key != found:
                raise ConfigError(
                    f"'{build.stem}' holds another private key at {path} than golden.toml names: "
                    f"{found or 'none that ssh takes without a passphrase'}, not {key}",
                    try_next="put the key there whose public half golden.toml names, in a step; or name the other one",
                )
            if path not in allowed:
                problems.append(f"{build.stem}: {path}")
                unnamed.setdefault(build.image, []).append(path)
    if problems:
        image, paths = next(iter(unnamed.items()))
        named = ", ".join(f'"{path}" = "FILE.pub"' for path in paths)
        raise ConfigError(
            f"private keys are not packaged unless golden.toml names them: {'; '.join(problems)}",
            try_next=f"remove them in a step; or, if all who get the image may have them, in [image.{image}] of "
            f"golden.toml: keeps_private_keys = {{ {named} }}, with the public halves",
        )

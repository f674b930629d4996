"""A channel as its clients will read it: metadata, signatures, every byte, every requirement."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

from builder.channels import compose as composes
from builder.channels.sets import missing_requirements
from builder.errors import VerifyError
from builder.model import Frozen
from builder.store import Store, sha256
from builder.tools import createrepo, gpg, rpm
from builder.tools.createrepo import Package
from builder.tools.openpgp import Signer


class Checked(Frozen):
    """A channel in which nothing is wrong. size_bytes: of all its packages. key: the fingerprint that signs it.

    attested: packages with statements of where they come from, all of them proven.
    """

    channel: str
    compose: str
    packages: int
    size_bytes: int
    key: str | None = None
    attested: int = 0


def check(store: Store, channel: str, *, signer: Signer | None) -> Checked:
    """Read a channel as its clients will: metadata, every byte and signature of every RPM, every requirement.

    signer: the project's key; None where it signs nothing, and then signatures are not looked at.
    Raises VerifyError with all that is wrong, ConfigError if nothing was published to it.
    """
    compose = composes.need_current(store.channels / channel)
    packages = createrepo.read(compose)
    wrong = [("missing", line) for line in missing_requirements(packages)]
    there = []
    for package in packages:
        path = compose / package.href
        if not path.exists():
            wrong.append(("gone", str(path)))
        elif sha256(path) != package.sha256:
            wrong.append(("damaged", f"{path}: its SHA-256 is not the one in the metadata"))
        else:
            there.append(package)
    known = {package.file_name for package in packages}
    wrong += [("stray", str(path)) for path in sorted((compose / "Packages").glob("*.rpm")) if path.name not in known]
    if signer is not None:
        wrong += _signatures(compose, there, signer)
    attested, refused = _attestations(compose, there, signer)
    wrong += refused
    if wrong:
        raise VerifyError(
            f"compose {compose.name} of the channel '{channel}' is not sound",
            details=wrong,
            try_next=f"golden rollback {channel}, which takes clients back to the compose before",
        )
    return Checked(
        channel=channel,
        compose=compose.name,
        packages=len(packages),
        size_bytes=sum(package.size_bytes for package in packages),
        key=signer.fingerprint if signer else None,
        attested=attested,
    )


def _signatures(compose: Path, packages: Iterable[Package], signer: Signer) -> list[tuple[str, str]]:
    """Of the metadata and of every RPM, verified with the project's key alone, as a client does."""
    wrong = []
    with tempfile.TemporaryDirectory(prefix="golden-check-") as folder:
        key = Path(folder) / composes.KEY
        key.write_text(signer.public_key, encoding="utf-8")
        repomd = compose / "repodata/repomd.xml"
        signature = repomd.with_name("repomd.xml.asc")
        if not signature.exists():
            wrong.append(("unsigned", str(repomd)))
        else:
            try:
                gpg.signed_text(repomd, signature=signature, key=key, what="repomd.xml")
            except VerifyError as error:
                wrong.append(("signature", error.what))
        published = compose.parent.parent / composes.KEY
        if not published.exists() or published.read_text(encoding="utf-8") != signer.public_key:
            wrong.append(("key", f"{published} is not the public half of the project's key"))
        refused = rpm.refused([compose / package.href for package in packages], public_key=key)
        wrong += [("signature", f"{path}: {answer}") for path, answer in refused.items()]
    return wrong


def _attestations(
    compose: Path, packages: Iterable[Package], signer: Signer | None
) -> tuple[int, list[tuple[str, str]]]:
    """How many packages have statements that hold, and what is wrong with the others."""
    from builder.tools import attestation  # its libraries take a quarter of a second to load

    count, wrong = 0, []
    for package in packages:
        build, bom, statements, _ = composes.companions(compose / package.href)
        if not statements.exists():
            continue
        try:
            text = statements.read_text(encoding="utf-8")
            subjects = {
                subject["name"]: subject["digest"]["sha256"]
                for statement in attestation.read(text, signer=signer, what=package.file_name)
                for subject in statement["subject"]
            }
            stem = _stem(build)
        except (VerifyError, KeyError, ValueError, TypeError, OSError) as error:
            reason = f"{error.what}: {dict(error.details)['reason']}" if isinstance(error, VerifyError) else str(error)
            wrong.append(("attestation", f"{statements}: {reason}"))
            continue
        for path, name in ((build, f"{stem}.json"), (bom, f"{stem}.cdx.json")):
            if not path.exists() or sha256(path) != subjects.get(name):
                wrong.append(("attestation", f"{path} is not the file that its statement vouches for"))
        ids = [name for name, *_ in package.provides if name.startswith("golden-image-id(")]
        if not any(f":{subjects.get(f'{stem}.qcow2')})" in name for name in ids):
            wrong.append(("attestation", f"{statements} is of another image than {package.file_name}"))
        count += 1
    return count, wrong


def _stem(build: Path) -> str:
    id = json.loads(build.read_text(encoding="utf-8"))["id"]
    return f"{id['image']}-{id['version']}"

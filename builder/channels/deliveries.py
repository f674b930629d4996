"""What builders on other machines hand in, and how it comes into a channel: one by one, each whole or not at all.

delivered/sandbox-web-20261121.1.3f2a…/*.rpm, and what belongs to each, under its name
                                       check.json         where a build came out as the one that stands
                                       delivery.json.asc  the project's signature, if it signs
                                       delivery.json      the digests of all of it; it comes last
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from builder import checks
from builder.channels import compose as composes
from builder.channels import publication, sets
from builder.checks import Check
from builder.errors import ConfigError, VerifyError
from builder.locks import lock
from builder.model import Frozen, ImageId
from builder.store import Store, read_build, sha256, write_atomically
from builder.tools import createrepo, gpg, rsync
from builder.tools.openpgp import Signer

MANIFEST = "delivery.json"
_SIGNATURE = "delivery.json.asc"
_CHECK = "check.json"
_REFUSED = "refused"


class Delivery(Frozen):
    """`delivery.json`. id, key: of the build, or of the one that stands as nothing new came. files: name -> SHA-256."""

    format: Literal[1] = 1
    id: ImageId
    key: str
    files: dict[str, str]

    @property
    def folder(self) -> str:
        """Two machines may give one version to two builds."""
        return f"{self.id.stem}.{self.id.sha256[:12]}"


class Accepted(Frozen):
    """outcome: "there" is what the channel had already, from whoever was first; "nothing new" a build that stands."""

    id: ImageId
    outcome: Literal["published", "there", "nothing new"]
    compose: str | None


def deliver(
    store: Store,
    id: ImageId,
    *,
    key: str,
    rpms: Sequence[Path],
    check: Check | None,
    signer: Signer | None,
    target: str,
) -> str:
    """Bring the RPMs of a build, and what belongs to them, to `target`, as rsync has it; returns the delivery's name.

    check: that it was built again and came out as it was, for one that is in the channel. What an earlier call brought
    is not sent again. Raises HostError or ToolError from rsync.
    """
    log = store.root / "logs" / f"deliver-{id.image}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    staged = store.root / "deliver" / id.image
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        for source in [path for rpm in rpms for path in (rpm, *composes.companions(rpm)) if path.exists()]:
            composes.link(source, staged / source.name)
        if check is not None:
            write_atomically(staged / _CHECK, check.model_dump_json(indent=2) + "\n")
        files = {path.name: sha256(path) for path in sorted(staged.iterdir())}
        delivery = Delivery(id=id, key=key, files=files)
        write_atomically(staged / MANIFEST, delivery.model_dump_json(indent=2) + "\n")
        if signer is not None:
            signer.sign(staged / MANIFEST, staged / _SIGNATURE)
        there = f"{target.rstrip('/')}/{delivery.folder}"
        rsync.make_folder(there, log=log)
        rsync.copy(staged, there, excluded=(f"/{MANIFEST}",), log=log)
        rsync.copy_file(staged / MANIFEST, there, log=log)
    finally:
        shutil.rmtree(staged)
    return delivery.folder


def delivered(folder: Path) -> list[str]:
    """The names of what has come in full, in the order in which it came."""
    found = sorted(folder.glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime_ns)
    return [path.parent.name for path in found]


def accept(
    store: Store,
    folder: Path,
    names: Sequence[str] = (),
    *,
    channel: str,
    prefix: str,
    url: str,
    signer: Signer | None,
    note: Callable[[str], None],
) -> list[Accepted]:
    """Publish what was delivered in full, and take the records of its tests; what is accepted is gone from `folder`.

    names: of deliveries; none for all that are there. Only one golden does so at a time, and another waits. What is not
    sound is put aside, in `folder`/refused.
    Raises ConfigError for a name that is not there, VerifyError naming all that was refused; the rest is published.
    """

    def waiting(holder: str) -> None:
        note(f"another golden writes; waiting for {holder}")

    found, refused = [], []
    with (
        lock(store.root / "accept.lock", what=f"the deliveries in {folder}", waiting=waiting),
        publication.locked(store, channel, waiting=waiting),
    ):
        there = delivered(folder)
        for name in names:
            if name not in there:
                raise ConfigError(
                    f"there is no whole delivery '{name}' in {folder}",
                    try_next="golden step IMAGE: it says if the channel has it already",
                )
        for place in (folder / name for name in names or there):
            try:
                found.append(_accept(store, place, channel=channel, prefix=prefix, url=url, signer=signer))
                shutil.rmtree(place)
            except VerifyError as error:
                refused.append((place.name, "; ".join([error.what, *(text for _, text in error.details)])))
                _put_aside(place)
    if refused:
        raise VerifyError(
            f"{len(refused)} of {len(found) + len(refused)} deliveries were refused",
            details=[*refused, ("kept", str(folder / _REFUSED))],
            try_next="golden step IMAGE again, on any machine",
        )
    return found


def _accept(store: Store, folder: Path, *, channel: str, prefix: str, url: str, signer: Signer | None) -> Accepted:
    """One delivery. The caller holds the channel's lock."""
    delivery = _read(folder, signer=signer)
    current = composes.current(store.channels / channel)
    there = sets.members(createrepo.read(current), prefix=prefix) if current else {}
    rpms = sorted(folder / name for name in delivery.files if name.endswith(".rpm"))
    if not rpms:
        _take_check(store, folder, delivery, there.get(delivery.id.stem))
        return Accepted(id=delivery.id, outcome="nothing new", compose=current.name if current else None)
    brought = sets.members([createrepo.read_rpm(path, href=path.name) for path in rpms], prefix=prefix)
    if delivery.id.stem not in brought:
        raise VerifyError(f"the delivery does not hold the RPM of {delivery.id.stem}")
    other = there.get(delivery.id.stem)
    if other is not None and current is not None:
        if other.id != delivery.id:
            _need_same_key(current / other.image_rpm.href, delivery)
        return Accepted(id=other.id, outcome="there", compose=current.name)
    decided = publication.plan(store, channel, rpms, url=url, signer=signer)
    store.verified.mkdir(parents=True, exist_ok=True)
    for member in brought.values():  # before anybody can see it: who promotes it then finds its record
        record = composes.companions(folder / member.image_rpm.href)[-1]
        if record.name in delivery.files:
            write_atomically(store.verification(member.id), record.read_text(encoding="utf-8"))
    publication.carry_out(decided, why=f"{delivery.id.stem} was delivered", signer=signer)
    return Accepted(id=delivery.id, outcome="published" if decided.new else "there", compose=decided.compose.name)


def _read(folder: Path, *, signer: Signer | None) -> Delivery:
    """The manifest, signed with the project's key where it signs; every file is there and is the one it speaks of."""
    manifest = folder / MANIFEST
    text = manifest.read_bytes()
    if signer is not None:
        signature = folder / _SIGNATURE
        if not signature.exists():
            raise VerifyError("it is not signed")
        with tempfile.TemporaryDirectory(prefix="golden-accept-") as name:
            key = Path(name) / composes.KEY
            key.write_text(signer.public_key, encoding="utf-8")
            text = gpg.signed_text(manifest, signature=signature, key=key, what=MANIFEST)
    try:
        delivery = Delivery.model_validate_json(text)
    except ValidationError as error:
        raise VerifyError(f"{MANIFEST} is damaged", details=[("reason", str(error).splitlines()[0])]) from error
    for name, digest in delivery.files.items():
        path = folder / name
        if "/" in name or path.is_symlink() or not path.is_file() or sha256(path) != digest:
            raise VerifyError(f"{name} is not the file that {MANIFEST} speaks of")
    return delivery


def _need_same_key(image_rpm: Path, delivery: Delivery) -> None:
    """Two machines made one version of an image: of the same inputs, either will do, and the first one was first."""
    facts = next(iter(composes.companions(image_rpm)))
    if not facts.exists() or read_build(facts).key != delivery.key:
        raise VerifyError(f"the channel has another {delivery.id.stem}, made of other inputs")


def _take_check(store: Store, folder: Path, delivery: Delivery, standing: sets.Member | None) -> None:
    if standing is None or standing.id != delivery.id or _CHECK not in delivery.files:
        raise VerifyError(f"it says that {delivery.id.stem} stands, which the channel does not have")
    try:
        check = Check.model_validate_json((folder / _CHECK).read_bytes())
    except ValidationError as error:
        raise VerifyError(f"{_CHECK} is damaged", details=[("reason", str(error).splitlines()[0])]) from error
    if check.build != delivery.id:
        raise VerifyError(f"{_CHECK} is of another build, {check.build.stem}")
    checks.write(store, check)


def _put_aside(folder: Path) -> None:
    target = folder.parent / _REFUSED / folder.name
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(exist_ok=True)
    folder.rename(target)


def need_folder(folder: Path) -> None:
    """Raises ConfigError if there is no such folder: nothing would ever come there."""
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder} for deliveries", try_next=f"mkdir {folder}")

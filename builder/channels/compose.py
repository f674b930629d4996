"""One compose: what a channel was at one time, complete, signed, and never changed afterwards."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from builder import faults
from builder.errors import ConfigError, VerifyError
from builder.model import VERSION, Frozen, version_key
from builder.store import sync_directory, write_atomically
from builder.tools import createrepo, gpg
from builder.tools.createrepo import Package
from builder.tools.openpgp import Signer

KEY = "key.asc"
# The folder of a compose in which all of its RPMs are.
PACKAGES = "Packages"
# What lies beside an image's RPM and goes where it goes; the words after its name.
COMPANIONS = (".build.json", ".cdx.json", ".intoto.jsonl", ".tests.json")


class Origin(Frozen):
    """`compose.json`. previous: the compose that clients had before. why: what was done. made: UTC, ISO 8601.

    added, removed: RPM file names, against `previous`.
    """

    format: int = 1
    previous: str | None
    why: str
    made: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def current(channel: Path) -> Path | None:
    """The compose that a channel's mirrorlist names; None if nothing was published yet.

    Raises VerifyError if it names none that is there.
    """
    mirrorlist = channel / "mirrorlist"
    if not mirrorlist.exists():
        return None
    line = mirrorlist.read_text(encoding="utf-8", errors="replace").strip()
    name = line.rstrip("/").rpartition("/")[2]
    compose = channel / "composes" / name
    if not VERSION.fullmatch(name) or not (compose / "repodata").is_dir():
        raise VerifyError(
            f"{mirrorlist} names a compose that is not there",
            details=[("address", line), ("folder", str(compose))],
            try_next=f"remove {mirrorlist} and publish again",
        )
    return compose


def need_current(channel: Path) -> Path:
    """As `current`; raises ConfigError if nothing was published to the channel yet."""
    found = current(channel)
    if found is None:
        raise ConfigError(
            f"nothing was published to the channel '{channel.name}' yet",
            try_next=f"golden publish --channel {channel.name}",
        )
    return found


def read(compose: Path, *, signer: Signer | None) -> list[Package]:
    """The packages of a compose by its metadata, which are proven by their signature if it is `signer`'s.

    Raises VerifyError if they are damaged, or not those that were signed.
    """
    repomd, key = compose / "repodata/repomd.xml", compose.parent.parent / KEY
    signature = repomd.with_name("repomd.xml.asc")
    if signer is not None and signature.exists() and is_key_of(signer, key):
        gpg.signed_text(repomd, signature=signature, key=key, what=str(repomd))
    return createrepo.read(compose)


def is_key_of(signer: Signer, key: Path) -> bool:
    """Whether the file is the public half of the project's key."""
    return key.exists() and key.read_text(encoding="utf-8", errors="replace") == signer.public_key


def versions(channel: Path) -> list[str]:
    """The composes of a channel, oldest first."""
    found = [path.name for path in (channel / "composes").glob("*") if VERSION.fullmatch(path.name)]
    return sorted(found, key=version_key)


def origin(compose: Path) -> Origin | None:
    """None for a compose of an earlier golden. Raises VerifyError if it is damaged."""
    path = compose / "compose.json"
    if not path.exists():
        return None
    try:
        return Origin.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise VerifyError(f"{path} is damaged", details=[("reason", str(error).splitlines()[0])]) from error


def names(folder: Path) -> list[str]:
    """The channels below a folder, those that were published to."""
    # One that is being removed, or was when golden was killed, is none any more.
    return sorted(path.parent.name for path in folder.glob("[!.]*/mirrorlist"))


def companions(rpm: Path) -> list[Path]:
    """What lies beside an RPM and belongs to it, by name; not all of it needs to be there."""
    return [rpm.with_name(name) for name in _companions(rpm.name)]


def write(
    compose: Path, packages: Sequence[Package], folders: Mapping[str, Path], *, origin: Origin, signer: Signer | None
) -> None:
    """Aside, complete, signed, on disk; then by its name. What an interrupted publication left is removed first.

    folders: RPM file name -> the folder where it is now; what belongs to it lies beside it, and is taken along.
    """
    composes = compose.parent
    for left in composes.glob(".*.part"):
        shutil.rmtree(left)
    part = composes / f".{compose.name}.part"
    (part / PACKAGES).mkdir(parents=True)
    _link_all(folders, part / PACKAGES)
    faults.place("compose.linked")
    createrepo.write(part, packages)
    faults.place("compose.listed")
    if signer is not None:
        signer.sign(part / "repodata/repomd.xml", part / "repodata/repomd.xml.asc")
    write_atomically(part / "compose.json", origin.model_dump_json(indent=2) + "\n")
    sync_directory(part / PACKAGES)
    sync_directory(part / "repodata")
    sync_directory(part)
    faults.place("compose.aside")
    part.rename(compose)
    faults.place("compose.named")
    sync_directory(composes)


def switch(channel: Path, *, url: str, signer: Signer | None) -> None:
    """Let clients see the compose at `url`; what they need to trust it comes before."""
    if signer is not None:
        _write_if_other(channel / KEY, signer.public_key)
    _write_if_other(channel / "mirrorlist", f"{url}\n")
    faults.place("channel.switched")


def address(url: str, compose: Path) -> str:
    """Of a compose, as clients reach it. url: of the folder of all channels."""
    return f"{url}/{compose.parent.parent.name}/composes/{compose.name}/"


def _companions(rpm: str) -> list[str]:
    stem = rpm.removesuffix(".rpm")
    return [f"{stem}{suffix}" for suffix in COMPANIONS]


def _link_all(folders: Mapping[str, Path], target: Path) -> None:
    """The RPMs and what belongs to them. A folder is listed once: asking for each file costs as much as the links."""
    there = {folder: (str(folder), _others(folder)) for folder in set(folders.values())}
    for name, folder in folders.items():
        place, others = there[folder]
        wanted = [name, *(it for it in _companions(name) if it in others)] if others else [name]
        for it in wanted:
            link(f"{place}/{it}", f"{target}/{it}")


def _others(folder: Path) -> set[str]:
    """The names of what is no RPM."""
    return {entry.name for entry in os.scandir(folder) if not entry.name.endswith(".rpm")}


def link(source: str | Path, target: str | Path) -> None:
    """A hard link, or a copy where the file system has none to give."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        shutil.copy2(source, target)


def _write_if_other(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, text)

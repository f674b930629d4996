"""A channel of golden's as its clients read it: the images that it has, and the RPMs that hold them.

dnf is not asked: it would install, which takes root's rights and runs what a package says is to be run. What is
needed of it is little: the newest compose by the mirrorlist, its metadata by the digests in repomd.xml (which may be
signed), RPMs by the digests in the metadata, and of an RPM three files by their names.
"""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from builder import run
from builder.errors import ConfigError, HostError, ToolError, VerifyError, did_you_mean
from builder.model import VERSION, Build, Frozen, ImageId, version_key
from builder.store import read_build, sha256
from builder.tools import createrepo, download, gpg
from builder.tools.createrepo import Package
from builder.tools.download import Patience, shown
from builder.tools.openpgp import Signer

Note = Callable[[str], None]


class NoChannelError(ConfigError):
    """There is nothing at the address of a channel: neither a mirrorlist nor metadata."""


# What golden's packages provide and require: the very bytes of an image. See builder/package/spec.py, `image_id`.
_IMAGE_ID = re.compile(r"golden-image-id\((?P<package>[^:]+)-[^-:]+-[^-:]+:(?P<sha256>[0-9a-f]{64})\)")
_IMAGES = "/usr/share/golden/images/"
_METADATA = re.compile(r"repodata/[A-Za-z0-9][A-Za-z0-9._-]*")
_UNPACK_TIMEOUT_S = 3600


class ImageRpm(Frozen):
    """One version of an image in a channel. url, sha256: of its RPM. parent: capability of the image below it."""

    id: ImageId
    url: str
    sha256: str
    capability: str
    parent: str | None


def find(
    channel: str,
    image: str,
    *,
    sha256: str | None,
    key: Path | None,
    folder: Path,
    patience: Patience,
    note: Note,
) -> list[ImageRpm]:
    """The RPMs of an image's chain, its own first, the base's last.

    channel: address of what holds `mirrorlist`, or of one compose. image: NAME, the newest one, or NAME@VERSION.
    sha256: of the image's file, if it has to be that one. key: the metadata has to be signed with it.
    folder: for the metadata; the caller's to remove. Raises ConfigError, ToolError, VerifyError.
    """
    name, _, version = image.partition("@")
    known = {it.capability: it for it in images(channel, key=key, folder=folder, patience=patience, note=note)}
    fitting = [
        rpm
        for rpm in known.values()
        if rpm.id.image == name and version in ("", rpm.id.version) and sha256 in (None, rpm.id.sha256)
    ]
    if not fitting:
        raise _unknown(channel, image, sha256, [rpm.id for rpm in known.values()])
    return chain_of(max(fitting, key=lambda rpm: version_key(rpm.id.version)), known, channel=channel)


def images(channel: str, *, key: Path | None, folder: Path, patience: Patience, note: Note) -> list[ImageRpm]:
    """All versions of all images that a channel has. As `find`; NoChannelError if there is nothing at its address."""
    compose = _compose(channel, folder, patience=patience, note=note)
    _fetch_metadata(compose, folder, key=key, patience=patience, note=note)
    return _images(createrepo.read(folder), compose)


def chain_of(rpm: ImageRpm, known: Mapping[str, ImageRpm], *, channel: str) -> list[ImageRpm]:
    """It and all that it stands on, itself first. known: capability -> RPM. Raises VerifyError if one is missing."""
    chain = [rpm]
    while (below := chain[-1].parent) is not None:
        if below not in known or known[below] in chain:
            raise VerifyError(
                f"the channel {shown(channel)} does not have all that '{chain[0].id.stem}' stands on",
                details=[("missing", below)],
            )
        chain.append(known[below])
    return chain


def facts(rpm: ImageRpm, folder: Path, *, signer: Signer | None, patience: Patience, note: Note) -> Build:
    """What is said of an image beside its RPM, a few KiB; with a signer, proven by the statement that it signed.

    Raises ToolError if it cannot be read, VerifyError if it is not what the statement vouches for.
    """
    from builder.tools import attestation  # its libraries take a quarter of a second to load

    file = folder / f"{rpm.id.stem}.build.json"
    address = rpm.url.removesuffix(".rpm")
    download.fetch(f"{address}.build.json", file, patience=patience, note=note)
    build = read_build(file)
    if build.id != rpm.id:
        raise VerifyError(f"{shown(address)}.build.json is of another image than the channel's metadata says")
    if signer is not None:
        statements = folder / f"{rpm.id.stem}.intoto.jsonl"
        download.fetch(f"{address}.intoto.jsonl", statements, patience=patience, note=note)
        found = attestation.read(statements.read_text(encoding="utf-8"), signer=signer, what=rpm.id.stem)
        subjects = {it["name"]: it["digest"]["sha256"] for statement in found for it in statement["subject"]}
        if subjects.get(f"{rpm.id.stem}.json") != sha256(file):
            raise VerifyError(f"{shown(address)}.build.json is not the file that its statement vouches for")
    return build


def bring(chain: Iterable[ImageRpm], folder: Path, *, log: Path, patience: Patience, note: Note) -> list[Path]:
    """Have the files of a chain side by side in `folder`/chain, the image's own first; one RPM is here at a time.

    What an earlier call left is gone on from. What the qcow2 files are is the caller's to see. Raises ToolError,
    HostError, VerifyError.
    """
    place = folder / "chain"
    place.mkdir(parents=True, exist_ok=True)
    found = []
    for rpm in chain:
        facts = place / f"{rpm.id.stem}.json"
        if not facts.exists():  # it is unpacked last
            file = folder / f"{rpm.id.stem}.rpm"
            download.fetch(rpm.url, file, patience=patience, note=note)
            if (digest := sha256(file)) != rpm.sha256:
                raise VerifyError(
                    f"{shown(rpm.url)} is not the file that the channel's metadata speaks of",
                    details=[("expected", f"sha256 {rpm.sha256}"), ("found", f"sha256 {digest}")],
                    try_next="run the same command again: a mirror may have been in between",
                )
            note(f"unpacking {rpm.id.stem}")
            _unpack(file, rpm.id, place, log=log)
            file.unlink()
            file.with_name(f"{file.name}.json").unlink(missing_ok=True)
        if read_build(facts).id != rpm.id:
            raise VerifyError(f"{shown(rpm.url)} holds another image than the channel's metadata says")
        found.append(place / f"{rpm.id.stem}.qcow2")
    return [*found, *(file.with_suffix(suffix) for file in found for suffix in (".packages", ".json"))]


def _compose(channel: str, folder: Path, *, patience: Patience, note: Note) -> str:
    """The address of the newest compose; without a mirrorlist, `channel` is one itself."""
    file = folder / "mirrorlist"
    try:
        download.fetch(f"{channel}/mirrorlist", file, patience=patience, note=note)
    except ToolError as error:
        if _is_missing(error):
            return channel
        raise
    address = next((line.strip() for line in file.read_text(errors="replace").splitlines() if line.strip()), "")
    if urlsplit(address).scheme not in ("http", "https"):
        raise VerifyError(
            f"{shown(channel)}/mirrorlist names no address of a compose: {address[:200] or 'it is empty'}"
        )
    return address.rstrip("/")


def _fetch_metadata(compose: str, folder: Path, *, key: Path | None, patience: Patience, note: Note) -> None:
    """`repodata/` into `folder`; the digests of its files are compared by who reads them."""
    (folder / "repodata").mkdir()
    repomd = folder / "repodata" / "repomd.xml"
    try:
        download.fetch(f"{compose}/repodata/repomd.xml", repomd, patience=patience, note=note)
    except ToolError as error:
        if _is_missing(error):
            raise NoChannelError(
                f"there is no channel of golden's at {shown(compose)}: it has neither a mirrorlist nor repodata/",
                try_next='channel = "URL/NAME", as the .repo file of golden repo client-config has it',
            ) from error
        raise
    if key is not None:
        signature = repomd.with_name("repomd.xml.asc")
        try:
            download.fetch(f"{compose}/repodata/repomd.xml.asc", signature, patience=patience, note=note)
        except ToolError as error:
            if _is_missing(error):
                raise VerifyError(
                    f"golden.toml names a key for the channel, but {shown(compose)} is not signed",
                    details=[("key", str(key)), ("missing", f"{shown(compose)}/repodata/repomd.xml.asc")],
                ) from error
            raise
        gpg.signed_text(repomd, signature=signature, key=key, what=f"{shown(compose)}/repodata/repomd.xml")
    for href in createrepo.hrefs(folder):
        if not _METADATA.fullmatch(href):
            raise VerifyError(f"the metadata of {shown(compose)} names a file outside of repodata/: {href[:200]}")
        download.fetch(f"{compose}/{href}", folder / href, patience=patience, note=note)


def _images(packages: Iterable[Package], compose: str) -> list[ImageRpm]:
    """Of each package that owns an image's file, what it is; names are the files', as prefixes of packages differ."""
    found = []
    for package in packages:
        own = [name for name, *_ in package.provides if _IMAGE_ID.fullmatch(name)]
        below = [name for name, *_ in package.requires if _IMAGE_ID.fullmatch(name)]
        stem = next((stem for path in package.files if (stem := _stem(path))), None)
        if stem is None or len(own) != 1 or len(below) > 1:
            continue
        image, _, version = stem.rpartition("-")
        digest = _IMAGE_ID.fullmatch(own[0])
        assert digest is not None
        found.append(
            ImageRpm(
                id=ImageId(image=image, version=version, sha256=digest["sha256"]),
                url=f"{compose}/{package.href}",
                sha256=package.sha256,
                capability=own[0],
                parent=below[0] if below else None,
            )
        )
    return found


def _stem(path: str) -> str | None:
    """ "rocky9-base-20261121.1" of an image's file; None for any other path, and for the moving link."""
    stem = path.removeprefix(_IMAGES).removesuffix(".qcow2")
    is_image = path == f"{_IMAGES}{stem}.qcow2" and "/" not in stem
    return stem if is_image and VERSION.fullmatch(stem.rpartition("-")[2]) else None


def _unpack(rpm: Path, id: ImageId, folder: Path, *, log: Path) -> None:
    """The image's three files out of its RPM, which has the right digest; nothing else of it, and no script is run.

    By rpm2archive, as rpm2cpio refuses files of more than 4 GiB; from stream to stream, as it takes that in each
    version: of a file, that of rpm 4.18 makes another one, and that of 4.20 does not. Raises ToolError, HostError,
    VerifyError.
    """
    can = run.query(["rpm2archive", "--help"], why="ask what rpm2archive can do")
    plain = ["--nocompression"] if "--nocompression" in can else []
    archive = rpm.with_name(f"{rpm.name}.tar")
    script = 'from=$1 to=$2; shift 2; exec rpm2archive "$@" - <"$from" >"$to"'
    argv: list[str | Path] = ["sh", "-euc", script, "sh", rpm, archive, *plain]
    wanted = [f"{id.stem}{suffix}" for suffix in (".qcow2", ".packages", ".json")]
    try:
        run.run(argv, why=f"unpack {rpm.name}", timeout_s=_UNPACK_TIMEOUT_S, log=log)
        with tarfile.open(archive) as tar:
            members = {member.name.lstrip("./"): member for member in tar if member.isfile()}
            for name in wanted:
                member = members.get(f"{_IMAGES}{name}".lstrip("/"))
                content = tar.extractfile(member) if member else None
                if content is None:
                    raise VerifyError(f"{rpm.name} does not hold {name}")
                _write(content, folder / name)
    except tarfile.TarError as error:
        raise VerifyError(f"{rpm.name} cannot be unpacked: {error}") from error
    except OSError as error:
        raise HostError(f"could not unpack {rpm.name} in {folder}: {error.strerror or error}") from error
    finally:
        archive.unlink(missing_ok=True)


def _write(content: IO[bytes], target: Path) -> None:
    aside = target.with_name(f".{target.name}.part")
    with aside.open("wb") as stream:
        shutil.copyfileobj(content, stream, 1024 * 1024)
    aside.chmod(0o444)
    aside.rename(target)


def _unknown(channel: str, image: str, sha256: str | None, known: Iterable[ImageId]) -> ConfigError:
    name, _, version = image.partition("@")
    versions = sorted((id.version for id in known if id.image == name), key=version_key)
    if versions:
        what = f"version {version} of '{name}'" if version else f"'{name}' with the SHA-256 of golden.toml, {sha256}"
        return ConfigError(f"the channel {shown(channel)} has no {what}; it has {', '.join(versions)}")
    names = sorted({id.image for id in known})
    has = f"; it has {', '.join(names)}" if names else "; it has none"
    return ConfigError(f"the channel {shown(channel)} has no image '{name}'{did_you_mean(name, names)}{has}")


def _is_missing(error: ToolError) -> bool:
    return f"the server answered {HTTPStatus.NOT_FOUND.value}" in dict(error.details).get("reason", "")

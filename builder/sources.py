"""`source = { … }` of a distribution in golden.toml: what is accepted, and what it means."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from builder.catalogue import Raw
from builder.media import Repository, Source, SourceKind, file_name
from builder.model import NAME, VERSION, Architecture

# Where golden's RPMs put images.
INSTALLED_IMAGES = Path("/usr/share/golden/images")

_SHA256 = re.compile(r"[0-9a-f]{64}")

# What ends up in a kickstart line between quotes, and in an argument of virt-install's.
_TREE = re.compile(r"https?://[^\s\"'\\]+")

# In place of the path of a key: that of the distribution.
_KEY_OF_MAKERS = "distribution"

# Anaconda's repositories have names such as AppStream.
_REPOSITORY = re.compile(r"[A-Za-z0-9_.-]+")


class RawSource(Raw):
    """As written: relative paths are seen from golden.toml's folder, `{arch}` is the architecture."""

    dvd: str | None = None
    url: str | None = None
    tree: str | None = None
    qcow2: str | None = None
    image: str | None = None
    images: str | None = None
    channel: str | None = None
    repositories: dict[str, str] = Field(default={})
    sha256: str | None = None
    checksums: str | None = None
    signature: str | None = None
    key: str | None = None
    cloud_init: Literal["off", "keep"] | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        given = [kind for kind in get_args(SourceKind) if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                "a source is one thing: 'dvd' or 'qcow2', a path or an http(s) URL, 'url' or 'tree', an installation "
                f"tree, or 'image'; this one has {' and '.join(given) or 'none'}"
            )
        self._check_trees()
        if self.images is not None and self.image is None:
            raise ValueError("'images' is the folder of an 'image' of golden's own")
        self._check_channel()
        if self.image is not None and self.checksums is not None:
            raise ValueError("an 'image' of golden's own has its digest in the facts beside it, not in 'checksums'")
        if self.sha256 is not None and not _SHA256.fullmatch(self.sha256.lower()):
            raise ValueError(f"'sha256' is 64 hexadecimal digits, not '{self.sha256}'")
        if self.cloud_init is not None and self.qcow2 is None and self.image is None:
            raise ValueError("'cloud_init' belongs to an imported image")
        for key in ("signature", "key"):
            is_of_channel = key == "key" and self.channel is not None
            if getattr(self, key) is not None and self.checksums is None and not is_of_channel:
                raise ValueError(f"'{key}' is for the signature of a checksum file; 'checksums' is missing")
        if self.signature is not None and self.key is None:
            raise ValueError("a 'signature' proves nothing without the 'key' that it has to be made with")
        for location in (self.dvd, self.qcow2, self.image, self.checksums, self.signature):
            if location is not None:
                _check_location(location)
        return self

    def _check_channel(self) -> None:
        if self.channel is None:
            return
        if self.image is None or self.images is not None:
            raise ValueError("'channel' is where an 'image' of golden's own comes from; 'images' is for installed ones")
        if not _TREE.fullmatch(self.channel):
            raise ValueError(f"'{self.channel}' is not the address of a channel; write https://… or http://…")
        name, at, version = self.image.partition("@")
        if not NAME.fullmatch(name) or (at and not VERSION.fullmatch(version)):
            raise ValueError(f"the 'image' of a channel is NAME or NAME@VERSION, not '{self.image}'")

    def _check_trees(self) -> None:
        """What only a tree, or only what is installed from, has."""
        if (self.sha256 or self.checksums) and (self.url is not None or self.tree is not None):
            raise ValueError("'sha256' and 'checksums' prove one file; 'url' and 'tree' are many")
        if self.repositories and (self.qcow2 is not None or self.image is not None):
            raise ValueError("'repositories' are the installer's; an imported image is installed already")
        for address in (self.url, *self.repositories.values()):
            if address is not None and not _TREE.fullmatch(address):
                raise ValueError(f"'{address}' is not the address of a tree; write https://… or http://…")
        for name in self.repositories:
            if not _REPOSITORY.fullmatch(name):
                raise ValueError(f"'{name}' is not a repository's name; use letters, digits, '-', '_' and '.'")

    @property
    def is_signed_by_makers(self) -> bool:
        """Whether the checksum file has to be signed with the distribution's own key."""
        return self.key == _KEY_OF_MAKERS

    def resolved(self, folder: Path, arch: Architecture, *, gpg_key: Path | None = None) -> Source:
        """gpg_key: of the distribution's makers."""

        def filled(text: str) -> str:
            return text.replace("{arch}", arch)

        def absolute(location: str) -> str:
            location = filled(location)
            return location if "://" in location else str(folder / location)

        return Source(
            dvd=absolute(self.dvd) if self.dvd else None,
            url=filled(self.url) if self.url else None,
            tree=folder / filled(self.tree) if self.tree is not None else None,
            qcow2=absolute(self.qcow2) if self.qcow2 else None,
            image=None
            if self.image is None
            else self.image
            if self.channel
            else absolute(self._image_file(self.image)),
            channel=filled(self.channel).rstrip("/") if self.channel else None,
            repositories=tuple(
                Repository(name=name, location=filled(location)) for name, location in self.repositories.items()
            ),
            sha256=self.sha256.lower() if self.sha256 else None,
            checksums=absolute(self.checksums) if self.checksums else None,
            signature=absolute(self.signature) if self.signature else None,
            key=gpg_key if self.is_signed_by_makers else folder / self.key if self.key else None,
            cloud_init=self.cloud_init or "off",
        )

    def _image_file(self, name: str) -> str:
        """`NAME` or `NAME@VERSION` in the folder of installed images; what has a slash is a path already."""
        if "/" in name:
            return name
        return f"{self.images or INSTALLED_IMAGES}/{name.replace('@', '-')}.qcow2"


def _check_location(location: str) -> None:
    scheme, separator, _ = location.partition("://")
    if separator and scheme not in ("http", "https"):
        raise ValueError(f"golden downloads by http and https, not by '{scheme}': {location}")
    if file_name(location) in ("", ".", ".."):
        raise ValueError(f"'{location}' names no file")

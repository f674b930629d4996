"""What guests are made from: the source of a base, a DVD, a tree or an image of others, and package repositories."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args
from urllib.parse import unquote, urlsplit

from builder.frozen import Frozen


class Repository(Frozen):
    """A package repository. location: absolute folder or http(s) URL of what holds `repodata/`.

    is_extra: a recipe adds it, so that the guest's own repositories are not put aside for it.
    """

    name: str
    location: str
    is_extra: bool = False

    @property
    def folder(self) -> Path | None:
        return None if "://" in self.location else Path(self.location)


SourceKind = Literal["dvd", "url", "tree", "qcow2", "image"]


class Source(Frozen):
    """Where a base comes from, and what proves that a download is what its makers made.

    dvd: to install from. url: of an installation tree, of what holds `.treeinfo`; the installer reads it, golden
    downloads nothing. tree: folder with such a tree. qcow2: a disk image of others, to import. image: one of golden's
    own (it may stand on others, and has its facts beside it). One of the five is given; all locations are absolute
    paths or http(s) URLs. channel: address of a channel of golden's that has `image`, which then is NAME or
    NAME@VERSION; `key` is then the one that the channel's metadata is signed with. repositories: package repositories
    that the installer uses besides the source's own. sha256: hex. checksums: a file of SHA-256 lines, one of which
    names the file. signature: of `checksums`, apart; without it, and with `key`, `checksums` is clearsigned.
    cloud_init: what becomes of it in an imported image.
    """

    dvd: str | None = None
    url: str | None = None
    tree: Path | None = None
    qcow2: str | None = None
    image: str | None = None
    channel: str | None = None
    repositories: tuple[Repository, ...] = ()
    sha256: str | None = None
    checksums: str | None = None
    signature: str | None = None
    key: Path | None = None
    cloud_init: Literal["off", "keep"] = "off"

    @property
    def kind(self) -> SourceKind:
        return next(kind for kind in get_args(SourceKind) if getattr(self, kind) is not None)

    @property
    def location(self) -> str:
        """Of an image in a channel, no address that could be asked for, but one that tells it from all others."""
        own = str(getattr(self, self.kind))
        return f"{self.channel}/{own}" if self.channel is not None else own

    @property
    def is_tree(self) -> bool:
        """Whether it is many files, read where they are; else it is one, which golden has here before it starts."""
        return self.kind in ("url", "tree")

    @property
    def is_import(self) -> bool:
        """Whether it is installed already."""
        return self.kind in ("qcow2", "image")

    def at(self, path: Path) -> Source:
        """The same, with its one file on this machine."""
        return self.model_copy(update={self.kind: str(path), "channel": None})

    @property
    def path(self) -> Path | None:
        """None for what is on the network."""
        return None if "://" in self.location else Path(self.location)

    @property
    def title(self) -> str:
        """ "DVD Rocky-9.6-x86_64-dvd.iso": what users read in plans and messages."""
        if self.kind == "url":
            return f"network tree {self.location}"
        word = {"dvd": "DVD", "tree": "tree"}.get(self.kind, "image")
        return f"{word} {file_name(self.location)}"


def file_name(location: str) -> str:
    """The last part of a path or URL, as a file is named."""
    path = unquote(urlsplit(location).path) if "://" in location else location
    return path.rstrip("/").rpartition("/")[2]

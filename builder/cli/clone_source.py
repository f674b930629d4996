"""Which image `golden clone` is asked for, and a libvirt that reaches it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from builder import clones, preflight
from builder.cli.session import Session
from builder.errors import ConfigError
from builder.store import Store
from builder.tools import libvirt


@contextlib.contextmanager
def reaching(session: Session, source: clones.Source) -> Iterator[libvirt.Connection]:
    """A connection to a libvirt whose QEMU can read what it has to."""
    with libvirt.connect() as connection:
        preflight.need_reach(session.state, connection)
        preflight.need_reach(source.file.parent, connection)
        yield connection


def source_of(session: Session, image: str, prefer: Literal["chain", "flat"] | None, installed: Path) -> clones.Source:
    name, _, version = image.partition("@")
    prefer = prefer or (session.project.prefer if session.has_project else "chain")
    return _locate(session, name, version or None, images=installed.absolute(), is_flat=prefer == "flat")


def _locate(session: Session, image: str, version: str | None, *, images: Path, is_flat: bool) -> clones.Source:
    """The image, or its flat form if that is wanted and is of the very same build."""
    builds = _store(session)
    source = clones.locate(image, version, images=images, builds=builds)
    if not is_flat or source.build.flattened:
        return source
    flat_image = f"{image}-flat"
    with contextlib.suppress(ConfigError):  # it need not be installed
        flat = clones.locate(flat_image, None, images=images, builds=None)
        if flat.build.flattened == source.build.id:
            return flat
    for build in builds.builds(flat_image) if builds else []:
        if build.flattened == source.build.id:
            return clones.locate(flat_image, build.version, images=images, builds=builds)
    session.reporter.note(f"there is no flat form of {source.build.stem}; the chain is taken")
    return source


def _store(session: Session) -> Store | None:
    return session.store if session.has_project else None

"""What `golden build IMAGE --with …` needs around a build: the packages before, the words for a harness afterwards."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from builder import artifacts, clones, preflight
from builder.cli.session import Session
from builder.derived import Derived, derive, image_of
from builder.model import Build


def parent(session: Session, text: str, *, installed: Path) -> Build:
    """`IMAGE[@VERSION]` -> a build of the project, or the installed image, which then becomes one.

    installed: folder of installed images. Raises ConfigError if it is neither, VerifyError if its files are not whole.
    """
    image, _, version = text.partition("@")
    if session.store.builds(image):
        return session.store.find(image, version or None)
    found = clones.locate(image, version or None, images=installed, builds=session.store)
    with session.reporter.step(f"take over {found.build.stem} from {installed}"):
        files = clones.verify(found, state=session.state, is_full=True)
        session.store.adopt(files)
    return found.build


@contextlib.contextmanager
def leaf(session: Session, source: Build, places: Sequence[str], *, name: str, is_kept: bool) -> Iterator[Derived]:
    """The image IMAGE-private-NAME on `source`; its packages lie in a folder of their own while the block runs.

    is_kept: the folder stays, for commands that name it.
    """
    preflight.require(["rpm"], "read the packages")
    full_name = artifacts.private_name(source.image, name)
    root = session.store.root
    folder = root / "dry-run" / f"{full_name}.rpms" if is_kept else root / "artifacts" / f"{full_name}.{os.getpid()}"
    try:
        with session.reporter.step("gather the packages") as step:
            given = artifacts.gather(
                places,
                folder=folder,
                parent=source.image,
                installed=session.store.package_list(source).read_text(encoding="utf-8").split(),
                note=step.note,
            )
        for package in given.step.packages:
            session.reporter.note(f"to be installed: {package.nevra}")
        image = artifacts.leaf(image_of(source), given, name=full_name)
        yield derive(session.project, session.store, image, source=source)
    finally:
        if not is_kept:
            shutil.rmtree(folder, ignore_errors=True)


def how_to_use(session: Session, made: Build, name: str) -> dict[str, str]:
    """For a harness. image: as other commands take it; clone: a command that can be pasted anywhere."""
    image = f"{made.image}@{made.version}"
    words = ["golden", "--file", str(session.file), "--state", str(session.state)]
    return {"image": image, "clone": shlex.join([*words, "clone", "create", name, "--image", image, "--json"])}

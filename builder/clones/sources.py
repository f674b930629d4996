"""Which image a clone is made of, and whether its files are what they were when they were built."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from builder import store
from builder.digests import remembered_sha256
from builder.errors import ConfigError, VerifyError, did_you_mean
from builder.model import Build, Frozen, ImageId
from builder.store import Store
from builder.tools import qcow2

INSTALLED_IMAGES = Path("/usr/share/golden/images")


class Source(Frozen):
    """The image that a clone is made of. file: never the moving link, always the versioned file that it leads to."""

    build: Build
    file: Path
    origin: Literal["installed", "built"]


def locate(image: str, version: str | None, *, images: Path, builds: Store | None) -> Source:
    """The image's file: an installed one if there is one, else the newest build of the project.

    images: folder of installed images. Raises ConfigError if neither is there.
    """
    link = images / f"{image}-{version}.qcow2" if version else images / f"{image}.qcow2"
    if link.exists():
        file = link.resolve()
        return Source(build=_facts(file), file=file, origin="installed")
    if link.is_symlink():
        raise VerifyError(
            f"the installed image '{image}' leads to a file that is gone",
            details=[("link", str(link)), ("leads to", str(link.readlink()))],
            try_next=f"dnf reinstall $(rpm -qf {link})",
        )
    if builds is not None and builds.builds(image):
        build = builds.find(image, version)
        return Source(build=build, file=builds.qcow2(build).resolve(), origin="built")
    known = image_names(images=images, builds=builds)
    raise ConfigError(
        f"there is no image '{image}'{f' {version}' if version else ''}, neither installed in {images} nor built"
        f"{did_you_mean(image, known)}",
        try_next=f"one of: {', '.join(known)}" if known else f"golden build {image}, or dnf install golden-{image}",
    )


def image_names(*, images: Path, builds: Store | None) -> list[str]:
    """What `locate` would find without a version."""
    installed = {link.name.removesuffix(".qcow2") for link in images.glob("*.qcow2") if link.is_symlink()}
    return sorted(installed | {build.image for build in builds.builds()} if builds else installed)


def chain(source: Source) -> tuple[tuple[Path, Build], ...]:
    """The files of the image's chain with what they should be, the image's own first; their bytes are not looked at.

    Raises VerifyError if the chain is not the one that the image was built on.
    """
    expected: ImageId | None = source.build.id
    found: list[tuple[Path, Build]] = []
    for link in qcow2.chain(source.file, is_beside=True):
        file = link.path.resolve()
        build = _facts(file)
        if build.id != expected:
            wanted = f"{expected.stem} {expected.sha256}" if expected else "nothing: the image above is a base"
            raise VerifyError(
                f"'{source.build.stem}' does not stand on the images that it was built on",
                details=[("expected", wanted), ("found", f"{build.stem} {build.id.sha256}"), ("file", str(file))],
            )
        found.append((file, build))
        expected = build.parent
    if expected is not None:
        raise VerifyError(f"'{source.build.stem}' was built on '{expected.stem}', but its file names no such parent")
    return tuple(found)


def verify(source: Source, *, state: Path, is_full: bool) -> tuple[Path, ...]:
    """The files of the image's chain, the image's own first, each with the bytes that its build had.

    is_full: read all of them; else only those that changed since they were last read, as the file system has it.
    Raises VerifyError naming the first file that is not what it was.
    """
    files = chain(source)
    for file, build in files:
        found = store.sha256(file) if is_full else remembered_sha256(file, state=state)
        if found != build.id.sha256:
            raise VerifyError(
                f"'{build.stem}' was changed after it was built",
                details=[("file", str(file)), ("expected", f"sha256 {build.id.sha256}"), ("found", f"sha256 {found}")],
                try_next=_remedy(source, build, file),
            )
    return tuple(file for file, _ in files)


def _facts(file: Path) -> Build:
    path = file.with_suffix(".json")
    if not path.exists():
        raise VerifyError(f"there are no facts beside the image file {file}, so nobody can say whether it is whole")
    return store.read_build(path)


def _remedy(source: Source, build: Build, file: Path) -> str:
    if source.origin == "installed":
        return f"dnf reinstall $(rpm -qf {file})"
    return f"remove {file} and run: golden build {build.image}"

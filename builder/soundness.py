"""Every byte that golden keeps, read and compared with what it was: what `golden doctor --deep` does.

Commands verify what they use; this finds what nobody has used yet. A finding names the file and how to have it anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from builder import channels, clones
from builder.cache import Cache, retention
from builder.channels import compose as composes
from builder.clones import pins, saved, snapshots
from builder.errors import GoldenError, VerifyError
from builder.preflight.doctor import Finding
from builder.progress import Reporter
from builder.store import Store, read_build, sha256, verify_digest
from builder.tools import package_cache, rpm
from builder.tools.openpgp import Signer


def examine(
    state: Path,
    *,
    reporter: Reporter,
    images: Path | None = None,
    own: Store | None = None,
    signer: Signer | None = None,
) -> list[Finding]:
    """What is damaged below `state`: in the stores of all projects, in clones, in the cache; one line if nothing is.

    images: the folder of installed images, read as well. own: the project at hand, whose channels are checked with its
    key, `signer`; those of others by digests alone.
    """
    found: list[Finding] = []
    for store in _stores(state):
        is_own = own is not None and own.root == store.root
        with reporter.step(f"read the builds of {store.root.name}") as step:
            found += _builds(store, note=step.note)
        with reporter.step(f"read the packages of {store.root.name}"):
            found += _packages(store)
        with reporter.step(f"read the channels of {store.root.name}") as step:
            found += _channels(store, signer=signer if is_own else None, note=step.note)
    if images is not None and images.is_dir():
        with reporter.step("read the installed images") as step:
            found += _installed(images, note=step.note)
    with reporter.step("read the images below clones, their snapshots, and saved memory"):
        found += [*_clones(state), *_snapshots(state), *_memory(state)]
    with reporter.step("read the cache"):
        found += _cache(state)
    return found or [Finding(check="every byte", state="ok", found="what golden keeps is what it was")]


def _stores(state: Path) -> list[Store]:
    return [Store(state, path.parent.name) for path in sorted(state.glob("*/images")) if path.is_dir()]


def _damaged(check: str, error: GoldenError, *, remedy: str | None = None) -> Finding:
    said = "; ".join([error.what, *(text for label, text in error.details if label in _TELLING)])
    return Finding(check=check, state="fail", found=said, remedy=remedy or error.try_next or "")


# What vouches for an image lies beside it under its name, too.
_BESIDE = (".cdx", ".tests")
_TELLING = ("reason", "damaged", "gone", "stray", "signature", "missing", "unsigned", "key", "attestation")


def _builds(store: Store, *, note: Callable[[str], None]) -> Iterator[Finding]:
    for path in sorted(store.images.glob("[!.]*.json")):
        note(path.stem)
        try:
            build = read_build(path)
            if build.stem != path.stem:
                raise VerifyError(f"{path} holds the facts of {build.stem}", try_next=f"rm {path}")
            anew = f"golden build {build.image}"
            verify_digest(store.qcow2(build), build.id.sha256, what=f"'{build.stem}'", remedy=anew)
            listed = store.package_list(build)
            verify_digest(listed, build.packages_sha256, what=f"the package list of '{build.stem}'", remedy=anew)
        except VerifyError as error:
            yield _damaged(f"build {path.stem}", error)


def _installed(images: Path, *, note: Callable[[str], None]) -> Iterator[Finding]:
    """Each image that dnf installed, by the facts beside it; a link by which it is known leads to one of them."""
    disks = {path.stem for path in images.glob("[!.]*.qcow2") if not path.is_symlink()}
    facts = {path.stem for path in images.glob("[!.]*.json") if not path.stem.endswith(_BESIDE)}
    for stem in sorted(disks | facts):
        note(stem)
        try:
            build = read_build(images / f"{stem}.json")
            for file, digest in (
                (images / f"{stem}.qcow2", build.id.sha256),
                (images / f"{stem}.packages", build.packages_sha256),
            ):
                if not file.is_file() or sha256(file) != digest:
                    raise VerifyError(f"{file} {'was changed' if file.exists() else 'is gone'}")
        except (VerifyError, OSError) as error:
            told = error if isinstance(error, VerifyError) else VerifyError(f"{error.filename}: {error.strerror}")
            yield _damaged(f"installed {stem}", told, remedy=f"dnf reinstall $(rpm -qf {images / stem}.qcow2)")


def _packages(store: Store) -> Iterator[Finding]:
    """By the digests in their headers; which key signed them is asked where they are published."""
    for path, answer in rpm.refused(sorted(store.rpms.glob("[!.]*.rpm")), public_key=None).items():
        yield Finding(
            check=f"package {path.name}",
            state="fail",
            found=f"{path}: {answer}",
            remedy=f"rm {path}  and golden package, which makes it anew",
        )


def _channels(store: Store, *, signer: Signer | None, note: Callable[[str], None]) -> Iterator[Finding]:
    for name in composes.names(store.channels):
        note(name)
        try:
            channels.check(store, name, signer=signer)
        except GoldenError as error:
            yield _damaged(f"channel {name}", error)


def _clones(state: Path) -> Iterator[Finding]:
    for name in clones.names(state):
        try:
            lease = clones.find(state, name)
            for pin in lease.pins:
                if (fault := pins.find_fault(pin, is_full=True)) is not None:
                    raise VerifyError(f"{pin.path} {fault}", try_next=pins.remedy(pin, lease))
        except GoldenError as error:
            yield _damaged(f"clone {name}", error)


def _snapshots(state: Path) -> Iterator[Finding]:
    for name in clones.names(state):
        for place in snapshots.places(state, name):
            try:
                snapshots.check(snapshots.read(place), place)
            except GoldenError as error:
                yield _damaged(f"snapshot {place.name} of {name}", error)


def _memory(state: Path) -> Iterator[Finding]:
    for place in saved.places(state):
        if not place.name.startswith(".") and saved.read(place) is None:  # else it is being made
            yield Finding(
                check=f"memory {place.name}",
                state="fail",
                found=f"{place / 'warm.json'} is damaged: clones boot without this saved memory",
                remedy=f"rm -r {place}",
            )
    for place, memory in saved.all_saved(state):
        try:
            pins.check(memory.pins, what=f"the saved memory of {memory.stem}", is_full=True)
            saved.check(memory, place)
        except (GoldenError, OSError) as error:
            told = error if isinstance(error, GoldenError) else VerifyError(f"{place / 'memory'}: {error.strerror}")
            yield _damaged(f"memory {memory.stem}", told, remedy=f"rm -r {place}  and golden clone warm {memory.stem}")


def _cache(state: Path) -> Iterator[Finding]:
    for entry in retention.entries(Cache(state).root):
        if entry.state != "whole" or (entry.path.is_file() and sha256(entry.path) == entry.sha256):
            continue
        yield Finding(
            check=f"cache {entry.name}",
            state="fail",
            found=f"{entry.path} was changed after it was downloaded",
            remedy=f"rm -r {entry.path.parent}  and golden cache fetch",
        )
    for path in package_cache.damaged(state / "cache" / "packages"):
        yield Finding(
            check=f"package cache {path.name}",
            state="fail",
            found=f"{path} was changed after it was downloaded; the next build that wants it downloads it again",
            remedy=f"rm {path}",
        )

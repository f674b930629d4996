"""Builds and state on disk.

    STATE/PROJECT/images/sandbox-base-20261121.1.qcow2      the sealed image, 0444, relative backing name beside it
                         sandbox-base-20261121.1.packages   sorted NEVRAs
                         sandbox-base-20261121.1.json       the facts; renamed into place last: it makes the build
    STATE/PROJECT/logs/sandbox-base-20261121.1/             logs of that build
    STATE/PROJECT/work/sandbox-base-20261121.1/             a build under way, or what a failed one left
    STATE/PROJECT/verified/sandbox-base-20261121.1.json     how the tests of that build ended
    STATE/PROJECT/rpms/, channels/                          packages, and what is published
    STATE/cache/, STATE/clones/, STATE/host/                shared by all projects of this machine

The images lie side by side as they will on a user's machine, so that one relative backing name is right in both.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from builder import faults
from builder.errors import ConfigError, VerifyError
from builder.locks import held, is_held, lock, taken
from builder.model import Build, ImageId, version_key

OWN_DIGEST = "facts_sha256"


def default_state() -> Path:
    """Where state is kept unless told otherwise: root's must be readable by libvirt's QEMU user, so not below /root."""
    if os.geteuid() == 0:
        return Path("/var/lib/golden")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "golden"


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write aside, fsync, rename: a reader sees the old text or the new one, whatever happens in between.

    What one that was killed left aside is removed.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        with part.open("w", encoding="utf-8") as stream, held(part):
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
            part.chmod(mode)
            faults.place("file.aside")
            part.rename(path)
            faults.place("file.named")
    finally:
        part.unlink(missing_ok=True)
    _remove_torn(path)
    sync_directory(path.parent)


def _remove_torn(path: Path) -> None:
    """What processes that are no more left of writing `path`."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        process = left.name.removeprefix(f".{path.name}.").partition(".")[0]
        if process.isdigit() and not Path("/proc", process).exists() and not is_held(left):
            left.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Make renames inside `directory` survive a crash."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Store:
    """The builds of one project. root: STATE/PROJECT. Reading never writes."""

    def __init__(self, state: Path, project: str) -> None:
        self.state = state
        self.root = state / project
        self.images = self.root / "images"
        self.logs = self.root / "logs"
        self.work = self.root / "work"
        self.rpms = self.root / "rpms"
        self.channels = self.root / "channels"
        self.verified = self.root / "verified"

    # --- reading

    def builds(self, image: str | None = None) -> list[Build]:
        """All builds, of one image or of all; sorted by image, then oldest first."""
        paths = [path for path in self.images.glob("*.json") if not path.name.startswith(".")]
        found = [read_build(path) for path in paths if image is None or is_stem_of(path.stem, image)]
        return sorted(
            (build for build in found if image in (None, build.image)),
            key=lambda build: (build.image, version_key(build.version)),
        )

    def newest(self, image: str) -> Build | None:
        builds = self.builds(image)
        return builds[-1] if builds else None

    def find(self, image: str, version: str | None = None) -> Build:
        """One build, the newest unless a version is given. Raises ConfigError if there is none."""
        builds = self.builds(image)
        for build in reversed(builds):
            if version in (None, build.version):
                return build
        if version is None or not builds:
            raise ConfigError(f"there is no build of '{image}' yet", try_next=f"golden build {image}")
        raise ConfigError(
            f"there is no build {version} of '{image}'; there are {', '.join(build.version for build in builds)}"
        )

    def qcow2(self, build: Build | ImageId) -> Path:
        return self.images / f"{build.stem}.qcow2"

    def package_list(self, build: Build) -> Path:
        return self.images / f"{build.stem}.packages"

    def facts(self, build: Build) -> Path:
        return self.images / f"{build.stem}.json"

    def verification(self, build: Build | ImageId) -> Path:
        """The record of a build's tests: JSON with at least image, version, sha256, passed and at (UTC, ISO 8601)."""
        return self.verified / f"{build.stem}.json"

    def chain(self, build: Build) -> list[Build]:
        """The build, its parent's build, … down to the base. Raises VerifyError if one is gone."""
        found = [build]
        while (parent := found[-1].parent) is not None:
            path = self.images / f"{parent.stem}.json"
            if not path.exists():
                raise VerifyError(
                    f"'{found[-1].stem}' stands on '{parent.stem}', which is gone from {self.images}",
                    try_next=f"golden build {build.image}",
                )
            found.append(read_build(path))
        return found

    def verify(self, build: Build) -> None:
        """Check that every image file of the chain holds the bytes its build had. Reads all of them.

        Raises VerifyError naming the first that does not.
        """
        for link in self.chain(build):
            verify_digest(self.qcow2(link), link.id.sha256, what=f"'{link.stem}'", remedy=f"golden build {link.image}")

    def is_present(self, build: Build) -> bool:
        """A cheap look: the file is there and has its size. What is built on it is verified in full before."""
        path = self.qcow2(build)
        return path.is_file() and path.stat().st_size == build.size_bytes

    @property
    def id(self) -> str:
        """Tells this store from others on the host, in names of domains."""
        return hashlib.sha256(str(self.root.resolve()).encode()).hexdigest()[:8]

    # --- writing

    def lock(self) -> contextlib.AbstractContextManager[None]:
        return lock(self.root / "lock", what=f"the project's store {self.root}")

    @contextlib.contextmanager
    def lock_to_share(self) -> Iterator[Callable[[], None]]:
        """As `lock`; once what it yields is called, those that `lock_beside_others` get in too. Source: flock(2)."""
        with taken(self.root / "lock", what=f"the project's store {self.root}") as stream:
            yield lambda: fcntl.flock(stream, fcntl.LOCK_SH)

    @contextlib.contextmanager
    def lock_beside_others(self, images: Iterable[str]) -> Iterator[None]:
        """For a step of a night, which has the lock to share: no other step builds one of `images` meanwhile."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(taken(self.root / "lock", what=f"the project's store {self.root}", is_shared=True))
            for image in images:
                stack.enter_context(lock(self.root / "steps" / f"{image}.lock", what=f"the image '{image}'"))
            yield

    def next_version(self, image: str, *, now: datetime | None = None) -> str:
        """UTC date and a counter, above every version the image ever had here, even if the clock went back."""
        taken = [build.version for build in self.builds(image)]
        taken += [path.name.removeprefix(f"{image}-") for path in self._failed(image)]
        return version_after(taken, now=now)

    def _failed(self, image: str) -> list[Path]:
        if not self.work.is_dir():
            return []
        return [path for path in self.work.iterdir() if is_stem_of(path.name, image)]

    def workspace(self, image: str, version: str) -> Path:
        """A new directory of its own for one build. The caller commits it, or leaves it for the user to look at."""
        directory = self.work / f"{image}-{version}"
        directory.mkdir(parents=True)
        faults.place("build.workspace")
        self.images.mkdir(parents=True, exist_ok=True)
        return directory

    def adopt(self, files: Iterable[Path], *, is_theirs_right: bool = False) -> None:
        """Take image files that lie elsewhere with their facts, an installed chain, as builds of this store.

        files: verified by the caller, the base last. Links where the file system has them to give, else copies.
        is_theirs_right: a build of the same name and version goes, with all that stands on it if it has other bytes.
        Else raises VerifyError if it has.
        """
        self.images.mkdir(parents=True, exist_ok=True)
        with self.lock():
            for file in reversed(tuple(files)):
                build = read_build(file.with_suffix(".json"))
                if self.facts(build).exists() and is_theirs_right:
                    self._forget(read_build(self.facts(build)), but=build.id)
                elif self.facts(build).exists():
                    if read_build(self.facts(build)).id != build.id:
                        raise VerifyError(
                            f"the project has a build {build.stem} of its own, and it is not the one in {file.parent}",
                            try_next=f"golden build {build.image} --rebuild, which gives it another version",
                        )
                    continue
                for source in (file, file.with_suffix(".packages"), file.with_suffix(".json")):
                    _take(source, self.images / source.name)
                sync_directory(self.images)

    def _forget(self, build: Build, *, but: ImageId) -> None:
        """Remove a build; what stands on it, too, unless it is to come back as it was, `but`."""
        if build.id != but:
            for other in self.builds():
                if other.source == build.id:
                    self._forget(other, but=but)
        for path in (self.facts(build), self.package_list(build), self.qcow2(build)):
            path.unlink(missing_ok=True)

    def remove_orphans(self) -> list[Path]:
        """Remove files in the image folder that belong to no build: their build was cut off before its facts came.

        The caller holds the lock, so no build is under way.
        """
        if not self.images.is_dir():
            return []
        builds = {path.stem for path in self.images.glob("*.json")}
        orphans = [path for path in self.images.iterdir() if path.stem not in builds]
        for path in orphans:
            path.unlink()
        return orphans

    def remove_finished(self) -> list[Path]:
        """Remove work folders whose build is whole: golden was cut off after the facts came. The caller holds the lock.

        Else a later build could go on from there, under a version that is taken.
        """
        if not self.work.is_dir():
            return []
        finished = [path for path in self.work.iterdir() if (self.images / f"{path.name}.json").exists()]
        for path in finished:
            shutil.rmtree(path)
        return finished

    def discard_failed(self, image: str) -> None:
        """Remove what failed builds of `image` left; called when a new one begins."""
        for path in self._failed(image):
            shutil.rmtree(path)

    def commit(self, build: Build, *, disk: Path, packages: Path, logs: Path) -> None:
        """Take a sealed disk, its package list and its logs into the store; the facts come last and make it a build."""
        qcow2 = self.qcow2(build)
        disk.chmod(0o444)
        packages.chmod(0o444)
        for source in (disk, packages):
            with source.open("rb") as stream:
                os.fsync(stream.fileno())
        self.logs.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.logs / build.stem, ignore_errors=True)
        logs.rename(self.logs / build.stem)
        faults.place("build.logs")
        packages.rename(self.package_list(build))
        faults.place("build.packages")
        disk.rename(qcow2)
        faults.place("build.disk")
        write_atomically(self.facts(build), facts_text(build), mode=0o444)


def _take(source: Path, target: Path) -> None:
    """By a link or as a copy, under its name only when it is whole."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        try:
            os.link(source, part)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
                raise
            shutil.copy2(source, part)
        part.replace(target)
        faults.place("store.adopted")
    finally:
        part.unlink(missing_ok=True)


def version_after(taken: Iterable[str], *, now: datetime | None = None) -> str:
    """UTC date and a counter, above every version in `taken`. Raises ValueError if one of them is no version."""
    today = int(f"{now or datetime.now(UTC):%Y%m%d}")
    date, count = max(map(version_key, taken), default=(0, 0))
    return f"{today}.1" if today > date else f"{date}.{count + 1}"


def is_stem_of(name: str, image: str) -> bool:
    """Whether `name` is `image` and a version: `a-b-20261121.1` is of `a-b`, not of `a`."""
    try:
        version_key(name.removeprefix(f"{image}-"))
    except ValueError:
        return False
    return name.startswith(f"{image}-")


def facts_text(build: Build) -> str:
    """`build.json`: the build, and under `facts_sha256` a digest of all the rest, by which a flipped byte is found."""
    fields = build.model_dump(mode="json")
    return json.dumps({**fields, OWN_DIGEST: _facts_digest(fields)}, indent=2, ensure_ascii=False) + "\n"


def _facts_digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def read_build(path: Path) -> Build:
    """Read one `build.json`. Raises VerifyError if it is damaged."""
    try:
        fields = json.loads(path.read_bytes())
        expected = fields.pop(OWN_DIGEST, None) if isinstance(fields, dict) else None
        if expected is not None and expected != _facts_digest(fields):
            raise ValueError(f"its {OWN_DIGEST} is not that of the rest")
        return Build.model_validate_json(json.dumps(fields))
    except (ValueError, RecursionError) as error:  # pydantic's and json's errors are ValueErrors
        raise VerifyError(
            f"the facts of a build are damaged: {path}",
            details=[("reason", str(error).splitlines()[0])],
            try_next=f"remove {path} to have the image built again",
        ) from error


def verify_digest(path: Path, expected: str, *, what: str, remedy: str) -> None:
    """Raises VerifyError if `path` is gone or its SHA-256 is not `expected`."""
    if not path.exists():
        raise VerifyError(f"{what} is gone: {path}", try_next=remedy)
    found = sha256(path)
    if found != expected:
        raise VerifyError(
            f"{what} was changed after it was built",
            details=[("file", str(path)), ("expected", f"sha256 {expected}"), ("found", f"sha256 {found}")],
            try_next=f"remove {path} and run: {remedy}",
        )

"""`golden sandbox create`: from package sources to a DVD, an updates repository and a project to try them with."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from builder import run
from builder.config_publication import KEY_FILE
from builder.errors import GoldenError, HostError
from builder.progress import Reporter
from builder.sandbox import debian, definition, dvd, host, initrd, installer, repack, stamp
from builder.sandbox import stage as staging
from builder.sandbox.assign import Content, Contents, assign
from builder.sandbox.definition import DATA
from builder.templates import render
from builder.tools import openpgp
from builder.units import GIB, format_bytes

DEFAULT_CACHE = Path("/var/cache/golden/sandbox")

# One thread is not enough to keep two cores busy (rpmbuild packs with one), more only compete.
_THREADS = max(2, os.cpu_count() or 2)

# The work folder was seen to hold 1.1 GiB at most, and what is kept of it is 0.2 GiB.
_NEEDED_BYTES = 2 * GIB


@dataclass(frozen=True)
class Sandbox:
    """What is in the folder. is_new: made by this call. seconds: how long the call took."""

    folder: Path
    iso: Path
    iso_bytes: int
    updates: Path
    base_packages: int
    update_packages: int
    is_new: bool
    seconds: float


def create(folder: Path, *, cache: Path = DEFAULT_CACHE, force: bool = False, reporter: Reporter) -> Sandbox:
    """Make the sandbox distribution in `folder`, or return at once if it is there and its inputs are the same.

    cache: where downloaded Debian packages are kept. A golden.toml or a key that is already in `folder` stays.
    Raises HostError if this host cannot do it, ToolError if a program fails; the logs are kept then.
    """
    begin = time.monotonic()
    host.check()
    folder = folder.absolute()
    quick = stamp.quick()
    if not force and (found := stamp.matches(folder, quick=quick)):
        make_signing_key(folder)
        return _result(folder, found, is_new=False, begin=begin)
    with _workshop(folder) as work, _plain_path(work) as plain:
        with reporter.step("resolve packages"):
            recipe = definition.load()
            roots = sorted({name for names in recipe.roots.values() for name in names})
            files = debian.resolve(roots, status=work / "status")
            full = stamp.full(files)
        if not force and (found := stamp.matches(folder, full=full)):
            stamp.write(folder, replace(found, quick=quick))
            make_signing_key(folder)
            return _result(folder, found, is_new=False, begin=begin)
        contents = assign(recipe, debian.describe(files))
        _make(contents, recipe, work=plain, cache=cache, reporter=reporter)
        with reporter.step("put everything in place"):
            _place(folder, work=work)
            numbers = len(contents.base), len(contents.updates) + len(contents.additions)
            made = stamp.Stamp(quick, full, stamp.measure(folder), *numbers)
            stamp.write(folder, made)
    return _result(folder, made, is_new=True, begin=begin)


def _make(contents: Contents, recipe: definition.Definition, *, work: Path, cache: Path, reporter: Reporter) -> None:
    """Everything into `work`/new."""
    new, logs = work / "new", work / "logs"
    with reporter.step("download Debian packages") as step:
        step.note(f"{debian.download(contents.debs(), into=cache, log=logs / 'download.log')} were missing")
    makers = Makers(contents, work=work, cache=cache)
    with reporter.step("unpack and thin"):
        makers.stage_all()
    with reporter.step("build RPMs and the installer's image") as step:
        makers.build_all(note=step.note)
    with reporter.step("make the DVD and the repositories"):
        tree = work / "dvd"
        groups = work / "comps.xml"
        groups.write_text(dvd.comps(recipe))
        dvd.repository(tree, groups=groups, log=logs / "createrepo.log")
        dvd.repository(new / "updates", log=logs / "createrepo.log")
        (tree / ".treeinfo").write_text(dvd.treeinfo(tree, release=recipe.release, timestamp=int(time.time())))
        dvd.build(new / "sandbox.iso", tree=tree, log=logs / "dvd.log")


class Makers:
    """The parallel part: what is made from what, below one work folder."""

    def __init__(self, contents: Contents, *, work: Path, cache: Path) -> None:
        self.contents = contents
        self.work = work
        self.cache = cache
        self.boot = work / "boot"
        self.tools = work / "stage/installer"

    def stage_all(self) -> None:
        self._unpack(self.boot, [deb for deb in self.contents.boot if deb.name.startswith("busybox")], "boot")
        self.busybox = self.boot / "usr/bin/busybox"
        tasks = [self._stage_kernel, self._stage_tools]
        tasks += [self._stager(c, "base") for c in self.contents.base]
        tasks += [self._stager(c, "updates") for c in (*self.contents.updates, *self.contents.additions)]
        in_parallel(tasks)

    def build_all(self, *, note: Callable[[str], None]) -> None:
        shared = self._shared_folders()
        tasks = [self._make_installer]
        tasks += [self._builder(c, "base", shared, note) for c in self.contents.base]
        tasks += [self._builder(c, "updates", shared, note) for c in (*self.contents.updates, *self.contents.additions)]
        in_parallel(tasks)

    def _stager(self, content: Content, where: str) -> Callable[[], None]:
        def task() -> None:
            package = content.package
            root = self.work / "stage" / where / package.name
            staging.stage(package, content.debs, cache=self.cache, root=root, log=self._log(f"stage-{package.name}"))
            if package.initrd_modules:
                release = staging.kernel_release(root)
                target = root / f"boot/initramfs-{release}.img"
                base = root / "usr/lib/modules" / release
                initrd.build(target, init="guest-init", busybox=self.busybox, modules=package.initrd_modules, base=base)

        return task

    def _stage_kernel(self) -> None:
        """The installer's kernel and initrd, from the stock kernel."""
        self._unpack(self.boot, [deb for deb in self.contents.boot if deb.name.startswith("linux-")], "boot")
        release = staging.kernel_release(self.boot)
        base = self.boot / "usr/lib/modules" / release
        (self.boot / "lib").symlink_to("usr/lib")
        staging.depmod(self.boot, release, log=self._log("boot"))
        pxeboot = self.work / "dvd/images/pxeboot"
        initrd.build(
            pxeboot / "initrd.img",
            init="installer-init",
            busybox=self.busybox,
            modules=initrd.INSTALLER_MODULES,
            base=base,
        )
        dvd.place(self.boot / f"boot/vmlinuz-{release}", pxeboot / "vmlinuz")

    def _stage_tools(self) -> None:
        self._unpack(self.tools, self.contents.installer, "installer")
        staging.thin(self.tools, self.contents.base[0].package.unwanted)

    def _unpack(self, root: Path, debs: Sequence[debian.Deb], log: str) -> None:
        for deb in debs:
            debian.extract(self.cache / deb.file, into=root, log=self._log(log))
        staging.merge_usr(root)

    def _shared_folders(self) -> frozenset[str]:
        root = self.work / "stage/base/setup"
        return frozenset("/" + p.relative_to(root).as_posix() for p in staging.walk(root) if p.is_dir())

    def _builder(
        self, content: Content, where: str, shared: frozenset[str], note: Callable[[str], None]
    ) -> Callable[[], None]:
        def task() -> None:
            package = content.package
            note(package.name)
            staged = self.work / "stage" / where / package.name
            if package.initrd_files:
                target = staged / "boot" / package.initrd_name
                initrd.build_of_files(target, files=package.initrd_files, staged=self.work / "stage/base")
            folder = self.work / "rpmbuild" / where / package.name
            folder.mkdir(parents=True)
            files = folder / "files"
            owned = frozenset() if package.name == "setup" else shared
            files.write_text(repack.file_list(staged, attributes=package.attributes, shared=owned))
            spec = folder / f"{package.name}.spec"
            spec.write_text(
                repack.spec(package, content.version, requires=content.requires, file_list=files, staged=staged)
            )
            into = self.work / "dvd/Packages" if where == "base" else self.work / "new/updates/Packages"
            repack.build(spec, into=into, log=self._log(f"rpm-{where}-{package.name}"))

        return task

    def _make_installer(self) -> None:
        # The guest's own packages, without its kernel: what installs is what is installed.
        stages = [self.work / "stage/base" / c.package.name for c in self.contents.base if not c.package.modules]
        target = self.work / "dvd/images/install.img"
        installer.build(target, staged=[*stages, self.tools], root=self.work / "installer", log=self._log("installer"))

    def _log(self, name: str) -> Path:
        return self.work / f"logs/{name}.log"


def in_parallel(tasks: Sequence[Callable[[], None]]) -> None:
    """Run all; the first that fails, or Ctrl-C, keeps those not yet begun from beginning, and goes up."""
    with ThreadPoolExecutor(_THREADS) as pool:
        futures = [pool.submit(task) for task in tasks]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            for future in futures:
                future.cancel()
    for future in futures:
        if not future.cancelled():
            future.result()


@contextlib.contextmanager
def _workshop(folder: Path) -> Iterator[Path]:
    """A folder beside `folder`, on its file system, gone afterwards.

    After a failure its logs stay, as FOLDER.failed-logs. An interrupt is no failure: its logs say nothing.
    Raises HostError if the folder cannot be made, or if there is no room.
    """
    kept = folder.with_name(f"{folder.name}.failed-logs")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    except OSError as error:
        raise HostError(f"could not make a folder in {folder.parent}: {error.strerror}") from error
    try:
        free_bytes = shutil.disk_usage(work).free
        if free_bytes < _NEEDED_BYTES:
            raise HostError(
                f"making the sandbox needs {format_bytes(_NEEDED_BYTES)} on the disk of {folder.parent}, "
                f"and {format_bytes(free_bytes)} are free"
            )
        (work / "logs").mkdir()
        yield work
    except Exception as error:
        shutil.rmtree(kept, ignore_errors=True)
        if (work / "logs").is_dir() and any((work / "logs").iterdir()):
            (work / "logs").rename(kept)
            if isinstance(error, GoldenError) and error.log is not None:
                error.log = kept / error.log.name
        raise
    else:
        shutil.rmtree(kept, ignore_errors=True)
    finally:
        shutil.rmtree(work)


@contextlib.contextmanager
def _plain_path(work: Path) -> Iterator[Path]:
    """The same folder under a name without blanks and percent signs, which rpmbuild and its scripts cannot bear."""
    with tempfile.TemporaryDirectory(prefix="golden-sandbox-") as shelter:
        link = Path(shelter) / "work"
        link.symlink_to(work)
        yield link


def _place(folder: Path, *, work: Path) -> None:
    """Move what was made into `folder`, part by part. Without the stamp, which comes after it, no part counts."""
    folder.mkdir(exist_ok=True)
    stamp.remove(folder)
    (work / "new/sandbox.iso").rename(folder / "sandbox.iso")
    if (folder / "updates").exists():
        (folder / "updates").rename(work / "old-updates")
    (work / "new/updates").rename(folder / "updates")
    shutil.rmtree(folder / "logs", ignore_errors=True)
    shutil.copytree(work / "logs", folder / "logs")
    if not (folder / "golden.toml").exists():
        (folder / "golden.toml").write_text(render(DATA, "golden.toml.j2"))
    (folder / ".gitignore").write_text("keys/\nlogs/\nsandbox.iso\nupdates/\n")
    make_key(folder / "keys/id_ed25519", log=folder / "logs/ssh-keygen.log")
    make_signing_key(folder)


def make_signing_key(folder: Path) -> None:
    """The project's OpenPGP key, if there is none yet: in a folder of an earlier golden there is none."""
    if not (folder / KEY_FILE).exists():
        openpgp.make_key(folder / KEY_FILE, name=openpgp.owner("sandbox"))


def make_key(key: Path, *, log: Path) -> None:
    """A key pair without a passphrase, readable by its owner alone, if there is none yet."""
    if key.exists():
        return
    key.parent.mkdir(mode=0o700, exist_ok=True)
    argv: list[str | Path] = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "golden", "-f", key]
    run.run(argv, why="make the sandbox's SSH key", timeout_s=60, log=log)


def _result(folder: Path, found: stamp.Stamp, *, is_new: bool, begin: float) -> Sandbox:
    iso = folder / "sandbox.iso"
    return Sandbox(
        folder=folder,
        iso=iso,
        iso_bytes=iso.stat().st_size,
        updates=folder / "updates",
        base_packages=found.base_packages,
        update_packages=found.update_packages,
        is_new=is_new,
        seconds=round(time.monotonic() - begin, 2),
    )

"""Builds -> RPMs: two packages per image, whose dependencies follow the chain of images.

    golden-sandbox-upgrade-image-20261121.1   the image's files; requires its parent's package and image id, exactly
    golden-sandbox-upgrade                    what people type; requires one version and links to it

Equal versions with other bytes would be a silently corrupt chain on a fresh host; the image id makes dnf refuse it.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

from builder import faults, private_keys
from builder.errors import ConfigError, VerifyError
from builder.locks import lock
from builder.model import Build, Frozen, ImageId
from builder.package import provenance
from builder.package.provenance import COMPANIONS
from builder.package.spec import FOLDER, RELEASE, image_package, name_prefix, render_spec
from builder.progress import Reporter
from builder.run import printable
from builder.store import Store, sync_directory, verify_digest, write_atomically
from builder.tools import rpm
from builder.tools.openpgp import Signer

_NO_KEYS = private_keys.Wanted()


class Packaging(Frozen):
    """One build to be packaged, decided in full. topdir: rpmbuild's, aside.

    spec_by_hand: the same without the files that golden itself writes on a build's origin.
    todo: "build" both RPMs, only "sign" those that are there with other signatures, or nothing.
    """

    build: Build
    image_rpm: Path
    link_rpm: Path
    spec: str
    spec_by_hand: str
    topdir: Path
    argv: tuple[str | Path, ...]
    env: dict[str, str]
    todo: Literal["build", "sign", "nothing"]

    @property
    def is_done(self) -> bool:
        """Both RPMs are there, right, and signed as they have to be."""
        return self.todo == "nothing"

    @property
    def spec_file(self) -> Path:
        return self.topdir / f"{self.build.stem}.spec"

    @property
    def rpms(self) -> tuple[Path, Path]:
        return self.image_rpm, self.link_rpm

    def commands(self) -> str:
        """The same by hand: lines to paste into a shell."""
        env = " ".join(f"{name}={shlex.quote(value)}" for name, value in self.env.items())
        return "\n".join(
            [
                f"mkdir -p {shlex.quote(str(self.topdir))}",
                f"printf %s {shlex.quote(self.spec_by_hand)} > {shlex.quote(str(self.spec_file))}",
                f"{env} {printable(self.argv)}",
            ]
        )


class Packaged(Frozen):
    """The two RPMs of a build. size_bytes: of both files. is_new: they were made just now."""

    id: ImageId
    image_rpm: Path
    link_rpm: Path
    size_bytes: int
    is_new: bool


def package(
    store: Store,
    builds: Sequence[Build],
    *,
    prefix: str,
    reporter: Reporter,
    signer: Signer | None,
    allow_private: bool = False,
    keys: private_keys.Wanted = _NO_KEYS,
    flat_links: Collection[str] = (),
    is_alone: bool = False,
) -> list[Packaged]:
    """Package builds and everything they stand on, parents first; what is packaged already stays as it is.

    signer: None if the project says that its packages are not signed. flat_links: images whose plain package is to
    follow their flat form. is_alone: nothing of what they stand on; a channel has the packages of that.
    Raises ConfigError as `plan` does; VerifyError if an image file of a chain that is to be packaged has not the bytes
    its build had, or if the RPM has not; HostError or ToolError from rpmbuild, whose folder is then kept.
    """
    with lock(store.rpms / ".lock", what=f"the packages in {store.rpms}"):
        jobs = plan(
            store,
            builds,
            prefix=prefix,
            signer=signer,
            allow_private=allow_private,
            keys=keys,
            flat_links=flat_links,
        )
        jobs = [job for job in jobs if not is_alone or job.build in builds]
        for build in with_parents(store, [job.build for job in jobs if job.todo == "build"]):
            with reporter.step(f"check {build.stem}"):
                verify_digest(
                    store.qcow2(build), build.id.sha256, what=f"'{build.stem}'", remedy=f"golden build {build.image}"
                )
        return [_carry_out(job, store=store, signer=signer, reporter=reporter) for job in jobs]


def plan(
    store: Store,
    builds: Sequence[Build],
    *,
    prefix: str,
    signer: Signer | None,
    allow_private: bool = False,
    keys: private_keys.Wanted = _NO_KEYS,
    flat_links: Collection[str] = (),
) -> list[Packaging]:
    """How builds and everything they stand on are packaged, parents first. Nothing is written.

    keys: the private keys that may be in them. flat_links: as of `package`; their flat forms are packaged along.
    Raises ConfigError if one of all these is private, or stands on one that is, and that is not allowed; if a guest
    holds another private key; or if a flat form is not there.
    """
    concerned = with_parents(store, builds)
    links = {build.stem: _flat_form(store, build) for build in concerned if build.image in flat_links}
    concerned = with_parents(store, [*links.values(), *builds])
    private = [build.stem for build in concerned if build.private]
    if private and not allow_private:
        raise ConfigError(
            f"private builds are not packaged or published unless you say so: {', '.join(private)}",
            try_next="--allow-private, if everyone who reaches the packages may have them; their names then begin "
            f"with '{prefix}-private-'",
        )
    private_keys.check(store, concerned, keys)
    return [
        _plan_one(store, build, prefix=prefix, link=links.get(build.stem, build), signer=signer) for build in concerned
    ]


def with_parents(store: Store, builds: Sequence[Build]) -> list[Build]:
    """The builds and all they stand on, each once, parents before children."""
    return list({link.stem: link for build in builds for link in reversed(store.chain(build))}.values())


def _flat_form(store: Store, build: Build) -> Build:
    """The first that was made of it: what has been published once goes on to be right. Raises ConfigError."""
    for flat in store.builds(f"{build.image}-flat"):
        if flat.flattened == build.id:
            return flat
    raise ConfigError(
        f"the package of '{build.image}' is to follow its flat form, and there is none of {build.stem}",
        try_next=f"golden build {build.image}-flat",
    )


def _plan_one(store: Store, build: Build, *, prefix: str, link: Build, signer: Signer | None) -> Packaging:
    topdir = store.rpms / ".work" / build.stem
    suffix = f"{build.version}-{RELEASE}.noarch.rpm"
    first = name_prefix(build, prefix=prefix)
    image_rpm = store.rpms / f"{image_package(build.id, prefix=first)}-{suffix}"
    link_rpm = store.rpms / f"{first}-{build.image}-{suffix}"
    is_parent_private = any(link.private for link in store.chain(build)[1:2])
    return Packaging(
        build=build,
        image_rpm=image_rpm,
        link_rpm=link_rpm,
        spec=render_spec(
            build, prefix=prefix, is_parent_private=is_parent_private, link=link, extras=provenance.extras(store, build)
        ),
        spec_by_hand=render_spec(build, prefix=prefix, is_parent_private=is_parent_private, link=link),
        topdir=topdir,
        argv=tuple(rpm.build_argv(topdir / f"{build.stem}.spec", topdir=topdir, sources=store.images)),
        env={"SOURCE_DATE_EPOCH": str(int(datetime.fromisoformat(build.finished).timestamp()))},
        todo=_todo(
            build,
            image_rpm,
            link_rpm,
            follows=image_package(link.id, prefix=name_prefix(link, prefix=prefix)),
            signer=signer,
        ),
    )


def _todo(
    build: Build, image_rpm: Path, link_rpm: Path, *, follows: str, signer: Signer | None
) -> Literal["build", "sign", "nothing"]:
    """follows: name of the package that the plain one is to require."""
    if not (image_rpm.exists() and link_rpm.exists() and _packed_digest(image_rpm, build) == build.id.sha256):
        return "build"
    if not _follows(link_rpm, follows):
        return "build"
    if signer and not all(rpm.signing_key(path) in signer.key_ids for path in (image_rpm, link_rpm)):
        return "sign"
    return "nothing"


def _carry_out(job: Packaging, *, store: Store, signer: Signer | None, reporter: Reporter) -> Packaged:
    if job.todo == "nothing":  # one that was killed behind its last RPM left it
        shutil.rmtree(job.topdir, ignore_errors=True)
    else:
        with reporter.step(f"{'package' if job.todo == 'build' else 'sign'} {job.build.stem}"):
            shutil.rmtree(job.topdir, ignore_errors=True)
            job.topdir.mkdir(parents=True)
            log = store.logs / job.build.stem / "package.log"
            (_build if job.todo == "build" else _sign_again)(job, store=store, signer=signer, log=log)
            shutil.rmtree(job.topdir)
    return Packaged(
        id=job.build.id,
        image_rpm=job.image_rpm,
        link_rpm=job.link_rpm,
        size_bytes=sum(path.stat().st_size for path in job.rpms),
        is_new=job.todo == "build",
    )


def _check_side_files(job: Packaging, *, store: Store) -> None:
    """Facts and package lists quote commands and what the guest says."""
    for path in (store.facts(job.build), store.package_list(job.build)):
        if path.exists() and private_keys.MARK in path.read_bytes():
            raise VerifyError(f"{path} holds a private key, and would be packaged with '{job.build.stem}'")


def _build(job: Packaging, *, store: Store, signer: Signer | None, log: Path) -> None:
    _check_side_files(job, store=store)
    job.spec_file.write_text(job.spec, encoding="utf-8")
    written = job.topdir / "provenance"
    provenance.write(job.build, written, store=store, signer=signer)
    rpm.build(job.argv, why=f"package '{job.build.stem}'", env=job.env, log=log)
    made = [job.topdir / "RPMS" / path.name for path in job.rpms]
    packed = _packed_digest(made[0], job.build)
    if packed != job.build.id.sha256:
        raise VerifyError(
            f"the package of '{job.build.stem}' does not hold the image that was built",
            details=[("expected", f"sha256 {job.build.id.sha256}"), ("packed", f"sha256 {packed}")],
            log=log,
        )
    if signer:
        rpm.sign(made, signer, log=log)
    name = job.image_rpm.name.removesuffix(".rpm")
    for suffix, inside in COMPANIONS.items():
        if (source := written / f"{job.build.stem}{inside}").exists():
            source.chmod(0o444)
            source.rename(store.rpms / f"{name}{suffix}")
            faults.place("package.companion")
    shutil.copy2(store.facts(job.build), written / "facts")
    (written / "facts").rename(store.rpms / f"{name}.build.json")
    _take(made, job.rpms)


def _sign_again(job: Packaging, *, store: Store, signer: Signer | None, log: Path) -> None:
    """The RPMs that are there, with the project's signature in place of none or another's; the statements beside, too.

    Never in place: they may be linked into composes.
    """
    from builder.tools import attestation  # slow to load, see below

    made = [Path(shutil.copy2(path, job.topdir)) for path in job.rpms]
    for path in made:
        path.chmod(0o644)
    if signer:
        rpm.sign(made, signer, log=log)
    statements = job.image_rpm.with_name(f"{job.image_rpm.name.removesuffix('.rpm')}.intoto.jsonl")
    if statements.exists():
        found = attestation.read(statements.read_text(encoding="utf-8"), signer=None, what=job.build.stem)
        write_atomically(statements, attestation.signed(found, signer), mode=0o444)
    _take(made, job.rpms)


def _take(made: Sequence[Path], targets: Sequence[Path]) -> None:
    for path, target in zip(made, targets, strict=True):
        path.chmod(0o444)
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        path.rename(target)
        faults.place("package.rpm")
    sync_directory(targets[0].parent)


def _packed_digest(image_rpm: Path, build: Build) -> str | None:
    return rpm.file_digests(image_rpm).get(str(FOLDER / f"{build.stem}.qcow2"))


def _follows(link_rpm: Path, image: str) -> bool:
    return image in rpm.ask(link_rpm, "[%{REQUIRENAME}\n]").splitlines()

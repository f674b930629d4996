"""Retention: what of a project's builds, packages and composes stays, and why. Mark and sweep over requirements.

Marked are the newest builds of each image in each channel and in the store, what is younger than it may go, what a
lease of a clone holds, the last good set of each distribution, and all that those stand on. The rest goes: out of the
channels first, each by one more compose that is checked to be complete, then from the disk, children before parents.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from builder import faults
from builder.channels import compose as composes
from builder.channels import publication, sets
from builder.channels.promotion import unverified
from builder.channels.sets import Member
from builder.locks import lock
from builder.model import NAME, VERSION, Build, Frozen, ImageId, version_key
from builder.private import MARK
from builder.publication import Retention, Rule
from builder.store import Store, read_build, sync_directory
from builder.tools import createrepo
from builder.tools.openpgp import Signer
from builder.units import format_seconds

# A client may still be reading a compose that it was led to a while ago.
_GRACE_S = 3600.0

_STEM = re.compile(f"{NAME.pattern}-{VERSION.pattern}")


class Verdict(Frozen):
    """One thing and what becomes of it. where: "channel nightly", "builds", "composes of nightly", "orphans".

    name: a build, or a file. reasons: why it stays; for what goes, why it may.
    """

    where: str
    name: str
    stays: bool
    reasons: tuple[str, ...]


class Collected(Frozen):
    """freed_bytes: of the files removed that no other name leads to."""

    verdicts: tuple[Verdict, ...]
    freed_bytes: int

    @property
    def removed(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if not verdict.stays]


@dataclass(frozen=True)
class Candidate:
    """One build that may stay or go. needs: stems of what it stands on. finished_s: seconds since the epoch."""

    id: ImageId
    needs: tuple[str, ...]
    distribution: str
    finished_s: float
    is_good: bool

    @property
    def stem(self) -> str:
        return self.id.stem


def mark(
    candidates: Mapping[str, Candidate],
    *,
    rule: Rule,
    now_s: float,
    images: Collection[str],
    held: Mapping[str, str],
    keeps_last_good: bool = True,
) -> dict[str, list[str]]:
    """Stem -> the reasons why it stays; what is missing may go. Pure; nothing stays without all that it stands on.

    candidates: by stem. images: those that golden.toml defines; of others only what is young stays, and a
    distribution's last good set if it is there. held: stem -> who needs it for reasons of their own.
    """
    reasons: dict[str, list[str]] = defaultdict(list)
    by_image: dict[str, list[Candidate]] = defaultdict(list)
    by_distribution: dict[str, list[Candidate]] = defaultdict(list)
    for it in sorted(candidates.values(), key=lambda it: _age_key(it, candidates), reverse=True):
        by_image[it.id.image].append(it)
        by_distribution[it.distribution].append(it)
        if now_s - it.finished_s < rule.age_s:
            reasons[it.stem].append("young")
        if it.stem in held:
            reasons[it.stem].append(held[it.stem])
    for image in set(by_image) & set(images):
        found = by_image[image]
        for it in found[: rule.keep]:
            reasons[it.stem].append(f"among the newest {rule.keep}")
        for it in [it for it in found if _is_good(it, candidates)][:1]:
            reasons[it.stem].append("the last good one")
    for distribution, found in by_distribution.items() if keeps_last_good else ():
        found = [it for it in found if it.id.image in images] or found
        last = next((it for it in found if _is_good(it, candidates)), found[0])
        reasons[last.stem].append(f"the last good set of {distribution}")
    for stem in list(reasons):
        for parent in _chain(candidates[stem], candidates)[1:]:
            reasons[parent.stem].append(f"{stem} stands on it")
    return dict(reasons)


def _chain(candidate: Candidate, candidates: Mapping[str, Candidate]) -> list[Candidate]:
    """It and all that it needs, itself first."""
    found = {candidate.stem: candidate}
    todo = [candidate]
    while todo:
        for it in (candidates[stem] for stem in todo.pop(0).needs if stem in candidates and stem not in found):
            found[it.stem] = it
            todo.append(it)
    return list(found.values())


def _is_good(candidate: Candidate, candidates: Mapping[str, Candidate]) -> bool:
    """Whether its whole set was verified; that is what can be promoted."""
    return all(it.is_good for it in _chain(candidate, candidates))


def _age_key(candidate: Candidate, candidates: Mapping[str, Candidate]) -> tuple[tuple[int, int], int]:
    """Newest last; of one version what stands on the others, whose set it completes."""
    return version_key(candidate.id.version), len(_chain(candidate, candidates))


def collect(
    store: Store,
    *,
    prefix: str,
    retention: Retention,
    images: Collection[str],
    leased: Mapping[str, str],
    url: str,
    signer: Signer | None,
    is_dry_run: bool = False,
    now: datetime | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Collected:
    """Remove what nobody needs any more from a project's channels and store, or only say what that is.

    images: names that golden.toml defines. leased: stem -> the clone that uses it. note: told what is being done.
    Raises HostError if another golden is at work on the store or a channel, VerifyError if a channel is damaged;
    nothing is removed then that was not yet.
    """
    now_s = (now or datetime.now(UTC)).timestamp()
    with contextlib.ExitStack() as held:
        held.enter_context(store.lock())
        held.enter_context(lock(store.rpms / ".lock", what=f"the packages in {store.rpms}"))
        channels = composes.names(store.channels)
        for channel in channels:
            held.enter_context(publication.locked(store, channel))
        builds = {build.stem: build for build in store.builds()}
        verdicts: list[Verdict] = []
        sweep = _Sweep(store, is_dry_run=is_dry_run, note=note)
        needed: dict[str, str] = dict(leased)
        for channel in channels:
            compose, rule = composes.need_current(store.channels / channel), retention.of(channel)
            found = sets.members(createrepo.read(compose), prefix=prefix)
            is_private = MARK in channel or channel.endswith("-private")
            # A private channel is there for its one image; that others it stands on are defined does not hold it.
            own = {image for image in images if channel in (image, f"{image}-private")} if is_private else images
            kept = mark(
                {stem: _of_member(store, member, builds, compose) for stem, member in found.items()},
                rule=rule,
                now_s=now_s,
                images=own,
                held=leased,
                keeps_last_good=not is_private,
            )
            verdicts += _verdicts(f"channel {channel}", found, kept, rule=rule)
            if is_private and not kept:
                sweep.remove(store.channels / channel)
                continue
            gone = [package.file_name for stem in found if stem not in kept for package in found[stem].packages]
            sweep.shrink(channel, gone, url=url, signer=signer)
            verdicts += sweep.old_composes(channel, keep=retention.composes, now_s=now_s, is_shrunk=bool(gone))
            needed |= {stem: f"in the channel {channel}" for stem in kept if stem not in needed}
        kept = mark(
            {stem: _of_build(store, build, needs=_needs(build, builds)) for stem, build in builds.items()},
            rule=retention.rule,
            now_s=now_s,
            images=images,
            held=needed,
        )
        verdicts += _verdicts("builds", builds, kept, rule=retention.rule)
        sweep.builds([builds[stem] for stem in builds if stem not in kept])
        verdicts += sweep.orphans(
            [builds[stem] for stem in kept], gone=set(builds) - set(kept), published=set(needed), prefix=prefix
        )
    return Collected(verdicts=tuple(verdicts), freed_bytes=sweep.freed_bytes)


class _Sweep:
    """Removes, or in a dry run only adds up what it would."""

    def __init__(self, store: Store, *, is_dry_run: bool, note: Callable[[str], None]) -> None:
        self.store = store
        self.is_dry_run = is_dry_run
        self.note = note
        # Inode -> how many of its names go, how many it has, and its size.
        self._inodes: dict[tuple[int, int], tuple[int, int, int]] = {}

    @property
    def freed_bytes(self) -> int:
        return sum(size for gone, names, size in self._inodes.values() if gone >= names)

    def shrink(self, channel: str, gone: Sequence[str], *, url: str, signer: Signer | None) -> None:
        """One more compose without the RPMs `gone`; it is refused if another one would lack them."""
        if not gone:
            return
        decided = publication.plan(self.store, channel, (), url=url, signer=signer, without=gone)
        if not self.is_dry_run:
            self.note(f"channel {channel}: {len(gone)} RPMs go")
            publication.carry_out(decided, why="collected", signer=signer)

    def old_composes(self, channel: str, *, keep: int, now_s: float, is_shrunk: bool) -> list[Verdict]:
        """Those that a rollback leads to stay, and those that a client may still be reading.

        is_shrunk: clients were led to one more compose, or would be if this were no dry run.
        """
        folder = self.store.channels / channel
        current = composes.need_current(folder)
        line, at = [current.name], current
        while (
            len(line) <= keep - (is_shrunk and self.is_dry_run) and (origin := composes.origin(at)) and origin.previous
        ):
            at = at.with_name(origin.previous)
            if not at.is_dir():
                break
            line.append(at.name)
        found = []
        for name in composes.versions(folder):
            compose = current.with_name(name)
            is_young = now_s - compose.stat().st_mtime < _GRACE_S
            reasons = ["clients see it"] if compose == current else ["a rollback leads to it"] if name in line else []
            reasons += ["young"] if is_young else []
            found.append(_verdict(f"composes of {channel}", name, reasons))
            if not reasons:
                self.remove(compose)
        return found

    def builds(self, builds: Iterable[Build]) -> None:
        """Children before parents, each facts first: at no time does a build stand on one that is gone."""
        depth = {build.stem: len(self.store.chain(build)) for build in builds}
        for stem in sorted(depth, key=lambda stem: (-depth[stem], stem)):
            self.note(f"{stem} goes")
            for path in (
                self.store.images / f"{stem}.json",
                self.store.images / f"{stem}.packages",
                self.store.images / f"{stem}.qcow2",
                self.store.verified / f"{stem}.json",
                self.store.logs / stem,
            ):
                self.remove(path)

    def orphans(self, kept: Sequence[Build], *, gone: set[str], published: set[str], prefix: str) -> list[Verdict]:
        """Packages whose build is gone, records and logs of none, and what was cut off while it was written.

        gone: builds that have a verdict of their own. published: those whose records count, wherever they were built.
        """
        stems = {build.stem for build in kept}
        packages = tuple(
            f"{first}-{name}-"
            for id in (build.id for build in kept)
            for first in (prefix, f"{prefix}-private")
            for name in (f"{id.image}-image-{id.version}-{id.version}", f"{id.image}-{id.version}")
        )
        store = self.store
        found = [path for path in store.images.glob("*") if path.stem not in stems and not path.is_symlink()]
        found += [path for path in store.rpms.glob(f"{prefix}-*") if not path.name.startswith(packages)]
        found += [path for path in store.verified.glob("*.json") if path.stem not in stems | published]
        found += [
            path
            for path in store.logs.glob("*")
            if path.is_dir() and _STEM.fullmatch(path.name) and path.name not in stems
        ]
        found = [path for path in found if path.name not in gone and path.stem not in gone]
        found += store.channels.glob("*/composes/.*.part")
        found += [path for folder in (store.channels, store.logs, store.verified) for path in folder.glob(".*.part")]
        verdicts = [_verdict("orphans", str(path.relative_to(store.root)), []) for path in sorted(found)]
        for path in found:
            self.remove(path)
        return verdicts

    def remove(self, path: Path) -> None:
        if not path.exists():
            return
        for file in path.rglob("*") if path.is_dir() else (path,):
            if file.is_file() and not file.is_symlink():
                status = file.stat()
                key = (status.st_dev, status.st_ino)
                gone, names, _ = self._inodes.get(key, (0, status.st_nlink, 0))
                self._inodes[key] = (gone + 1, names, status.st_size)
        if self.is_dry_run:
            return
        if path.is_dir():
            aside = path.with_name(f".{path.name}.part")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            faults.place("collect.aside")
            shutil.rmtree(aside)
        else:
            path.unlink()
        faults.place("collect.removed")
        sync_directory(path.parent)


def _of_build(store: Store, build: Build, *, needs: tuple[str, ...]) -> Candidate:
    return Candidate(
        id=build.id,
        needs=needs,
        distribution=build.distribution,
        finished_s=datetime.fromisoformat(build.finished).timestamp(),
        is_good=not unverified(store, build.id),
    )


def _needs(build: Build, builds: Mapping[str, Build]) -> tuple[str, ...]:
    """What it stands on, and its first flat form: its plain package may link to that."""
    flat = next((it.stem for it in builds.values() if it.flattened == build.id), None)
    return tuple(stem for stem in (build.parent and build.parent.stem, flat) if stem)


def _of_member(store: Store, member: Member, builds: Mapping[str, Build], compose: Path) -> Candidate:
    """The build may be gone from the store; then its facts are beside its RPM."""
    build = builds.get(member.stem)
    facts = next(iter(composes.companions(compose / member.image_rpm.href)))
    if build is None and facts.exists():
        build = read_build(facts)
    if build is not None:
        return _of_build(store, build, needs=member.needs)
    return Candidate(
        id=member.id,
        needs=member.needs,
        distribution=member.id.image.partition("-")[0],
        finished_s=member.image_rpm.built_s,
        is_good=not unverified(store, member.id),
    )


def _verdicts(where: str, stems: Iterable[str], kept: Mapping[str, Sequence[str]], *, rule: Rule) -> list[Verdict]:
    why_not = f"older than {format_seconds(rule.age_s)}, not among the newest {rule.keep}, and nothing stands on it"
    return [_verdict(where, stem, kept.get(stem, ()), why_not=why_not) for stem in sorted(stems)]


def _verdict(where: str, name: str, reasons: Sequence[str], *, why_not: str = "nothing needs it") -> Verdict:
    return Verdict(where=where, name=name, stays=bool(reasons), reasons=tuple(reasons) or (why_not,))

"""Sets from one channel to the next, verified and whole; and a channel back to what it was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import RootModel, ValidationError

from builder.channels import compose as composes
from builder.channels import publication, sets
from builder.channels.client import checked_url
from builder.channels.sets import Member
from builder.errors import ConfigError, VerifyError, did_you_mean
from builder.model import Frozen, ImageId
from builder.store import Store, write_atomically
from builder.tools import createrepo
from builder.tools.openpgp import Signer

_WITHDRAWN = "withdrawn.json"


class Promotion(Frozen):
    """What promoting did, or would do. compose: what clients of `target` see; None if there is nothing in it yet.

    promoted: builds that came to `target`. there: those that it had. held: build -> why it was left where it is.
    """

    source: str
    target: str
    compose: str | None
    url: str | None
    new: tuple[str, ...]
    promoted: tuple[str, ...]
    there: tuple[str, ...]
    held: dict[str, str]


class RolledBack(Frozen):
    """withdrawn: builds that clients do not see any more, and that are not promoted again by themselves."""

    channel: str
    before: str
    compose: str
    url: str
    withdrawn: tuple[str, ...]


@dataclass(frozen=True)
class _Choice:
    """passing: the sets that may go, by the image whose set it is. held: build -> why not."""

    passing: dict[str, list[Member]]
    held: dict[str, str]


def promote(
    store: Store,
    images: Sequence[str],
    *,
    source: str = "candidate",
    target: str = "nightly",
    prefix: str,
    url: str,
    signer: Signer | None,
    is_unverified: bool = False,
    is_again: bool = False,
    is_dry_run: bool = False,
) -> Promotion:
    """Take the newest set of each image from one channel to the next, each set whole or not at all.

    images: names; none: every image of `source`. A set is an image's build and all that it stands on; it goes only if
    each of them has a verification record that says it passed, of these very bytes. A set that does not is held back,
    the others go. is_unverified: without records. is_again: also what a rollback of `target` took away.
    Raises ConfigError for an image that `source` does not have, VerifyError if a channel is damaged.
    """
    if source == target:
        raise ConfigError(f"'{source}' cannot be promoted to itself", try_next="--from and --to differ")
    with publication.locked(store, target):
        compose = composes.need_current(store.channels / source)
        found = sets.members(composes.read(compose, signer=signer), prefix=prefix)
        withdrawn = {} if is_again else read_withdrawn(store.channels / target)
        chosen = _choose(
            store, _wanted(found, images, channel=source), found, withdrawn=withdrawn, is_unverified=is_unverified
        )
        known = {
            package.file_name: package
            for chain in chosen.passing.values()
            for member in chain
            for package in member.packages
        }
        rpms = [compose / package.href for package in known.values()]
        current = composes.current(store.channels / target)
        if not rpms:
            return Promotion(
                source=source,
                target=target,
                compose=current.name if current else None,
                url=composes.address(checked_url(url), current) if current else None,
                new=(),
                promoted=(),
                there=(),
                held=chosen.held,
            )
        decided = publication.plan(store, target, rpms, url=url, signer=signer, known=known)
        if not is_dry_run:
            publication.carry_out(decided, why=f"promoted from {source}", signer=signer)
            if is_again:
                _forget_withdrawn(
                    store.channels / target, {it.stem for chain in chosen.passing.values() for it in chain}
                )
    leaves = [chain[0] for chain in chosen.passing.values()]
    new = set(decided.new)
    is_new = {it.stem: any(package.file_name in new for package in it.packages) for it in leaves}
    return Promotion(
        source=source,
        target=target,
        compose=decided.compose.name,
        url=decided.url,
        new=decided.new,
        promoted=tuple(stem for stem, value in is_new.items() if value),
        there=tuple(stem for stem, value in is_new.items() if not value),
        held=chosen.held,
    )


def rollback(
    store: Store, channel: str, *, to: str | None = None, prefix: str, url: str, is_dry_run: bool = False
) -> RolledBack:
    """Let clients see an earlier compose again: the one before, or `to`. Nothing is removed.

    What they do not see any more is remembered, so that the next promotion does not bring it back.
    Raises ConfigError if there is no such compose, VerifyError if the channel is damaged.
    """
    folder, url = store.channels / channel, checked_url(url)
    with publication.locked(store, channel):
        current = composes.need_current(folder)
        target = folder / "composes" / (to or _before(current))
        if target.name not in composes.versions(folder) or target == current:
            others = [name for name in composes.versions(folder) if name != current.name]
            raise ConfigError(
                f"the channel '{channel}' has no compose {target.name} to go back to"
                if target != current
                else f"clients of '{channel}' see compose {current.name} now",
                try_next=f"--to one of: {', '.join(others)}" if others else None,
            )
        before, after = (sets.members(createrepo.read(it), prefix=prefix) for it in (current, target))
        lost = [before[stem].id for stem in before if stem not in after]
        if not is_dry_run:
            _remember_withdrawn(folder, lost, compose=current.name, seen=set(after))
            write_atomically(folder / "mirrorlist", f"{composes.address(url, target)}\n")
    return RolledBack(
        channel=channel,
        before=current.name,
        compose=target.name,
        url=composes.address(url, target),
        withdrawn=tuple(sorted(id.stem for id in lost)),
    )


def _before(current: Path) -> str:
    origin = composes.origin(current)
    if origin is None or origin.previous is None:
        raise ConfigError(f"there is no compose before {current.name}", try_next="golden rollback CHANNEL --to COMPOSE")
    return origin.previous


# --- which sets may go


def _wanted(found: dict[str, Member], images: Sequence[str], *, channel: str) -> list[Member]:
    newest = sets.newest(found.values())
    for name in images:
        if name not in newest:
            raise ConfigError(
                f"the channel '{channel}' has no '{name}'{did_you_mean(name, newest)}",
                try_next=f"golden publish {name} --channel {channel}",
            )
    return [newest[name] for name in (images or sorted(newest))]


def _choose(
    store: Store, wanted: Sequence[Member], found: dict[str, Member], *, withdrawn: dict[str, str], is_unverified: bool
) -> _Choice:
    passing, held = {}, {}
    for member in wanted:
        chain = sets.chain(member, found)
        reasons = [f"{link.stem} {withdrawn[link.stem]}" for link in chain if link.stem in withdrawn]
        if not is_unverified:
            reasons += [reason for link in chain if (reason := unverified(store, link.id))]
        lacking = sorted({stem for link in chain for stem in link.needs} - set(found))
        reasons += [f"{stem}, which it needs, is not in the channel" for stem in lacking]
        if reasons:
            held[member.stem] = "; ".join(reasons)
        else:
            passing[member.id.image] = chain
    return _Choice(passing, held)


def unverified(store: Store, id: ImageId) -> str:
    """Why a build does not count as verified; empty if it does."""
    path = store.verification(id)
    if not path.exists():
        return f"{id.stem} was not verified"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        is_same, is_passed = record["sha256"] == id.sha256, record["passed"] is True
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return f"the verification record of {id.stem} is damaged: {path}: {error}"
    if not is_same:
        return f"the verification record of {id.stem} is of other bytes"
    return "" if is_passed else f"{id.stem} did not pass its verification"


# --- what a rollback took away


class _Withdrawn(RootModel[dict[str, str]]):
    """`withdrawn.json`."""


def read_withdrawn(channel: Path) -> dict[str, str]:
    """Build -> what happened to it, in words. Raises VerifyError if the file is damaged."""
    path = channel / _WITHDRAWN
    if not path.exists():
        return {}
    try:
        return _Withdrawn.model_validate_json(path.read_bytes()).root
    except ValidationError as error:
        raise VerifyError(
            f"what was taken back from the channel '{channel.name}' cannot be read: {path} is damaged",
            details=[("reason", str(error).splitlines()[0])],
            try_next=f"mend it, or rm {path}, by which it may be promoted again",
        ) from error


def _remember_withdrawn(channel: Path, ids: Sequence[ImageId], *, compose: str, seen: set[str]) -> None:
    """seen: builds that clients see again, which are withdrawn no longer."""
    known = {stem: text for stem, text in read_withdrawn(channel).items() if stem not in seen}
    known |= {id.stem: f"was taken back with compose {compose} at {composes.now()}" for id in ids}
    _write_withdrawn(channel, known)


def _forget_withdrawn(channel: Path, stems: set[str]) -> None:
    known = read_withdrawn(channel)
    if stems & set(known):
        _write_withdrawn(channel, {stem: text for stem, text in known.items() if stem not in stems})


def _write_withdrawn(channel: Path, known: Mapping[str, str]) -> None:
    write_atomically(channel / _WITHDRAWN, json.dumps(known, indent=2, sort_keys=True) + "\n")

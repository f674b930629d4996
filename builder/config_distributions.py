"""`[distribution.NAME]` of golden.toml over golden's catalogue: inherited keys filled in, each checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from builder.catalogue import (
    Raw,
    RawSetup,
    catalogue,
    contradictions,
    default_firmware,
    families,
    kernel_arguments,
    setup,
)
from builder.config_problems import Problems
from builder.config_values import Duration, Size
from builder.errors import did_you_mean
from builder.media import Repository
from builder.model import Architecture, Distribution, Limits, Setup
from builder.sources import RawSource
from builder.templates import shared
from builder.units import MIB


class RawLimits(Raw):
    install: Duration = Limits().install_s
    silence: Duration = Limits().silence_s
    boot: Duration = Limits().boot_s
    shutdown: Duration = Limits().shutdown_s


class RawDistribution(RawSetup):
    inherits: str | None = None
    title: str
    kickstart: str
    kickstart_version: str
    osinfo: str
    source: RawSource | None = None
    gpg_key: str | None = None
    arch: Architecture = "x86_64"
    kernel_arguments: str = ""
    openscap_addon: str | None = None
    sparrowdo: bool = True
    selinux: Literal["enforcing", "permissive", "disabled"] = "enforcing"
    memory: Size
    cpus: Annotated[int, Field(ge=1)] = 2
    repositories: dict[str, str] = Field(default={})
    limits: RawLimits = RawLimits()


def read(own: Mapping[str, dict[str, Any]], *, file: Path, problems: Problems) -> dict[str, Distribution]:
    """All that golden knows and that `own`, the tables of `file`, define; without those that have problems."""
    known = catalogue()
    everything = overriding(own)
    found: dict[str, Distribution] = {}
    for name in {**known, **own}:
        problems.check_name(name, ("distribution", name))
        chain = _inheritance(name, everything, problems=problems)
        if chain is None:
            continue
        raw = problems.checked(RawDistribution, _merged(chain), at=("distribution", name))
        if raw is not None:
            found[name] = _distribution(raw, own, chain=chain, file=file, problems=problems)
    return found


def _inheritance(
    name: str, everything: Mapping[str, dict[str, Any]], *, problems: Problems
) -> dict[str, dict[str, Any]] | None:
    """Name -> table of the distribution, of what it inherits, …; None, and a problem, if that makes no sense."""
    chain = {name: everything[name]}
    last = name
    while (parent := everything[last].get("inherits")) is not None:
        place = ("distribution", last, "inherits")
        if not isinstance(parent, str) or parent not in everything:
            problems.add(place, f"there is no distribution '{parent}'{did_you_mean(str(parent), everything)}")
            return None
        if parent in chain:
            problems.add(("distribution", parent, "inherits"), f"inherits from itself: {' -> '.join((*chain, parent))}")
            return None
        chain[parent] = everything[parent]
        last = parent
    return chain


def _merged(chain: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The keys of the first table over those of all that it inherits."""
    merged: dict[str, Any] = {}
    for table in reversed([*chain.values()]):
        merged |= table
    return merged


def _distribution(
    raw: RawDistribution,
    own: Mapping[str, dict[str, Any]],
    *,
    chain: Mapping[str, dict[str, Any]],
    file: Path,
    problems: Problems,
) -> Distribution:
    """own: the tables of golden.toml itself. chain: of `_inheritance`, the distribution's own name first."""
    name = next(iter(chain))
    folder = file.absolute().parent
    for repository in raw.repositories:
        problems.check_name(repository, ("distribution", name, "repositories", repository))
    gpg_key = folder / raw.gpg_key if raw.gpg_key else None
    if raw.source and raw.source.is_signed_by_makers and gpg_key is None:
        what = f"golden knows no key of '{name}'; name the file with the makers' public key: gpg_key = \"…\""
        problems.add(("distribution", name, "source"), what)
    said = setup(raw, folder=folder)
    distribution = Distribution(
        name=name,
        title=raw.title,
        kickstart=_kickstart(name, raw.kickstart, file=file, problems=problems),
        kickstart_version=raw.kickstart_version,
        osinfo=raw.osinfo,
        source=raw.source.resolved(folder, raw.arch, gpg_key=gpg_key) if raw.source else None,
        gpg_key=gpg_key,
        arch=raw.arch,
        kernel_arguments=kernel_arguments(raw.kernel_arguments, arch=raw.arch),
        openscap_addon=raw.openscap_addon or None,
        sparrowdo=raw.sparrowdo,
        selinux=raw.selinux,
        selinux_is_own=_is_own("selinux", chain, own=own),
        memory_mib=raw.memory // MIB,
        cpus=raw.cpus,
        repositories=tuple(
            Repository(name=key, location=value if "://" in value else str(folder / value))
            for key, value in raw.repositories.items()
        ),
        limits=Limits(**{f"{name}_s": value for name, value in raw.limits.model_dump().items()}),
        **({"firmware": default_firmware(raw.arch)} | said.given()),
    )
    own_setup = said.model_copy(update=dict.fromkeys(set(Setup.model_fields) - set(own.get(name, {}))))
    for key, what in contradictions(distribution, own_setup):
        problems.add(("distribution", name, key), what)
    return distribution


def _is_own(key: str, chain: Mapping[str, dict[str, Any]], *, own: Mapping[str, dict[str, Any]]) -> bool:
    """Whether the value of `key` that counts, the first in `chain`, is one of `own`'s."""
    says = next((name for name, table in chain.items() if key in table), None)
    return says is not None and key in own.get(says, {})


def _kickstart(name: str, text: str, *, file: Path, problems: Problems) -> Path:
    """The project's own template if there is one of that name beside golden.toml, else one of golden's."""
    own = file.absolute().parent / text
    if not own.is_file() and not (shared("kickstarts") / text).is_file():
        known = ", ".join(sorted(path.name for path in shared("kickstarts").glob("*.ks.j2")))
        what = f"there is no kickstart template '{text}' beside {file.name}, and golden's are {known}"
        problems.add(("distribution", name, "kickstart"), what)
    return own if own.is_file() else shared("kickstarts") / text


def overriding(own: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What golden knows, the project's distributions and families over those of the same name."""
    known = {**families(), **catalogue()}
    return {**known, **{name: {**known.get(name, {}), **raw} for name, raw in own.items()}}

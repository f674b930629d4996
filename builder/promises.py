"""What an image promises: what its chain's steps and `verify` tables say, added up. Pure."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from builder.model import Distribution, FileCheck, Frozen, Image, Project
from builder.steps import Copy, Install, Remove, Run, Selinux, Services, Step, Write

# Empty after every boot.
_VOLATILE = ("/tmp/", "/run/", "/var/tmp/", "/var/run/")


class Promises(Frozen):
    """Everything that a clone of an image is asked for.

    absent: packages that are not there. enabled, disabled, masked: units, by `systemctl is-enabled`.
    selinux_is_own: whether golden.toml itself names the mode, so that a guest without SELinux breaks its word.
    tests: files of the project. Otherwise as `model.Verify`.
    """

    packages: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    enabled: tuple[str, ...] = ()
    disabled: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()
    files: dict[str, FileCheck] = Field(default_factory=dict)
    commands: tuple[str, ...] = ()
    selinux: Literal["enforcing", "permissive", "disabled"] = "enforcing"
    selinux_is_own: bool = False
    tests: tuple[str, ...] = ()
    boot_within_s: int | None = None
    size_below_bytes: int | None = None
    growth_percent: int | None = None

    def digest(self) -> str:
        """Hex SHA-256: what was verified once holds as long as nothing else is promised."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def promises(project: Project, image: str) -> Promises:
    """What `image` promises: all that the images below it do, and its own; later words win.

    The budgets for boot and growth are those of the nearest image that has one, the one for the size is its own:
    every layer has a size of its own.
    """
    chain = _inherited(project.chain(image))
    distribution = project.distribution_of(image)
    found = _Sum(distribution, has_base=chain[-1].parent is None)
    for link in reversed(chain):
        found.add(link)
    budgets = [link.verify for link in chain]
    return Promises(
        packages=tuple(found.packages),
        absent=tuple(found.absent),
        services=tuple(found.services),
        enabled=found.units("enabled"),
        disabled=found.units("disabled"),
        masked=found.units("masked"),
        files=found.files,
        commands=tuple(found.commands),
        selinux=found.selinux,
        selinux_is_own=found.selinux_is_own,
        tests=tuple(found.tests),
        boot_within_s=next((it.boot_within_s for it in budgets if it.boot_within_s), None),
        growth_percent=next((it.growth_percent for it in budgets if it.growth_percent), None),
        size_below_bytes=budgets[0].size_below_bytes,
    )


def _inherited(chain: list[Image]) -> list[Image]:
    """The part of the chain whose promises hold at its top."""
    for number, link in enumerate(chain):
        if not link.verify.inherit:
            return chain[: number + 1]
    return chain


class _Sum:
    """The promises so far, while a chain is walked from its base up. Dicts serve as ordered sets."""

    def __init__(self, distribution: Distribution, *, has_base: bool) -> None:
        self.packages: dict[str, None] = dict.fromkeys(_askable(distribution.packages) if has_base else ())
        self.absent: dict[str, None] = {}
        self.services: dict[str, None] = {}
        self.states: dict[str, str] = {}
        self.files: dict[str, FileCheck] = {}
        self.commands: dict[str, None] = {}
        self.tests: dict[str, None] = {}
        self.selinux: Literal["enforcing", "permissive", "disabled"] = distribution.selinux
        self.selinux_is_own = distribution.selinux_is_own

    def add(self, image: Image) -> None:
        for number, step in enumerate(image.steps):
            self._step(step, later=image.steps[number + 1 :])
        said = image.verify
        self._install(said.packages)
        self.services |= dict.fromkeys(said.services)
        self.files |= said.files
        self.commands |= dict.fromkeys(said.commands)
        self.tests |= dict.fromkeys(said.tests)

    def units(self, state: str) -> tuple[str, ...]:
        return tuple(unit for unit, found in self.states.items() if found == state)

    def _step(self, step: Step, *, later: Iterable[Step]) -> None:
        match step:
            case Install(packages=packages):
                self._install(packages)
            case Remove(packages=packages):
                self._remove(packages)
            case Services():
                self.states |= dict.fromkeys(step.enable, "enabled")
                self.states |= dict.fromkeys(step.disable, "disabled")
                self.states |= dict.fromkeys(step.mask, "masked")
                for unit in (*step.disable, *step.mask):
                    self.services.pop(unit, None)
            case Selinux(mode=mode) if mode is not None:
                self.selinux = mode
                self.selinux_is_own = True
            case Copy(paths=paths):
                self._put(paths.values(), later)
            case Write(texts=texts):
                self._put(texts, later)
            case _:
                pass

    def _install(self, packages: Iterable[str]) -> None:
        for name in _askable(packages):
            self.packages[name] = None
            self.absent.pop(name, None)

    def _remove(self, packages: Iterable[str]) -> None:
        for pattern in packages:
            for name in fnmatch.filter(list(self.packages), pattern):
                del self.packages[name]
            if pattern in _askable([pattern]):
                self.absent[pattern] = None

    def _put(self, paths: Iterable[str], later: Iterable[Step]) -> None:
        """What a recipe's own commands run after may well be gone on purpose: a script that was only to run once."""
        if not any(step.is_online or isinstance(step, Run) for step in later):
            self.files |= {path: FileCheck() for path in paths if not path.startswith(_VOLATILE)}


def _askable(packages: Iterable[str]) -> list[str]:
    """Those that rpm can be asked for by name: no groups, exclusions, patterns or files."""
    return [
        name
        for name in packages
        if name[0] not in "@-" and not set(name) & set("*?[") and "://" not in name and not name.endswith(".rpm")
    ]

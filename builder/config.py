"""golden.toml -> Project: a frozen model, or all problems at once, each with its line."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, SecretStr, ValidationError

from builder import config_matrix, private
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
from builder.config_messages import message
from builder.config_publication import RawPublish, RawRetention, RawSigning
from builder.config_steps import Parsed, guest_path, parse_step
from builder.config_verify import RawVerify
from builder.errors import ConfigError, Problem, did_you_mean
from builder.model import NAME, Architecture, Distribution, Image, Limits, Project, Refresh, Repository, Setup
from builder.password import parse_hash
from builder.publication import Publication
from builder.sources import RawSource
from builder.steps import Modules, RootPassword, Sparrowdo, Step
from builder.templates import shared
from builder.toml_lines import key_lines, line_of
from builder.units import MIB, parse_duration, parse_size

# Later releases have no module streams.
_MODULAR = ("RHEL8", "RHEL9")

M = TypeVar("M", bound=BaseModel)
Lines = dict[tuple[str | int, ...], int]

Size = Annotated[int, BeforeValidator(lambda value: parse_size(str(value)))]
Duration = Annotated[int, BeforeValidator(lambda value: parse_duration(str(value)))]
GuestPath = Annotated[str, BeforeValidator(guest_path)]
Hash = Annotated[SecretStr, BeforeValidator(parse_hash)]


class _Project(Raw):
    name: str | None = None
    prefix: str = "golden"
    ssh_key: str = "keys/id_ed25519"
    url: str = "http://127.0.0.1:8710"
    root_password_hash: Hash | None = None
    prefer: Literal["chain", "flat"] = "chain"


class _Limits(Raw):
    install: Duration = Limits().install_s
    silence: Duration = Limits().silence_s
    boot: Duration = Limits().boot_s
    shutdown: Duration = Limits().shutdown_s


class _Distribution(RawSetup):
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
    limits: _Limits = _Limits()


class _Image(RawSetup):
    distribution: str | None = None
    parent: str | None = None
    description: str = ""
    disk: Size | None = None
    flat: bool = False
    refresh: Refresh = "on-change"
    verify: RawVerify = RawVerify()
    keeps_private_keys: list[GuestPath] = Field(default=[])
    stable: Literal["chain", "flat"] = "chain"
    steps: list[Annotated[Any, BeforeValidator(parse_step)]] = Field(default=[])


_SECTIONS = ("project", "signing", "publish", "retention", "distribution", "matrix", "image")


def load(file: Path) -> Project:
    """Read and check `file`, a golden.private.toml beside it merged over it.

    Raises ConfigError with every problem found, in the order of the file.
    """
    if not file.is_file():
        raise ConfigError(f"there is no {file}", try_next="golden init  writes one to start from")
    data, lines = _read(file)
    own = file.with_name(private.FILE)
    own_data, own_lines = _read(own) if own.is_file() else ({}, {})
    return _Loader(file, private.merged(data, own_data), lines, own=own_data, own_lines=own_lines).project()


def _read(file: Path) -> tuple[dict[str, Any], Lines]:
    try:
        text = file.read_text(encoding="utf-8")
        return tomllib.loads(text), key_lines(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file.name} is not TOML", problems=[Problem(file.name, str(error))]) from error


def without_file(file: Path) -> Project:
    """What golden knows where there is no `file`: its catalogue, and no image."""
    return _Loader(file, {}, {}, own={}, own_lines={}).project()


class _Loader:
    """One pass over one file; `problems` fills up and is raised at the end. own: what golden.private.toml says."""

    def __init__(
        self, file: Path, data: dict[str, Any], lines: Lines, *, own: dict[str, Any], own_lines: Lines
    ) -> None:
        self.file = file
        self.folder = file.absolute().parent
        self.data = data
        self.lines = lines
        self.own = own
        self.own_lines = own_lines
        self.problems: list[Problem] = []
        # Image -> the name that its definition has in the file, where that is another one.
        self.origin: dict[str, str] = {}

    def project(self) -> Project:
        for key in self.data:
            if key not in _SECTIONS:
                self._problem((key,), f"unknown key{did_you_mean(key, _SECTIONS)}")
        project = self._checked(_Project, self.data.get("project", {}), at=("project",)) or _Project()
        own = self._tables("distribution")
        distributions = self._distributions(own)
        publication = self._publication()
        raw_images = self._raw_images({*own, *distributions})
        images = self._images(raw_images, {*own, *distributions}, root_password_hash=project.root_password_hash)
        self._check_setups(images.values(), distributions)
        self._check_modules(images, distributions)
        self._check_bootstraps(images, distributions)
        images |= self._flats(raw_images, images)
        images = private.marked(
            images,
            names=private.touched(self.own, "image") | private.readers(images),
            distributions=private.heirs(
                private.touched(self.own, "distribution"),
                _overriding(own),
            ),
        )
        for key, name in (("name", project.name), ("prefix", project.prefix)):
            if name is not None:
                self._check_name(name, ("project", key))
        if self.problems:
            found = sorted(set(self.problems), key=lambda problem: (problem.line or 0, problem.where))
            count = "a problem" if len(found) == 1 else f"{len(found)} problems"
            raise ConfigError(f"{self.file.name} has {count}", problems=found)
        return Project(
            file=self.file.absolute(),
            name=project.name or _as_name(self.folder.name),
            prefix=project.prefix,
            ssh_key=self.folder / project.ssh_key,
            url=project.url.rstrip("/"),
            distributions=distributions,
            images=images,
            prefer=project.prefer,
            publication=publication,
        )

    def _publication(self) -> Publication:
        signing = self._checked(RawSigning, self.data.get("signing", {}), at=("signing",)) or RawSigning()
        publish = self._checked(RawPublish, self.data.get("publish", {}), at=("publish",)) or RawPublish()
        retention = self._checked(RawRetention, self.data.get("retention", {}), at=("retention",)) or RawRetention()
        for name in retention.channel:
            self._check_name(name, ("retention", "channel", name))
        return Publication(
            signing=signing.resolved(self.folder),
            target=publish.resolved(self.folder),
            retention=retention.resolved(),
        )

    # --- distributions

    def _distributions(self, own: Mapping[str, dict[str, Any]]) -> dict[str, Distribution]:
        known = catalogue()
        found: dict[str, Distribution] = {}
        for name in {**known, **own}:
            self._check_name(name, ("distribution", name))
            merged = self._inherited(name, own=_overriding(own), seen=())
            if merged is None:
                continue
            raw = self._checked(_Distribution, merged, at=("distribution", name))
            if raw is not None:
                found[name] = self._distribution(name, raw, own.get(name, {}))
        return found

    def _inherited(
        self, name: str, *, own: Mapping[str, dict[str, Any]], seen: tuple[str, ...]
    ) -> dict[str, Any] | None:
        """The distribution's keys over those of all that it inherits; None, and a problem, if that makes no sense."""
        place = ("distribution", name, "inherits")
        if name in seen:
            self._problem(place, f"inherits from itself: {' -> '.join((*seen, name))}")
            return None
        parent = own[name].get("inherits")
        if parent is None:
            return own[name]
        if parent not in own:
            self._problem(place, f"there is no distribution '{parent}'{did_you_mean(str(parent), own)}")
            return None
        inherited = self._inherited(parent, own=own, seen=(*seen, name))
        return None if inherited is None else {**inherited, **own[name]}

    def _distribution(self, name: str, raw: _Distribution, own: Mapping[str, Any]) -> Distribution:
        """own: the keys that golden.toml itself has for it."""
        for repository in raw.repositories:
            self._check_name(repository, ("distribution", name, "repositories", repository))
        gpg_key = self.folder / raw.gpg_key if raw.gpg_key else None
        if raw.source and raw.source.is_signed_by_makers and gpg_key is None:
            what = f"golden knows no key of '{name}'; name the file with the makers' public key: gpg_key = \"…\""
            self._problem(("distribution", name, "source"), what)
        said = setup(raw, folder=self.folder)
        distribution = Distribution(
            name=name,
            title=raw.title,
            kickstart=self._kickstart(name, raw.kickstart),
            kickstart_version=raw.kickstart_version,
            osinfo=raw.osinfo,
            source=raw.source.resolved(self.folder, raw.arch, gpg_key=gpg_key) if raw.source else None,
            gpg_key=gpg_key,
            arch=raw.arch,
            kernel_arguments=kernel_arguments(raw.kernel_arguments, arch=raw.arch),
            openscap_addon=raw.openscap_addon or None,
            sparrowdo=raw.sparrowdo,
            selinux=raw.selinux,
            memory_mib=raw.memory // MIB,
            cpus=raw.cpus,
            repositories=tuple(
                Repository(name=key, location=value if "://" in value else str(self.folder / value))
                for key, value in raw.repositories.items()
            ),
            limits=Limits(**{f"{name}_s": value for name, value in raw.limits.model_dump().items()}),
            **({"firmware": default_firmware(raw.arch)} | said.given()),
        )
        own_setup = said.model_copy(update=dict.fromkeys(set(Setup.model_fields) - set(own)))
        for key, what in contradictions(distribution, own_setup):
            self._problem(("distribution", name, key), what)
        return distribution

    def _kickstart(self, name: str, text: str) -> Path:
        """The project's own template if there is one of that name beside golden.toml, else one of golden's."""
        own = self.folder / text
        if not own.is_file() and not (shared("kickstarts") / text).is_file():
            known = ", ".join(sorted(path.name for path in shared("kickstarts").glob("*.ks.j2")))
            what = f"there is no kickstart template '{text}' beside {self.file.name}, and golden's are {known}"
            self._problem(("distribution", name, "kickstart"), what)
        return own if own.is_file() else shared("kickstarts") / text

    # --- images

    def _raw_images(self, distributions: set[str]) -> dict[str, _Image]:
        """Every image; of one with problems what can be used of it, so that the others are still checked against it."""
        found: dict[str, _Image] = {}
        matrix = config_matrix.read(self.data.get("matrix", {}), distributions=distributions, report=self._problem)
        tables, self.origin = config_matrix.expand(self._tables("image"), matrix, report=self._problem)
        for name, data in tables.items():
            usable = {key: data[key] for key in ("parent", "distribution") if isinstance(data.get(key), str)}
            image = self._checked(_Image, data, at=("image", name))
            found[name] = image or _Image.model_validate(usable)
        return found

    def _images(
        self, raw: Mapping[str, _Image], distributions: Iterable[str], *, root_password_hash: SecretStr | None
    ) -> dict[str, Image]:
        # The base gets it, and so every image has it.
        secret = (RootPassword(hash=root_password_hash),) if root_password_hash else ()
        found: dict[str, Image] = {}
        for name, image in raw.items():
            self._check_name(name, ("image", name))
            distribution = self._distribution_of(name, raw)
            if distribution is None:
                continue
            if distribution not in distributions:
                hint = did_you_mean(distribution, distributions)
                self._problem(("image", name, "distribution"), f"there is no distribution '{distribution}'{hint}")
                continue
            layer = name.removeprefix(f"{distribution}-")
            if layer == name:
                self._problem(
                    ("image", name), f"an image is named DISTRIBUTION-LAYER; this one begins with '{distribution}-'"
                )
            if image.parent is not None:
                for key in ("disk", "distribution", *Setup.model_fields):
                    if getattr(image, key) is not None:
                        self._problem(("image", name, key), f"'{key}' belongs to a base; a layer has its parent's")
            found[name] = Image(
                name=name,
                distribution=distribution,
                layer=layer,
                parent=image.parent,
                description=image.description,
                verify=image.verify.resolved(),
                disk_bytes=None if image.parent else image.disk or parse_size("10 GiB"),
                setup=setup(image, folder=self.folder),
                refresh=image.refresh,
                keeps_private_keys=tuple(image.keeps_private_keys),
                stable=image.stable,
                steps=(
                    *self._steps(name, image.steps, distribution, distributions),
                    *(secret if image.parent is None else ()),
                ),
            )
            if private.MARK in name:
                self._problem(("image", name), f"'{private.MARK}' is kept for the images of golden build --with")
        return found

    def _check_setups(self, images: Iterable[Image], distributions: Mapping[str, Distribution]) -> None:
        for image in images:
            distribution = distributions.get(image.distribution)
            if image.parent is None and distribution is not None:
                wanted = distribution.model_copy(update=image.setup.given())
                for key, what in contradictions(wanted, image.setup):
                    if getattr(image.setup, key) is not None:
                        self._problem(("image", image.name, key), what)

    def _flats(self, raw: Mapping[str, _Image], images: Mapping[str, Image]) -> dict[str, Image]:
        found = {}
        for image in images.values():
            if raw[image.name].flat or image.stable == "flat":
                flat = image.flat()
                found[flat.name] = flat
                if flat.name in raw:
                    self._problem(("image", flat.name), f"'{image.name}' is also made flat, which makes this image")
        return found

    def _steps(
        self, image: str, parsed: Sequence[Parsed], distribution: str, distributions: Iterable[str]
    ) -> Iterator[Step]:
        """The steps that are for this image's distribution."""
        for number, (step, only) in enumerate((it.step, it.only) for it in parsed):
            for name in only:
                if name not in distributions:
                    what = f"there is no distribution '{name}'{did_you_mean(name, distributions)}"
                    self._problem(("image", image, "steps", number), what)
            if not only or distribution in only:
                yield step

    def _check_modules(self, images: Mapping[str, Image], distributions: Mapping[str, Distribution]) -> None:
        for name, image in images.items():
            known = distributions.get(image.distribution)
            for number, step in enumerate(image.steps):
                if isinstance(step, Modules) and known and known.kickstart_version not in _MODULAR:
                    what = f"modules are of EL 8 and 9; '{known.name}' is {known.kickstart_version}"
                    self._problem(("image", name, "steps", number), what)

    def _check_bootstraps(self, images: Mapping[str, Image], distributions: Mapping[str, Distribution]) -> None:
        for name, image in images.items():
            known = distributions.get(image.distribution)
            for number, step in enumerate(image.steps):
                if isinstance(step, Sparrowdo) and step.bootstrap and known and not known.sparrowdo:
                    what = (
                        f"Sparrowdo's own bootstrap does not support {known.title} and would end with 'Your OS is not "
                        "supported'; install raku-sparrow6 and raku-sparky-job-api of Sparrow's COPR by the offline "
                        "steps repos and install, and say bootstrap = false (docs/sparrowdo.md)"
                    )
                    self._problem(("image", name, "steps", number), what)

    def _distribution_of(self, name: str, raw: Mapping[str, _Image]) -> str | None:
        """The distribution of the base under an image; None, and a problem, if there is no way down to one."""
        seen: list[str] = []
        at = name
        while (parent := raw[at].parent) is not None:
            seen.append(at)
            if parent not in raw:
                if at == name:
                    hint = did_you_mean(parent, raw)
                    self._problem(("image", name, "parent"), f"there is no image '{parent}'{hint}")
                return None
            if parent in seen:
                if parent == name == min(seen):
                    self._problem(("image", name, "parent"), f"a cycle: {' -> '.join([*seen, parent])}")
                return None
            at = parent
        distribution = raw[at].distribution
        if distribution is None and at == name:
            self._problem(("image", name), "needs 'parent' (for a layer) or 'distribution' (for a base)")
        return distribution

    # --- problems

    def _tables(self, section: str) -> dict[str, dict[str, Any]]:
        """The tables [section.NAME]; a problem for each that is no table."""
        tables = self.data.get(section, {})
        if not isinstance(tables, dict):
            self._problem((section,), f"is not a table; write [{section}.NAME]")
            return {}
        for name, value in tables.items():
            if not isinstance(value, dict):
                self._problem((section, name), f"is not a table; write [{section}.{name}]")
        return {name: value for name, value in tables.items() if isinstance(value, dict)}

    def _checked(self, model: type[M], data: object, *, at: tuple[str | int, ...]) -> M | None:
        try:
            return model.model_validate(data)
        except ValidationError as error:
            for detail in error.errors():
                self._problem((*at, *detail["loc"]), message(detail, model))
            return None

    def _check_name(self, name: str, place: tuple[str | int, ...]) -> None:
        if not NAME.fullmatch(name):
            self._problem(place, f"'{name}' is not a name; use a-z, 0-9, and single '-' or '.' between them")

    def _problem(self, place: tuple[str | int, ...], what: str) -> None:
        if place[0] == "image" and len(place) > 1:
            place = ("image", self.origin.get(str(place[1]), place[1]), *place[2:])
        where = ".".join(str(part) for part in place)
        line = line_of(self.lines, place)
        if place in self.own_lines or (place not in self.lines and place[:2] in self.own_lines):
            where, line = f"{private.FILE}: {where}", line_of(self.own_lines, place)
        self.problems.append(Problem(where, what, line))


def _overriding(own: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What golden knows, the project's distributions and families over those of the same name."""
    known = {**families(), **catalogue()}
    return {**known, **{name: {**known.get(name, {}), **raw} for name, raw in own.items()}}


def _as_name(text: str) -> str:
    """A folder's name as a project's name."""
    name = "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in text.lower()).split())
    return name or "project"

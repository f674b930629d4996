"""`[image.NAME]` of golden.toml, the matrix multiplied out: whose layer each is, its steps, and what does not fit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr

from builder import config_matrix, private
from builder.catalogue import RawSetup, contradictions, setup
from builder.config_problems import Problems
from builder.config_steps import Parsed, parse_step
from builder.config_values import Size, guest_path, project_path
from builder.config_verify import RawVerify
from builder.errors import did_you_mean
from builder.model import Distribution, Image, Refresh, Setup
from builder.steps import Modules, RootPassword, Sparrowdo, Step
from builder.units import parse_size

# Later releases have no module streams.
_MODULAR = ("RHEL8", "RHEL9")


def _parse_kept_keys(value: object) -> dict[str, str]:
    """Paths in the guest, and files of the project."""
    if not isinstance(value, dict):
        raise ValueError('is a table of private keys in the guest and files with their public halves: { "/…" = "…" }')
    return {guest_path(path): project_path(public) for path, public in value.items()}


KeptKeys = Annotated[dict[str, str], BeforeValidator(_parse_kept_keys)]


class RawImage(RawSetup):
    distribution: str | None = None
    parent: str | None = None
    description: str = ""
    disk: Size | None = None
    flat: bool = False
    refresh: Refresh = "on-change"
    verify: RawVerify = RawVerify()
    keeps_private_keys: KeptKeys = Field(default={})
    stable: Literal["chain", "flat"] = "chain"
    obsoletes: list[str] = Field(default=[])
    steps: list[Annotated[Any, BeforeValidator(parse_step)]] = Field(default=[])


def read(
    data: dict[str, Any],
    *,
    known: Mapping[str, Distribution],
    named: Iterable[str],
    folder: Path,
    root_password_hash: SecretStr | None,
    problems: Problems,
) -> dict[str, Image]:
    """All images of `data`, a golden.toml, with the flat forms.

    known: the distributions. named: also those that have problems. folder: of golden.toml.
    """
    distributions = {*named, *known}
    raw = _raw_images(data, distributions, problems)
    images = _images(raw, distributions, folder=folder, root_password_hash=root_password_hash, problems=problems)
    _check_setups(images.values(), known, problems)
    _check_modules(images, known, problems)
    _check_bootstraps(images, known, problems)
    _check_obsoletes(images, problems)
    return images | _flats(raw, images, problems)


def _raw_images(data: dict[str, Any], distributions: set[str], problems: Problems) -> dict[str, RawImage]:
    """Every image; of one with problems what can be used of it, so that the others are still checked against it."""
    found: dict[str, RawImage] = {}
    matrix = config_matrix.read(data.get("matrix", {}), distributions=distributions, report=problems.add)
    tables, problems.origin = config_matrix.expand(problems.tables(data, "image"), matrix, report=problems.add)
    for name, table in tables.items():
        usable = {key: table[key] for key in ("parent", "distribution") if isinstance(table.get(key), str)}
        image = problems.checked(RawImage, table, at=("image", name))
        found[name] = image or RawImage.model_validate(usable)
    return found


def _images(
    raw: Mapping[str, RawImage],
    distributions: Collection[str],
    *,
    folder: Path,
    root_password_hash: SecretStr | None,
    problems: Problems,
) -> dict[str, Image]:
    # The base gets it, and so every image has it.
    secret = (RootPassword(hash=root_password_hash),) if root_password_hash else ()
    found: dict[str, Image] = {}
    for name, image in raw.items():
        problems.check_name(name, ("image", name))
        distribution = _distribution_of(name, raw, problems)
        if distribution is None:
            continue
        if distribution not in distributions:
            hint = did_you_mean(distribution, distributions)
            problems.add(("image", name, "distribution"), f"there is no distribution '{distribution}'{hint}")
            continue
        layer = name.removeprefix(f"{distribution}-")
        if layer == name:
            problems.add(
                ("image", name), f"an image is named DISTRIBUTION-LAYER; this one begins with '{distribution}-'"
            )
        if image.parent is not None:
            for key in ("disk", "distribution", *Setup.model_fields):
                if getattr(image, key) is not None:
                    problems.add(("image", name, key), f"'{key}' belongs to a base; a layer has its parent's")
        found[name] = Image(
            name=name,
            distribution=distribution,
            layer=layer,
            parent=image.parent,
            description=image.description,
            verify=image.verify.resolved(),
            disk_bytes=None if image.parent else image.disk or parse_size("10 GiB"),
            setup=setup(image, folder=folder),
            refresh=image.refresh,
            keeps_private_keys={path: folder / public for path, public in image.keeps_private_keys.items()},
            stable=image.stable,
            obsoletes=tuple(image.obsoletes),
            steps=(
                *_steps(name, image.steps, distribution, distributions, problems),
                *(secret if image.parent is None else ()),
            ),
        )
        if private.MARK in name:
            problems.add(("image", name), f"'{private.MARK}' is kept for the images of golden build --with")
    return found


def _check_setups(images: Iterable[Image], distributions: Mapping[str, Distribution], problems: Problems) -> None:
    for image in images:
        distribution = distributions.get(image.distribution)
        if image.parent is None and distribution is not None:
            wanted = distribution.model_copy(update=image.setup.given())
            for key, what in contradictions(wanted, image.setup):
                if getattr(image.setup, key) is not None:
                    problems.add(("image", image.name, key), what)


def _flats(raw: Mapping[str, RawImage], images: Mapping[str, Image], problems: Problems) -> dict[str, Image]:
    found = {}
    for image in images.values():
        if raw[image.name].flat or image.stable == "flat":
            flat = image.flat()
            found[flat.name] = flat
            if flat.name in raw:
                problems.add(("image", flat.name), f"'{image.name}' is also made flat, which makes this image")
    return found


def _steps(
    image: str, parsed: Sequence[Parsed], distribution: str, distributions: Collection[str], problems: Problems
) -> Iterator[Step]:
    """The steps that are for this image's distribution."""
    for number, (step, only) in enumerate((it.step, it.only) for it in parsed):
        for name in only:
            if name not in distributions:
                what = f"there is no distribution '{name}'{did_you_mean(name, distributions)}"
                problems.add(("image", image, "steps", number), what)
        if not only or distribution in only:
            yield step


def _check_modules(images: Mapping[str, Image], distributions: Mapping[str, Distribution], problems: Problems) -> None:
    for name, image in images.items():
        known = distributions.get(image.distribution)
        for number, step in enumerate(image.steps):
            if isinstance(step, Modules) and known and known.kickstart_version not in _MODULAR:
                what = f"modules are of EL 8 and 9; '{known.name}' is {known.kickstart_version}"
                problems.add(("image", name, "steps", number), what)


def _check_obsoletes(images: Mapping[str, Image], problems: Problems) -> None:
    """Packages of what is obsolete leave the hosts that have them, so it may be no image any more."""
    for name, image in images.items():
        for old in image.obsoletes:
            problems.check_name(old, ("image", name, "obsoletes"))
            if old in images:
                problems.add(("image", name, "obsoletes"), f"'{old}' is an image; only one that is gone is obsolete")


def _check_bootstraps(
    images: Mapping[str, Image], distributions: Mapping[str, Distribution], problems: Problems
) -> None:
    for name, image in images.items():
        known = distributions.get(image.distribution)
        for number, step in enumerate(image.steps):
            if isinstance(step, Sparrowdo) and step.bootstrap and known and not known.sparrowdo:
                what = (
                    f"Sparrowdo's own bootstrap does not support {known.title} and would end with 'Your OS is not "
                    "supported'; install raku-sparrow6 and raku-sparky-job-api of Sparrow's COPR by the offline "
                    "steps repos and install, and say bootstrap = false (docs/sparrowdo.md)"
                )
                problems.add(("image", name, "steps", number), what)


def _distribution_of(name: str, raw: Mapping[str, RawImage], problems: Problems) -> str | None:
    """The distribution of the base under an image; None, and a problem, if there is no way down to one."""
    seen: list[str] = []
    at = name
    while (parent := raw[at].parent) is not None:
        seen.append(at)
        if parent not in raw:
            if at == name:
                hint = did_you_mean(parent, raw)
                problems.add(("image", name, "parent"), f"there is no image '{parent}'{hint}")
            return None
        if parent in seen:
            if parent == name == min(seen):
                problems.add(("image", name, "parent"), f"a cycle: {' -> '.join([*seen, parent])}")
            return None
        at = parent
    distribution = raw[at].distribution
    if distribution is None and at == name:
        problems.add(("image", name), "needs 'parent' (for a layer) or 'distribution' (for a base)")
    return distribution

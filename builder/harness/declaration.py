"""What a test declares: golden-test.toml in its folder, or NAME.golden-test.toml for a test that is a file.

image = "rocky9-engine-installed"         # or several; --image of `golden test` goes before it
machines = ["engine", "host0"]            # or [machines.engine] tables; one, "main", by itself
lan = true                                # they see each other as engine and host0
scripts = ["setup.sh", { run = "check.sh", on = "host0" }]
limits = { boot = "2 min", run = "10 min" }
bug = "https://bugs.example.org/1", until = "2026-12-31"
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from builder import toml_lines
from builder.catalogue import Raw
from builder.config_messages import message
from builder.errors import ConfigError, Problem, did_you_mean
from builder.frozen import Frozen
from builder.model import NAME, Firmware
from builder.toml_lines import line_of
from builder.tools.domain import Nic
from builder.units import MIB, parse_duration, parse_size

FILE = "golden-test.toml"

# The role of a test's only machine.
MAIN = "main"

Payload = Literal["scripts", "sparrowfile", "pytest"]
Size = Annotated[int, BeforeValidator(lambda value: parse_size(str(value)))]
Duration = Annotated[int, BeforeValidator(lambda value: parse_duration(str(value)))]


Port = Annotated[int, Field(ge=1, le=65535)]


def _network(text: object) -> Nic:
    """A card as `golden clone create --network` has it; the first one, in user mode, is always there."""
    kind, _, source = str(text).partition("=")
    if kind == "network" and source:
        return Nic(kind="network", source=source)
    if kind == "bridge" and source:
        return Nic(kind="bridge", source=source)
    raise ValueError(f"'{text}' is no network; write network=NAME or bridge=NAME")


Network = Annotated[Nic, BeforeValidator(_network)]


class Script(Frozen):
    """run: a file of the test's folder. on: the role of the machine that runs it."""

    run: str
    on: str


class Role(Frozen):
    """A machine of a test. None: what the test, and then the image, says. ports: that other machines reach it at.

    seed: file of the test's folder with the user-data of a NoCloud seed. networks: of further cards.
    """

    image: str | None = None
    memory_mib: int | None = None
    cpus: int | None = None
    ports: tuple[int, ...] = ()
    seed: str | None = None
    networks: tuple[Nic, ...] = ()
    firmware: Firmware | None = None


class Test(Frozen):
    """One test as it is declared. name: its folder, or its file without the ending, below the project's folder.

    images: to run on one after the other; none, where only --image says. suite: tests of the same suite share their
    machines and run one after the other. results: how they come back. files: what goes into the guest.
    boot_s, run_s: limits in seconds, with KVM. fatal: patterns of console lines after which waiting is no use, beside
    golden's own. lan: whether its machines see each other by their names. cold: they boot, whatever memory is saved.
    bug, until: it is known to fail, until the end of that day.
    """

    name: str
    folder: Path
    images: tuple[str, ...] = ()
    roles: dict[str, Role] = Field(default_factory=lambda: {MAIN: Role()})
    suite: str | None = None
    payload: Payload = "scripts"
    scripts: tuple[Script, ...] = ()
    file: str | None = None
    environment: dict[str, str] = Field(default_factory=dict)
    results: Literal["ssh", "disk"] = "ssh"
    boot_s: int = 120
    run_s: int = 600
    fatal: tuple[str, ...] = ()
    may_reboot: bool = False
    lan: bool = False
    cold: bool = False
    bug: str | None = None
    until: date | None = None

    __test__ = False  # pytest takes a class of this name for one of its own

    @property
    def main(self) -> str:
        return next(iter(self.roles))

    def is_known_to_fail(self, today: date) -> bool:
        return self.bug is not None and (self.until is None or today <= self.until)


class _Machine(Raw):
    image: str | None = None
    memory: Size | None = None
    cpus: Annotated[int, Field(ge=1)] | None = None
    ports: list[Port] | None = None
    seed: str | None = None
    networks: list[Network] | None = None
    firmware: Firmware | None = None


class _Limits(Raw):
    boot: Duration = 120
    run: Duration = 600


class _Script(Raw):
    run: str
    on: str | None = None


class _Test(Raw):
    image: str | list[str] | None = None
    machines: list[str] | dict[str, _Machine] | None = None
    suite: str | None = None
    memory: Size | None = None
    cpus: Annotated[int, Field(ge=1)] | None = None
    ports: list[Port] = Field(default=[])
    seed: str | None = None
    networks: list[Network] = Field(default=[])
    firmware: Firmware | None = None
    scripts: list[str | _Script] = Field(default=[])
    sparrowfile: str | None = None
    pytest: str | None = None
    environment: dict[str, str] = Field(default={})
    results: Literal["ssh", "disk"] = "ssh"
    limits: _Limits = _Limits()
    fatal: list[str] = Field(default=[])
    may_reboot: bool = False
    lan: bool = False
    cold: bool = False
    bug: str | None = None
    until: date | None = None


def find(folder: Path, patterns: Sequence[str] = ()) -> list[Test]:
    """The tests below `folder` whose names match one of `patterns`, or all; sorted by name.

    patterns: a name, a folder that it is in, or with *. Raises ConfigError with all problems, or if nothing matches.
    """
    tests: list[Test] = []
    problems: list[Problem] = []
    for path in _declarations(folder):
        try:
            tests.append(load(path, top=folder))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(
            f"the declarations of tests have {len(problems)} problem{'s' if len(problems) > 1 else ''}",
            problems=problems,
        )
    if not tests:
        raise ConfigError(
            f"there is no test below {folder}", try_next=f"write a {FILE} into a test's folder; docs/testing.md"
        )
    tests.sort(key=lambda test: test.name)
    for pattern in patterns:
        if not any(_matches(test, pattern) for test in tests):
            names = [test.name for test in tests]
            raise ConfigError(
                f"no test matches '{pattern}'{did_you_mean(pattern, names)}", try_next="golden test --list"
            )
    return [test for test in tests if not patterns or any(_matches(test, pattern) for pattern in patterns)]


def _matches(test: Test, pattern: str) -> bool:
    pattern = pattern.rstrip("/")
    return fnmatch.fnmatchcase(test.name, pattern) or test.name.startswith(f"{pattern}/")


def _declarations(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob(f"*{FILE}")):
        inside = path.relative_to(folder).parts
        is_hidden = any(part.startswith(".") for part in inside)
        if not is_hidden and (path.name == FILE or path.name.endswith(f".{FILE}")):
            yield path


def load(path: Path, *, top: Path) -> Test:
    """One declaration. top: the folder that names count from. Raises ConfigError with its problems and their lines."""
    place = path.relative_to(top)
    try:
        data, lines = toml_lines.read(path)
    except ValueError as error:
        raise _broken([Problem(str(place), str(error))]) from error

    def problem(key: tuple[Any, ...], what: str) -> Problem:
        return Problem(f"{place}, {'.'.join(map(str, key))}" if key else str(place), what, line_of(lines, key))

    try:
        raw = _Test.model_validate(data)
    except ValidationError as error:
        raise _broken([problem(_key(it["loc"]), message(it, _Test)) for it in error.errors()]) from error
    name = str(place.parent) if path.name == FILE else str(place).removesuffix(f".{FILE}")
    found = [problem(key, what) for key, what in _contradictions(raw, path.parent)]
    if found:
        raise _broken(found)
    roles = _roles(raw)
    kind, file = _payload(raw)
    main = next(iter(roles))
    return Test(
        name=top.name if name == "." else name,
        folder=path.parent,
        images=() if raw.image is None else (raw.image,) if isinstance(raw.image, str) else tuple(raw.image),
        roles=roles,
        suite=raw.suite,
        payload=kind,
        scripts=tuple(Script(run=_script(it).run, on=_script(it).on or main) for it in raw.scripts),
        file=file,
        environment=raw.environment,
        results=raw.results,
        boot_s=raw.limits.boot,
        run_s=raw.limits.run,
        fatal=tuple(raw.fatal),
        may_reboot=raw.may_reboot,
        lan=raw.lan,
        cold=raw.cold,
        bug=raw.bug,
        until=raw.until,
    )


def _broken(problems: list[Problem]) -> ConfigError:
    return ConfigError("a test's declaration is wrong", problems=problems)


def _key(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """pydantic puts the name of a union's branch into the path, which stands in no file."""
    return tuple(part for part in loc if not (isinstance(part, str) and re.search(r"[\[_]|^str$", part)))


def _script(raw: str | _Script) -> _Script:
    return _Script(run=raw) if isinstance(raw, str) else raw


def _roles(raw: _Test) -> dict[str, Role]:
    """What a machine does not say for itself is the test's."""
    own = raw.machines or [MAIN]
    tables = dict.fromkeys(own, _Machine()) if isinstance(own, list) else own
    return {
        name: Role(
            image=it.image,
            memory_mib=_mib(it.memory or raw.memory),
            cpus=it.cpus or raw.cpus,
            ports=tuple(raw.ports if it.ports is None else it.ports),
            seed=it.seed or raw.seed,
            networks=tuple(raw.networks if it.networks is None else it.networks),
            firmware=it.firmware or raw.firmware,
        )
        for name, it in tables.items()
    }


def _mib(size_bytes: int | None) -> int | None:
    return None if size_bytes is None else max(1, size_bytes // MIB)


def _payload(raw: _Test) -> tuple[Payload, str | None]:
    if raw.pytest is not None:
        return "pytest", raw.pytest
    if raw.sparrowfile is not None:
        return "sparrowfile", raw.sparrowfile
    return "scripts", None


def _is_file(path: Path) -> bool:
    """Whether there is that file; no file system has one of a name that it does not take."""
    try:
        return path.is_file()
    except OSError:
        return False


def _contradictions(raw: _Test, folder: Path) -> Iterator[tuple[tuple[Any, ...], str]]:
    """What each key by itself cannot tell."""
    said = [key for key in ("scripts", "sparrowfile", "pytest") if getattr(raw, key)]
    if len(said) != 1:
        yield (said[1],) if said else (), "it is one of scripts, sparrowfile, pytest"
    roles = _roles(raw)
    for role in roles:
        if not NAME.fullmatch(role):
            yield ("machines", role), f"'{role}' cannot be a machine's name: lower-case letters, digits, '-', '.'"
    files: list[tuple[tuple[Any, ...], str]] = [
        ((key,), getattr(raw, key)) for key in ("sparrowfile", "pytest", "seed") if getattr(raw, key)
    ]
    if isinstance(raw.machines, dict):
        files += [(("machines", name, "seed"), it.seed) for name, it in raw.machines.items() if it.seed]
    for number, it in enumerate(raw.scripts):
        script = _script(it)
        files.append((("scripts", number), script.run))
        if script.on is not None and script.on not in roles:
            yield ("scripts", number), f"there is no machine '{script.on}'{did_you_mean(script.on, roles)}"
    for key, name in files:
        if Path(name).is_absolute() or ".." in Path(name).parts or not _is_file(folder / name):
            yield key, f"there is no file '{name}' in the test's folder"
    for number, pattern in enumerate(raw.fatal):
        try:
            re.compile(pattern)
        except re.error as error:
            yield ("fatal", number), f"'{pattern}' is no regular expression: {error}"
    if raw.results == "disk" and (len(roles) > 1 or not raw.scripts):
        yield ("results",), "results come on a disk from scripts on a single machine"
    if raw.lan and len(roles) < 2:
        yield ("lan",), "a LAN is of several 'machines'"
    if raw.until is not None and raw.bug is None:
        yield ("until",), "a date without a 'bug' says nothing"
    for name in raw.environment:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            yield ("environment", name), f"'{name}' cannot be a variable's name"

"""Debian packages from this host's own package sources: which ones are needed, and their files.

apt resolves and downloads (its signatures and checksums stay in force); mirrors and proxies are whatever apt is
configured with. Nothing is installed on the host, and no maintainer script runs anywhere.
"""

from __future__ import annotations

import re
import shlex
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from builder import run
from builder.errors import HostError, ToolError


@dataclass(frozen=True)
class Deb:
    """One Debian package that apt would download. file: its name in the cache."""

    name: str
    version: str
    file: str
    depends: tuple[tuple[str, ...], ...] = ()
    provides: tuple[str, ...] = ()


def resolve(roots: Iterable[str], *, status: Path) -> dict[str, str]:
    """What apt would install on an empty system to get `roots`: name -> file name (which holds the version).

    status: an empty file, in the place of dpkg's list of what is installed. Takes 1 to 2 seconds.
    Raises HostError if apt has no package lists or does not know one of the packages.
    """
    status.touch()
    argv = ["apt-get", "-qq", "--print-uris", "-o", f"Dir::State::status={status}"]
    argv += ["-o", f"Dir::Cache::archives={status.parent}/", "-o", "Debug::NoLocking=true"]
    argv += ["-o", "APT::Install-Recommends=false", "-o", "APT::Install-Suggests=false", "install", *sorted(roots)]
    try:
        lines = run.query(argv, why="resolve the sandbox's Debian packages", timeout_s=120).splitlines()
    except ToolError as error:
        raise HostError(error.what, details=error.details, try_next="apt-get update") from error
    files = [shlex.split(line)[1] for line in lines if line.startswith("'")]
    return {file.split("_", 1)[0]: file for file in files}


def describe(files: dict[str, str]) -> dict[str, Deb]:
    """Dependencies of the packages that `resolve` named."""
    wanted = [f"{name}={version_of(file)}" for name, file in files.items()]
    text = run.query(["apt-cache", "show", *wanted], why="read the sandbox's package descriptions", timeout_s=60)
    debs: dict[str, Deb] = {}
    for paragraph in text.split("\n\n"):
        fields = dict(re.findall(r"^([A-Z][A-Za-z-]*): (.*)$", paragraph, flags=re.MULTILINE))
        name = fields.get("Package")
        if name in files and name not in debs:
            needs = ", ".join(fields[key] for key in ("Pre-Depends", "Depends") if key in fields)
            debs[name] = Deb(
                name=name,
                version=fields["Version"],
                file=files[name],
                depends=parse_depends(needs),
                provides=tuple(names[0] for names in parse_depends(fields.get("Provides", ""))),
            )
    return debs


def version_of(file: str) -> str:
    """`bash_5.2.15-2+b13_amd64.deb` -> `5.2.15-2+b13`. apt writes an epoch's colon as %3a."""
    return unquote(file.split("_")[1])


def parse_depends(text: str) -> tuple[tuple[str, ...], ...]:
    """`a (>= 1), b | c:any` -> (("a",), ("b", "c")): conjunction of alternatives, names alone."""
    groups = [group for group in text.split(",") if group.strip()]
    return tuple(tuple(re.split(r"[\s(:\[]", name.strip(), maxsplit=1)[0] for name in g.split("|")) for g in groups)


def closure(roots: Iterable[str], debs: dict[str, Deb], *, ignored: Collection[str]) -> list[str]:
    """`roots` and all they depend on, without the `ignored` and what only those need; sorted by name."""
    found: set[str] = set()
    queue = list(roots)
    while queue:
        name = queue.pop()
        if name not in found and name not in ignored:
            found.add(name)
            queue += direct(debs[name], debs)
    return sorted(found)


def direct(deb: Deb, debs: dict[str, Deb]) -> list[str]:
    """What `deb` depends on itself. apt has resolved already: of alternatives, the one that is in its answer."""
    return [chosen for names in deb.depends if (chosen := _choose(names, debs))]


def _choose(names: tuple[str, ...], debs: dict[str, Deb]) -> str | None:
    for name in names:
        if name in debs:
            return name
    return next((deb.name for deb in debs.values() if set(names) & set(deb.provides)), None)


def download(debs: Iterable[Deb], *, into: Path, log: Path) -> int:
    """Have apt download those that `into` lacks. Returns how many were missing."""
    into.mkdir(parents=True, exist_ok=True)
    missing = [deb for deb in debs if not (into / deb.file).exists()]
    if missing:
        argv = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download"]
        argv += [f"{deb.name}={deb.version}" for deb in missing]
        # Aside, then renamed: a download that was cut short must never be found in the cache.
        with tempfile.TemporaryDirectory(prefix=".download-", dir=into) as aside:
            run.run(argv, why="download the sandbox's Debian packages", timeout_s=1200, log=log, cwd=Path(aside))
            for deb in missing:
                (Path(aside) / deb.file).rename(into / deb.file)
    return len(missing)


def extract(deb: Path, *, into: Path, log: Path) -> None:
    """Unpack the files of one package, with owners and modes, on top of what `into` holds."""
    into.mkdir(parents=True, exist_ok=True)
    run.run(["dpkg-deb", "-x", deb, into], why=f"unpack {deb.name}", timeout_s=300, log=log)

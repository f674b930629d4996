"""A staged folder -> an RPM. Small specs without scriptlets; everything interesting is in the file list."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder import run
from builder.errors import VerifyError
from builder.sandbox.definition import DATA, Package
from builder.sandbox.stage import walk
from builder.templates import render


@dataclass(frozen=True)
class Version:
    """An RPM's version and release."""

    version: str
    release: str


def rpm_version(debian: str, *, bump: str = "") -> Version:
    """`1:5.2.15-2+b13` -> version 5.2.15, release 2+b13. The epoch goes: nothing here has a history.

    bump: added to the release. RPM allows no `-` in a version.
    """
    without_epoch = debian.split(":", 1)[-1]
    upstream, _, revision = without_epoch.rpartition("-") if "-" in without_epoch else (without_epoch, "", "1")
    return Version(upstream.replace("-", "."), revision + bump)


def spec(package: Package, version: Version, *, requires: Iterable[str], file_list: Path, staged: Path) -> str:
    """The spec as text."""
    return render(
        DATA,
        "package.spec.j2",
        package=package,
        version=version,
        requires=sorted(requires),
        file_list=file_list,
        staged=staged,
    )


def file_list(root: Path, *, attributes: Sequence[tuple[str, str]], shared: frozenset[str]) -> str:
    """The `%files` section of everything below `root`.

    attributes: absolute path -> "mode user group" where the staged file's own are not meant.
    shared: folders that another package owns, left out here.
    """
    special = dict(attributes)
    lines = []
    for path in walk(root):
        name = "/" + path.relative_to(root).as_posix()
        is_folder = stat.S_ISDIR(path.lstat().st_mode)
        if is_folder and name in shared:
            continue
        mode, user, group = special.pop(name).split() if name in special else ("-", "-", "-")
        lines.append(f"%attr({mode},{user},{group}) {'%dir ' if is_folder else ''}{escape(name)}")
    if special:
        raise VerifyError(f"no such file in the package, but attributes for it: {', '.join(special)}")
    return "\n".join(lines) + "\n"


def escape(name: str) -> str:
    """A path for `%files`, where spaces separate, `%` begins a macro, and glob characters match.

    rpm globs quoted names too, braces included, and unescapes a backslash only in names that it takes for a pattern:
    systemd's `system-\\x2d.slice` must stay as it is. In other names `?` stands for each character that is special;
    if that matches another file as well, it is one that is listed anyway. Source: rpm 4.18, build/files.c.
    """
    if any(c in "*?[{" for c in name):
        name = "".join("?" if c in "*?[]{}\\" else c for c in name)
    return '"' + name.replace("%", "%%") + '"'


def build(spec_file: Path, *, into: Path, log: Path) -> None:
    """Run rpmbuild; the RPM appears in `into`. Payload zstd level 1: the guest unpacks it under TCG."""
    macros = {
        "_topdir": str(spec_file.parent),
        "_rpmdir": str(into),
        "_build_name_fmt": "%%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm",
        "_binary_payload": "w1.zstdio",
        "_dbpath": str(spec_file.parent / "rpmdb"),
        # Where rpmbuild leaves its scripts when it fails or is ended.
        "_tmppath": str(spec_file.parent),
        "_build_id_links": "none",
        "debug_package": "%{nil}",
        "__os_install_post": "%{nil}",
        "_buildhost": "sandbox",
    }
    argv: list[str | Path] = ["rpmbuild", "-bb", "--quiet", "--target", "x86_64-linux", "--nodeps"]
    for name, value in macros.items():
        argv += ["--define", f"{name} {value}"]
    run.run([*argv, spec_file], why=f"build the RPM {spec_file.stem}", timeout_s=600, log=log)

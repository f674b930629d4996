"""rpm and rpmbuild: text that stays text in a spec, building packages, asking package files."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import Path

from builder.run import Argv, query, run

_NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"


def plain(text: str) -> str:
    """The text as a package can carry it: no control characters, no blank lines around, no blanks at line ends.

    A line that begins with `%` or `#` is led by a no-break space. rpm looks for sections and `%if` *after* it has
    expanded macros, so a doubled `%%files` still ends the description there, and it drops a `#` line in which it
    found a macro. It skips blanks before it looks, but not this one.
    Source: rpm 4.18 build/parseSpec.c, copyNextLineFromOFI, readLine, isPart.
    """
    lines = []
    for line in text.splitlines():
        kept = "".join(c for c in line if c == "\t" or unicodedata.category(c) not in ("Cc", "Cs")).rstrip()
        lines.append(f"{_NO_BREAK_SPACE}{kept}" if kept.lstrip(" \t")[:1] in ("%", "#") else kept)
    return "\n".join(lines).strip("\n")


def escape(text: str) -> str:
    """`plain(text)` in a form that a spec turns back into it: no macro is expanded."""
    return plain(text).replace("%", "%%")


def build_argv(spec: Path, *, topdir: Path, sources: Path) -> list[str | Path]:
    """rpmbuild for the binary packages of `spec`; they come to lie flat in `topdir`/RPMS.

    sources: the folder that the spec's scripts see as $RPM_SOURCE_DIR.
    """
    defines = {
        "_topdir": _macro(topdir),
        "_sourcedir": _macro(sources),
        "_rpmfilename": "%%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm",
    }
    return ["rpmbuild", "-bb", *(w for name, body in defines.items() for w in ("--define", f"{name} {body}")), spec]


def build(argv: Argv, *, why: str, env: Mapping[str, str], log: Path, timeout_s: float = 3600) -> None:
    """Run what `build_argv` made. timeout_s: seconds. Raises HostError or ToolError."""
    run(argv, why=why, timeout_s=timeout_s, log=log, env=env)


def ask(package: Path, query_format: str) -> str:
    """Query the header of a package file; the payload is not read, signatures are not looked at.

    Raises HostError, or ToolError if it is no package. Source: rpm(8), "QUERY OPTIONS".
    """
    argv: Argv = ["rpm", "-qp", "--nodigest", "--nosignature", "--qf", query_format, package]
    return query(argv, why=f"read the header of {package}")


def file_digests(package: Path) -> dict[str, str]:
    """Path -> hex digest, of the regular files in a package file. Raises as `ask` does."""
    rows = (line.rpartition("\t") for line in ask(package, r"[%{FILENAMES}\t%{FILEDIGESTS}\n]").splitlines())
    return {path: digest for path, _, digest in rows if digest}


def _macro(path: Path) -> str:
    return str(path).replace("%", "%%")

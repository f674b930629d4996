"""rpm and rpmbuild: text that stays text in a spec, building and signing packages, asking package files."""

from __future__ import annotations

import re
import shutil
import tempfile
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from builder.run import Argv, query, run
from builder.tools.openpgp import Signer

_NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"

# A header signed by a key of either kind, as `rpm -qp` shows it: "RSA/SHA256, DATE, Key ID c293d3a5ca88bd84".
_SIGNATURE = "%|RSAHEADER?{%{RSAHEADER:pgpsig}}:{%|DSAHEADER?{%{DSAHEADER:pgpsig}}:{}|}|"
_KEY_ID = re.compile(r"Key ID ([0-9a-f]{16})")


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
        # What clients of any release can read: rpm 6 would make packages that only itself installs.
        "_rpmformat": "4",
    }
    return ["rpmbuild", "-bb", *(w for name, body in defines.items() for w in ("--define", f"{name} {body}")), spec]


def build(argv: Argv, *, why: str, env: Mapping[str, str], log: Path, timeout_s: float = 3600) -> None:
    """Run what `build_argv` made. timeout_s: seconds. Raises HostError or ToolError."""
    # Scripts of a build that fails stay where they are. Not in topdir: rpmbuild hands them to a shell unquoted.
    with tempfile.TemporaryDirectory(prefix="golden-rpmbuild-") as folder:
        program, *words = argv
        defined = [program, "--define", f"_tmppath {_macro(Path(folder))}", *words]
        run(defined, why=why, timeout_s=timeout_s, log=log, env=env)


def sign_argv(packages: Sequence[Path], signer: Signer) -> list[str | Path]:
    """rpmsign for package files, which it edits in place: sign before there are hard links to them.

    Source: rpmsign(8). Debian's rpm does not know where its gpg is.
    """
    defines = {
        "_gpg_name": signer.fingerprint,
        "_gpg_path": _macro(signer.home),
        "__gpg": _macro(Path(shutil.which("gpg") or "gpg")),
    }
    words = [w for name, body in defines.items() for w in ("--define", f"{name} {body}")]
    return ["rpmsign", *words, "--resign", *packages]


def sign(packages: Sequence[Path], signer: Signer, *, log: Path, timeout_s: float = 1800) -> None:
    """Sign package files in place. timeout_s: seconds. Raises HostError or ToolError."""
    names = ", ".join(path.name for path in packages)
    run(sign_argv(packages, signer), why=f"sign {names}", timeout_s=timeout_s, log=log)


def signing_key(package: Path) -> str | None:
    """The id of the key that a package file says it is signed with, 16 upper-case hex digits; it is not verified."""
    match = _KEY_ID.search(ask(package, _SIGNATURE))
    return match[1].upper() if match else None


def header_digest(package: Path) -> str:
    """Hex SHA-256 of a package file's header, which has the payload's; it stays the same when the file is signed."""
    return ask(package, "%{SHA256HEADER}")


def refused(packages: Sequence[Path], *, public_key: Path | None) -> dict[Path, str]:
    """The package files that a machine would refuse that trusts that key alone -> what rpm says of each.

    All bytes are read. public_key: None where only digests count. Raises HostError or ToolError.
    Source: rpmkeys(8), --checksig.
    """
    wanted = ("digests OK", "digests signatures OK") if public_key is None else ("digests signatures OK",)
    if not packages:
        return {}
    with tempfile.TemporaryDirectory(prefix="golden-rpmdb-") as folder:
        rpmkeys = ["rpmkeys", "--dbpath", folder]
        if public_key is not None:
            query([*rpmkeys, "--import", public_key], why=f"read the key {public_key}")
        argv: Argv = [*rpmkeys, *([] if public_key else ["--nosignature"]), "--checksig", *packages]
        said = query(argv, why="check the packages' signatures", ok=(0, *range(1, 256)), timeout_s=3600)
    answers = dict(line.rpartition(": ")[::2] for line in said.splitlines())
    found = {path: answers.get(str(path), "rpm said nothing of it") for path in packages}
    return {path: answer for path, answer in found.items() if answer not in wanted}


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

"""Files and folders of the project that recipes read: found, refused, digested."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal

from builder.errors import ConfigError
from builder.frozen import Frozen
from builder.store import sha256

# Above this, a folder is one input of its image instead of one for each file, so that build.json stays readable.
_MOST_SINGLE = 500

# What tools leave in a checkout by themselves; neither counted nor copied.
_UNWANTED = {".git", "__pycache__"}


class Entry(Frozen):
    """One thing below a source. relative: to the source, "" for the source itself. target: of a link, as written.

    is_executable: of a file, whether its owner may run it. Of a file's mode no more than that counts: git keeps no
    more, and the rest depends on the umask of whoever checked it out.
    """

    relative: str
    kind: Literal["file", "folder", "link"]
    path: Path
    is_executable: bool = False
    target: str = ""


def entries(project: Path, source: str) -> list[Entry]:
    """What `source` is made of, sorted; links are kept as links and never followed.

    project: the folder of golden.toml. Raises ConfigError if it is missing, lies outside by way of a link, or holds
    what cannot be copied.
    """
    top = project / source
    if not top.parent.resolve().is_relative_to(project.resolve()):
        raise ConfigError(f"'{source}' leads out of the project: {top.parent} is {top.parent.resolve()}")
    if not os.path.lexists(top):
        raise ConfigError(f"'{source}' is not in the project: there is no {top}")
    found = [_entry(top, "")]
    if found[0].kind == "folder":
        for folder, folders, files in os.walk(top):
            folders[:] = [name for name in folders if name not in _UNWANTED]
            for name in [*folders, *(name for name in files if name not in _UNWANTED)]:
                path = Path(folder) / name
                found.append(_entry(path, str(path.relative_to(top))))
    return sorted(found, key=lambda entry: entry.relative)


def digests(project: Path, source: str) -> dict[str, str]:
    """Path in the project -> what counts of it, as text: of a file its bytes and whether it may be run, of a link its
    target, of a folder its name. Times and owners do not count. A folder of very many files is one entry.
    """
    found = {f"{source}/{entry.relative}".rstrip("/"): _digest(entry) for entry in entries(project, source)}
    if len(found) <= _MOST_SINGLE:
        return found
    text = "".join(f"{path}\0{digest}\0" for path, digest in found.items())
    return {source: f"{len(found)} files, sha256 {hashlib.sha256(text.encode()).hexdigest()}"}


def _entry(path: Path, relative: str) -> Entry:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"a file has a name that is no UTF-8: {str(path)!r}") from error
    if not all(character.isprintable() for character in relative):
        raise ConfigError(f"a file has control characters in its name: {str(path)!r}")
    if path.is_symlink():
        return Entry(relative=relative, kind="link", path=path, target=str(path.readlink()))
    if path.is_dir():
        return Entry(relative=relative, kind="folder", path=path)
    if path.is_file():
        return Entry(relative=relative, kind="file", path=path, is_executable=bool(path.stat().st_mode & 0o100))
    raise ConfigError(f"{path} is no file, folder or link, and cannot be copied")


def _digest(entry: Entry) -> str:
    if entry.kind == "link":
        return f"link to {entry.target}"
    if entry.kind == "folder":
        return "folder"
    try:
        return f"sha256 {sha256(entry.path)}{' executable' if entry.is_executable else ''}"
    except OSError as error:
        raise ConfigError(f"{entry.path} cannot be read: {error.strerror}") from error

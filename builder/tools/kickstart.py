"""Kickstart files by pykickstart, the library that Anaconda itself reads them with."""

from __future__ import annotations

import functools
import os.path
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from pykickstart import constants
from pykickstart.errors import KickstartError, KickstartParseError
from pykickstart.load import is_url, load_to_str
from pykickstart.parser import KickstartParser
from pykickstart.version import makeVersion, versionMap

from builder.errors import ConfigError, Problem

# Sections whose lines are a script's own: a line of theirs that begins with %include is not the kickstart's.
# Source: pykickstart's sections.py, `allLines`.
_SCRIPTS = ("%pre", "%pre-install", "%post", "%onerror", "%traceback")


# A line that may hold one: `rootpw`, `user --password=`, `part --passphrase=`, keys of subscriptions, and addresses
# with a user's name and password in them.
_SECRET = re.compile(r"rootpw|sshpw|pass(word|wd|phrase)|secret|token|activation-?key|://[^/\s]*@", re.IGNORECASE)


def without_secrets(text: str) -> str:
    """The kickstart for people: of each line that may hold a secret only its first word is kept."""
    return "".join(
        f"{line.split()[0]} (not kept)\n" if _SECRET.search(line) and not line.lstrip().startswith("#") else f"{line}\n"
        for line in text.splitlines()
    )


@functools.lru_cache(maxsize=256)
def validate(text: str, *, version: str, name: str) -> None:
    """Check `text` against the syntax of `version` ("RHEL9"). name: what to call the file in an error.

    A build looks at its inputs several times; a text that was good is not parsed again.

    Raises ConfigError with the line that the library complains about.
    """
    _parse(text, version=version, name=name)


def flatten(file: Path) -> str:
    """The text of a kickstart with every `%include` and `%ksappend` in its place.

    An absolute path that is not there stays as it is, if the file has a `%pre` script: such scripts write what is
    included only when the installer runs. Raises ConfigError for what cannot be read.
    """
    later: list[str] = []
    try:
        lines = list(_flat(str(file.absolute()), (), later))
    except KickstartError as error:
        problems = [" ".join(str(error).split())]
    except (ValueError, OSError) as error:  # no text, a name that no file can have
        problems = [f"it, or what it includes, cannot be read: {error}"]
    else:
        has_pre = any(line.split()[:1] == ["%pre"] for line in lines)
        problems = [] if has_pre else [f"it includes {path}, which is not there" for path in later]
    if problems:
        raise ConfigError(
            f"the kickstart {file.name} could not be put together; nothing was started",
            problems=[Problem(file.name, what) for what in problems],
        )
    return "\n".join(lines) + "\n"


def _flat(location: str, above: tuple[str, ...], later: list[str]) -> Iterator[str]:
    """above: the files that led here. later: takes the paths of what is not there."""
    if location in above:
        raise KickstartError(f"{location} includes itself")
    in_script = False
    for line in load_to_str(location).splitlines():
        words = line.split()
        first = words[0] if words else ""
        in_script = first in _SCRIPTS or (in_script and first != "%end")
        if in_script or first not in ("%include", "%ksappend") or len(words) < 2:
            yield line
            continue
        wanted = _beside(location, words[1].strip("\"'"))
        if first == "%include" and not is_url(wanted) and not Path(wanted).exists():
            later.append(wanted)
            yield f"%include {wanted}"
        else:
            yield from _flat(wanted, (*above, location), later)


def _beside(location: str, wanted: str) -> str:
    """A relative name is one beside the file that names it."""
    if is_url(wanted):
        return wanted
    return urljoin(location, wanted) if is_url(location) else os.path.normpath(Path(location).parent / wanted)


def shortcomings(text: str, *, version: str, name: str, ssh_public_key: str) -> list[str]:
    """What golden needs of a kickstart and this one, valid for `version`, does not do; in the user's words.

    ssh_public_key: the project's, one line. Raises ConfigError if the kickstart is not valid.
    """
    handler = _parse(text, version=version, name=name)
    found = []
    if not handler.reboot.seen or handler.reboot.action != constants.KS_SHUTDOWN:
        found.append("it does not power off at the end, so golden would wait for it in vain: write 'poweroff'")
    if not _lets_root_in(handler, ssh_public_key):
        found.append(
            "the project's key does not let root in: write "
            f"'sshkey --username=root \"{ssh_public_key}\"', or put it into authorized_keys in a %post"
        )
    found += [
        f"line {account.lineno} holds a password as plain text, which stays in the image: "
        "write --iscrypted with a hash, or --lock"
        for account in (handler.rootpw, *handler.user.userList)
        if account.password and not account.isCrypted
    ]
    return found


def recommendations(text: str, *, version: str, console: str, name: str) -> list[str]:
    """What would be good to have in a valid kickstart. console: kernel argument, "console=ttyS0"."""
    handler = _parse(text, version=version, name=name)
    if console in (handler.bootloader.appendLine or ""):
        return []
    return [
        f"its boot loader names no serial console, so a guest that does not answer says nothing: "
        f"write 'bootloader --append=\"{console}\"'"
    ]


def _lets_root_in(handler: Any, ssh_public_key: str) -> bool:
    """The key's comment, its third word, may differ."""
    key = ssh_public_key.split()[1:2]
    for entry in handler.sshkey.sshUserList:
        if entry.username == "root" and key and key[0] in entry.key.split():
            return True
    scripts = [script.script for script in handler.scripts if script.type == constants.KS_SCRIPT_POST]
    return any("authorized_keys" in script for script in scripts)


def _parse(text: str, *, version: str, name: str) -> Any:
    if version not in versionMap:
        known = ", ".join(sorted(key for key in versionMap if key != "DEVEL"))
        raise ConfigError(f"'{version}' is not a version of the kickstart syntax; known are {known}")
    # What a %pre script will write is not there yet; `flatten` has seen to all other includes.
    parser = KickstartParser(makeVersion(version), errorsAreFatal=True, missingIncludeIsFatal=False)
    try:
        with warnings.catch_warnings():  # deprecations are the template's business, not the user's
            warnings.simplefilter("ignore")
            parser.readKickstartFromString(text)
    except KickstartParseError as error:
        raise _problem(str(error.message), error.lineno, text, name=name, version=version) from error
    except (KickstartError, ValueError, TypeError, AttributeError, LookupError) as error:
        # The library does not turn everything into an error of its own: an open quotation mark is a ValueError.
        raise _problem(str(error), None, text, name=name, version=version) from error
    return parser.handler


def _problem(message: str, line: int | None, text: str, *, name: str, version: str) -> ConfigError:
    source = text.splitlines()[line - 1].strip() if line else ""
    what = " ".join(message.split()) + (f": {source}" if source and source not in message else "")
    return ConfigError(
        f"the kickstart of '{name}' is not valid for {version}; nothing was started",
        problems=[Problem("kickstart", what, line)],
    )

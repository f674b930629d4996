"""`golden init`: a folder to start from: a commented golden.toml, and keys of its own, which are kept out of git."""

from __future__ import annotations

from pathlib import Path

from builder.catalogue import bootstrapped, catalogue
from builder.config_publication import KEY_FILE
from builder.errors import ConfigError, HostError, did_you_mean
from builder.model import Frozen
from builder.private import FILE as PRIVATE_FILE
from builder.private import FOLDER as PRIVATE_FOLDER
from builder.store import write_atomically
from builder.templates import render
from builder.tools import openpgp, ssh

_KEY = Path("keys/id_ed25519")
_SIGNING_KEY = Path(KEY_FILE)
# Each line that git has to know, so that neither the key nor embargoed work is ever committed.
_IGNORED = ("/keys/", f"/{PRIVATE_FILE}", f"/{PRIVATE_FOLDER}/")


class Started(Frozen):
    """What was written. distribution: the one that golden.toml begins with."""

    folder: Path
    file: Path
    key: Path
    public_key: Path
    signing_key: Path
    gitignore: Path
    distribution: str


def distributions() -> list[str]:
    """The names that `start` takes."""
    return sorted(catalogue())


def start(folder: Path, *, distribution: str) -> Started:
    """Write the files into `folder`, which need not exist. Nothing that is there is overwritten.

    What git is to ignore is added to a .gitignore that is there. golden.toml comes last: where it is, all is.
    Raises ConfigError if there is a golden.toml or a key, or no such distribution.
    """
    if distribution not in distributions():
        raise ConfigError(
            f"there is no distribution '{distribution}'{did_you_mean(distribution, distributions())}",
            try_next=f"one of: {', '.join(distributions())}",
        )
    folder = folder.absolute()
    file, key, gitignore = folder / "golden.toml", folder / _KEY, folder / ".gitignore"
    signing_key = folder / _SIGNING_KEY
    for path in (file, key, key.with_name(f"{key.name}.pub"), signing_key, openpgp.public_file(signing_key)):
        if path.exists() or path.is_symlink():
            raise ConfigError(f"{path} is there already; nothing was written", try_next="golden init ANOTHER-FOLDER")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _ignore(gitignore)
        text = render(
            Path(__file__).parent,
            "starter.toml.j2",
            distribution=distribution,
            private_file=PRIVATE_FILE,
            bootstrapped=bootstrapped(distribution),
        )
        key.parent.mkdir(mode=0o700, exist_ok=True)
        ssh.make_key(key, comment=f"golden {folder.name}")
        openpgp.make_key(signing_key, name=openpgp.owner(folder.name))
        write_atomically(file, text)
    except OSError as error:
        raise HostError(f"could not write to {folder}: {error.strerror}") from error
    return Started(
        folder=folder,
        file=file,
        key=key,
        public_key=key.with_name(f"{key.name}.pub"),
        signing_key=signing_key,
        gitignore=gitignore,
        distribution=distribution,
    )


def _ignore(gitignore: Path) -> None:
    known = gitignore.read_text(encoding="utf-8") if gitignore.exists() else ""
    missing = [line for line in _IGNORED if line not in known.splitlines()]
    if missing:
        text = f"{known.rstrip()}\n" if known.strip() else ""
        write_atomically(gitignore, text + "".join(f"{line}\n" for line in missing))

"""A mirror for zef: a folder of the project's with Raku distributions, put where the guest's zef takes all from it.

zef's own way to fetch from a path takes folders and fails on archives (0.13.8, Zef::Service::FetchPath), so archives
are unpacked here; the index is made of their META6.json.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

from builder.errors import ConfigError

# The repository's name, and its index, as zef looks for it in a mirror that is a folder.
_NAME = "golden"
_META = "META6.json"
_ARCHIVES = (".tar.gz", ".tgz")


def write(folder: Path, target: Path, *, mirror: str) -> list[str]:
    """Fill `target` from `folder`; returns the names of the distributions. mirror: where `target` will be in the guest.

    folder: of distributions, each an archive as `zef fetch` gets it, or unpacked. Raises ConfigError for what is none.
    """
    target.mkdir()
    index: list[dict[str, Any]] = []
    for source in sorted(folder.iterdir()):
        number = str(len(index))
        path = target / number
        if source.is_dir():
            shutil.copytree(source, path, symlinks=True)
        elif source.name.endswith(_ARCHIVES):
            _unpack(source, path)
        else:
            continue
        index.append({**_meta(source, path), "path": number})
    if not index:
        raise ConfigError(
            f"'{folder}' is no mirror for zef: there is no distribution in it",
            try_next=f"zef fetch NAME, and put what it got into {folder}",
        )
    (target / f"{_NAME}.json").write_text(json.dumps(index), encoding="utf-8")
    (target / "config.json").write_text(config(mirror), encoding="utf-8")
    return [str(meta["name"]) for meta in index]


def config(mirror: str) -> str:
    """zef's configuration with one repository, the mirror. Source: zef's own resources/config.json, 0.13.8."""
    repository = {
        "short-name": _NAME,
        "enabled": 1,
        "module": "Zef::Repository::Ecosystems",
        "options": {"name": _NAME, "auto-update": 1, "uses-path": True, "mirrors": [f"{mirror}/"]},
    }
    return json.dumps(
        {
            "ConfigVersion": "1",
            "RootDir": "$*HOME/.zef",
            "StoreDir": "$*HOME/.zef/store",
            "TempDir": "$*HOME/.zef/tmp",
            "DefaultCUR": ["auto"],
            "License": {"whitelist": "*", "blacklist": []},
            "Install": [_plugin("install-raku-dist", "InstallRakuDistribution")],
            "Report": [],
            "Repository": [[repository]],
            "Fetch": [_plugin("path", "FetchPath")],
            "Extract": [_plugin("path", "FetchPath"), _plugin("tar", "Shell::tar")],
            "Build": [
                _plugin("default-builder", "Shell::DistributionBuilder"),
                _plugin("legacy-builder", "Shell::LegacyBuild"),
            ],
            "Test": [_plugin("raku-test", "Shell::Test")],
        }
    )


def _plugin(name: str, module: str) -> dict[str, str]:
    return {"short-name": name, "module": f"Zef::Service::{module}"}


def _meta(source: Path, path: Path) -> dict[str, Any]:
    try:
        found = dict(json.loads((path / _META).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"'{source}' is no Raku distribution: its {_META} cannot be read: {error}") from error
    # Where it is to be had otherwise, which zef would try.
    return {key: value for key, value in found.items() if key not in ("source-url", "support")}


def _unpack(archive: Path, target: Path) -> None:
    """Files alone, below the archive's one folder if all is in one. Raises ConfigError for paths that lead out."""
    try:
        with tarfile.open(archive) as stream:
            files = [member for member in stream if member.isfile()]
            paths = [PurePosixPath(member.name) for member in files]
            tops = {path.parts[0] for path in paths if len(path.parts) > 1}
            depth = 1 if len(tops) == 1 and all(len(path.parts) > 1 for path in paths) else 0
            for member, path in zip(files, paths, strict=True):
                if path.is_absolute() or ".." in path.parts:
                    raise ConfigError(f"'{archive}' has a file that leads out of it: {member.name}")
                to = target.joinpath(*path.parts[depth:])
                to.parent.mkdir(parents=True, exist_ok=True)
                content = stream.extractfile(member)
                to.write_bytes(content.read() if content else b"")
                to.chmod(0o755 if member.mode & 0o100 else 0o644)
    except (tarfile.TarError, OSError) as error:
        raise ConfigError(f"'{archive}' is no archive that can be read: {error}") from error

"""What the offline steps of a recipe take into the guest: files of the project, and texts of the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from builder.errors import ConfigError
from builder.steps import Copy, Repos, Run, SshKeys, Step, Write, is_public_key, name_of
from builder.tools.input_disk import Member, Parcel
from builder.trees import Entry, entries

_EXECUTABLE, _PLAIN = 0o755, 0o644


def parcels(steps: Sequence[tuple[int, Step]], *, project: Path) -> list[Parcel]:
    """One parcel for each step that takes files along. project: the folder of golden.toml. Raises ConfigError."""
    found = []
    for number, step in steps:
        members = _members(step, project)
        if members:
            found.append(Parcel(name=name_of(number, step), members=tuple(members)))
    return found


def _members(step: Step, project: Path) -> list[Member]:
    match step:
        case Copy():
            return [member for source, to in step.paths.items() for member in _copied(step, source, to, project)]
        case Write():
            mode = _PLAIN if step.mode is None else step.mode
            return [
                Member(path=path.lstrip("/"), content=text.encode(), mode=mode, owner=step.owner)
                for path, text in step.texts.items()
            ]
        case Run(script=str() as script):
            return [Member(path="script", content=_file(project, script), mode=0o700)]
        case SshKeys():
            return [Member(path="keys", content="".join(_keys(step, project)).encode())]
        case Repos(is_kept=True):
            return [
                Member(path=f"etc/yum.repos.d/{name}.repo", content=_repo_file(name, url, step.gpgkey).encode())
                for name, url in step.urls.items()
            ]
        case _:
            return []


def _copied(step: Copy, source: str, to: str, project: Path) -> list[Member]:
    """`files/app` -> `/opt/app` is that folder under a new name; -> `/opt/` it is put into that one."""
    target = PurePosixPath(to.lstrip("/"))
    if to.endswith("/") and to != "/":
        target /= PurePosixPath(source).name
    found = entries(project, source)
    if target == PurePosixPath(".") and found[0].kind != "folder":
        raise ConfigError(f"'{source}' is no folder; write where it goes, such as '/{found[0].path.name}'")
    members = [_member(step, entry, target / entry.relative) for entry in found]
    return [member for member in members if member.path != "."]


def _member(step: Copy, entry: Entry, path: PurePosixPath) -> Member:
    member = Member(path=str(path), kind=entry.kind, target=entry.target, owner=step.owner, mode=_EXECUTABLE)
    if entry.kind != "file":
        return member
    usual = _EXECUTABLE if entry.is_executable else _PLAIN
    return member.model_copy(
        update={"content": entry.path, "mode": usual if step.mode is None else step.mode},
    )


def _keys(step: SshKeys, project: Path) -> list[str]:
    """Lines of authorized_keys, each once, comments left out."""
    lines: list[str] = []
    for key in step.keys:
        text = key if is_public_key(key) else _file(project, key).read_text(encoding="utf-8")
        if "PRIVATE KEY" in text:
            raise ConfigError(f"'{key}' is a private key; an image takes the public half", try_next=f"name {key}.pub")
        lines += [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [f"{line}\n" for line in dict.fromkeys(lines)]


def _file(project: Path, source: str) -> Path:
    (entry, *others) = entries(project, source)
    if others or entry.kind != "file":
        raise ConfigError(f"'{source}' is a {entry.kind}; a file is needed")
    return entry.path


def _repo_file(name: str, url: str, gpgkey: str | None) -> str:
    check = f"gpgcheck=1\ngpgkey={gpgkey}\n" if gpgkey else "gpgcheck=0\n"
    return f"[{name}]\nname={name}\nbaseurl={url}\nenabled=1\n{check}"

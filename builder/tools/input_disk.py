"""A raw disk with a tar archive on it: how files travel into a guest whose file system libguestfs has open.

No path of a user's ever reaches a shell on this way: paths are in the archive and in lists beside it, and the guest's
tar, sha256sum and readlink read them there. The archive's first member is the mark that the guest finds the disk by.
"""

from __future__ import annotations

import hashlib
import io
import shlex
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from builder.errors import ConfigError
from builder.frozen import Frozen

_MAGIC = "golden-input-disk"


class Member(Frozen):
    """One file, folder or link for the guest. path: there, without a leading slash.

    content: a file's bytes, or where they are on this machine. owner: "USER:GROUP", names or numbers of the guest's.
    """

    path: str
    kind: Literal["file", "folder", "link"] = "file"
    content: bytes | Path = b""
    target: str = ""
    mode: int = 0o644
    owner: str = "root:root"


class Parcel(Frozen):
    """What one step takes along. name: unique on the disk; `unpack` and `extract` find it by that."""

    name: str
    members: tuple[Member, ...]


def write(disk: Path, parcels: Sequence[Parcel]) -> None:
    """Write `parcels` to `disk`, a file that is only ever read by the guest.

    Raises ConfigError for a file that cannot be read, or that changes meanwhile.
    """
    # tarfile rounds up to 10240 bytes: whole sectors, as QEMU wants them.
    with tarfile.open(disk, "w", format=tarfile.PAX_FORMAT, encoding="utf-8") as archive:
        _add(archive, Member(path=_MAGIC, content=b"golden"))
        for parcel in parcels:
            sums, links = [], []
            for member in parcel.members:
                digest = _add(archive, member.model_copy(update={"path": f"{parcel.name}/{member.path}"}))
                if member.kind == "file":
                    sums.append(_sum_line(digest, member.path))
                elif member.kind == "link":
                    links += [member.path, member.target]
            for suffix, lines in (("sums", sums), ("links", links)):
                text = "".join(f"{line}\n" for line in lines)
                _add(archive, Member(path=f"{parcel.name}.{suffix}", content=text.encode()))


def find(device: str = "input") -> str:
    """Shell lines for the guest that put the disk's device into the variable `device`."""
    return f"""\
{device}=
for device in /dev/sd[a-z] /dev/vd[a-z]; do
    [ -b "$device" ] || continue
    [ "$(head -c {len(_MAGIC)} "$device" | tr -d '\\0')" = {_MAGIC} ] && {device}=$device
done
[ -n "${device}" ] || {{ echo "golden: the input disk is not there" >&2; exit 1; }}
"""


def unpack(parcel: str, *, root: str = "/") -> str:
    """Shell lines that put a parcel's members in place below `root`, after `find`, and see that the bytes are there.

    Folders that the guest has keep their owner and mode, and a link to a folder (/bin) stays one.
    """
    return f"""\
root={shlex.quote(root)}
tar -xpmf "$input" -C "$root" --strip-components=1 --no-overwrite-dir --keep-directory-symlink {parcel}
work=$(mktemp -d)
tar -xf "$input" -C "$work" {parcel}.sums {parcel}.links
# An empty list is no list to sha256sum.
[ ! -s "$work/{parcel}.sums" ] || (cd "$root" && sha256sum --check --quiet --strict "$work/{parcel}.sums") || {{
    echo "golden: tar ended well, and the files are not there as they were sent" >&2
    exit 1
}}
while IFS= read -r path && IFS= read -r target; do
    [ "$(readlink -- "$root/$path")" = "$target" ] || {{
        echo "golden: tar ended well, and the link /$path is not there" >&2
        exit 1
    }}
done < "$work/{parcel}.links"
rm -rf "$work"
"""


def extract(parcel: str, folder: str) -> str:
    """Shell lines that put a parcel's members below `folder`, which is shell text, after `find`."""
    return f'tar -xpmf "$input" -C {folder} --strip-components=1 {parcel}\n'


def _add(archive: tarfile.TarFile, member: Member) -> str:
    """Add one member; the SHA-256 of the bytes that really went in, for files."""
    info = tarfile.TarInfo(member.path)
    info.mode = member.mode
    user, _, group = member.owner.partition(":")
    info.uname, info.uid = ("", int(user)) if user.isdigit() else (user, 0)
    info.gname, info.gid = ("", int(group)) if group.isdigit() else (group, 0)
    if member.kind != "file":
        info.type = tarfile.DIRTYPE if member.kind == "folder" else tarfile.SYMTYPE
        info.linkname = member.target
        archive.addfile(info)
        return ""
    if isinstance(member.content, bytes):
        info.size = len(member.content)
        archive.addfile(info, io.BytesIO(member.content))
        return hashlib.sha256(member.content).hexdigest()
    try:
        with member.content.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            info.size = stream.tell()
            stream.seek(0)
            archive.addfile(info, stream)
    except OSError as error:
        raise ConfigError(f"{member.content} cannot be read: {error}") from error
    return digest


def _sum_line(digest: str, path: str) -> str:
    """A line of sha256sum's, which marks names with a backslash in them. Source: sha256sum(1), "--zero"."""
    escaped = path.replace("\\", "\\\\")
    return f"{chr(92) if escaped != path else ''}{digest}  ./{escaped}"

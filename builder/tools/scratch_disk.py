"""A throw-away file system for dnf's cache while a guest is customized: what is downloaded never touches its disk.

Cleaning up afterwards is no substitute: blocks once written are data of the overlay until each of them is trimmed,
and a full guest disk fails an upgrade for want of room that it needs for its downloads alone.
"""

from __future__ import annotations

from pathlib import Path

from builder import run
from builder.units import GIB

# ext4 keeps 16 bytes of label, at byte 120 of the superblock, which begins at 1024.
# Source: Linux, Documentation/filesystems/ext4/super.rst, s_volume_name.
_LABEL = "golden-dnf-cache"
_LABEL_AT = 1024 + 120

_SBIN = "/usr/sbin/mke2fs"

# Sparse: it takes what is downloaded, no more.
_SIZE_BYTES = 16 * GIB

# dnf5 keeps its cache elsewhere. Source: dnf5.conf(5), "system_cachedir".
_FIND = f"""\
scratch=
for device in /dev/sd[a-z] /dev/vd[a-z]; do
    [ -b "$device" ] || continue
    label=$(dd if="$device" bs=1 skip={_LABEL_AT} count={len(_LABEL)} 2>/dev/null | tr -d '\\0')
    [ "$label" = {_LABEL} ] && scratch=$device
done
"""

MOUNT = f"""\
{_FIND}[ -n "$scratch" ] || {{ echo "golden: the scratch disk is not there" >&2; exit 1; }}
for cache in /var/cache/dnf /var/cache/libdnf5; do
    mkdir -p "$cache"
    mount -t ext4 "$scratch" "$cache"
done
"""

# For a running guest, which unmounts when it goes down. One that cannot have it works without: the seal cleans up.
MOUNT_ONLINE = f"""\
{_FIND}for cache in /var/cache/dnf /var/cache/libdnf5; do
    [ -d "$cache" ] || continue
    mount -t ext4 "$scratch" "$cache" || echo "golden: dnf's cache in $cache is on the guest's own disk"
done
"""

UNMOUNT = """\
umount /var/cache/dnf /var/cache/libdnf5
rmdir --ignore-fail-on-non-empty /var/cache/libdnf5
"""


def argv(path: Path) -> list[str | Path]:
    """The command that makes the disk. No journal: nothing on it outlives the build."""
    features = ["-O", "^has_journal", "-E", "lazy_itable_init=1", "-m", "0"]
    return [_program(), "-q", "-F", "-t", "ext4", *features, "-L", _LABEL, path, f"{_SIZE_BYTES // GIB}G"]


def _program() -> str:
    """Debian keeps it off the PATH of ordinary users, who may run it as well."""
    return _SBIN if Path(_SBIN).exists() else "mke2fs"


def make(path: Path) -> None:
    """Make the disk at `path`, anew if there is one. Raises HostError without mke2fs, ToolError."""
    path.unlink(missing_ok=True)
    run.query(argv(path), why="make a scratch disk for dnf's cache")

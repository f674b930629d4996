"""The folder and the environment that a harness written for ost-images expects, of installed packages and by links.

    TO/rocky9-base.qcow2                -> IMAGES/rocky9-base-20261121.1.qcow2, the file itself and not its moving link
    TO/rocky9-base-20261121.1.qcow2     -> the same; backing names are relative, so every file of a chain is here too
    TO/rocky9-base-pkglist.txt          sorted, as `rpm -qa` says it; -pkglist-diff.txt: against the parent's
    TO/rocky9_id_rsa, rocky9_id_rsa.pub -> the key that the images let in; for a group it is a copy, 0640

`dnf upgrade` moves nothing here, and the environment names versioned files: an overlay keeps what it stands on.
"""

from __future__ import annotations

import difflib
import grp
import os
import re
from collections.abc import Mapping
from pathlib import Path

from builder import store
from builder.errors import ConfigError, HostError, VerifyError, did_you_mean
from builder.frozen import Frozen
from builder.model import Build, version_key
from builder.tools import qcow2

FOLDER = Path("/usr/share/ost-images")

# Layer -> the variable that names its image. A distribution has some of them.
_VARIABLES = {
    "base": "BASE",
    "upgrade": "UPGRADE",
    "node": "NODE",
    "node-base": "NODE",
    "engine-installed": "ENGINE_INSTALLED",
    "host-installed": "HOST_INSTALLED",
    "he-installed": "HE_INSTALLED",
    "storage-base": "STORAGE_BASE",
}

_EPOCH = re.compile(r"-\d+:(?=[^-]+-[^-]+$)")


class Layout(Frozen):
    """All of the folder, decided. links: name -> what it leads to. texts: name -> content. images: image -> version.

    key: the private one. group: who may read a copy of it, by number; None for a link to it.
    """

    distribution: str
    folder: Path
    links: dict[str, Path]
    texts: dict[str, str]
    images: dict[str, str]
    key: Path
    group: int | None = None

    @property
    def key_name(self) -> str:
        return f"{self.distribution}_id_rsa"


class Change(Frozen):
    """An image that would lead, or leads now, to another version than before. old: None for a new one."""

    image: str
    old: str | None
    new: str


def plan(images: Path, *, distribution: str | None, folder: Path, key: Path | None, group: str | None = None) -> Layout:
    """Decide the layout. images: folder of installed images. distribution: may be None if there is one only.

    group: its members may read the key.

    Raises ConfigError for what is not installed or without a key, VerifyError if a link leads nowhere.
    """
    found = {link.name.removesuffix(".qcow2"): link for link in sorted(images.glob("*.qcow2")) if link.is_symlink()}
    if not found:
        raise ConfigError(f"no image is installed in {images}", try_next="dnf install 'golden-*', or --images FOLDER")
    known = sorted({image.partition("-")[0] for image in found})
    if distribution is None and len(known) > 1:
        raise ConfigError("images of several distributions are installed", try_next=f"--distribution {'|'.join(known)}")
    wanted = distribution or known[0]
    mine = {image: link for image, link in found.items() if image.startswith(f"{wanted}-")}
    if not mine:
        raise ConfigError(
            f"no image of '{wanted}' is installed in {images}{did_you_mean(wanted, known)}",
            try_next=f"one of: {', '.join(known)}",
        )
    if key is None or not key.exists():
        raise ConfigError(
            f"there is no key {key}" if key else "the key that lets a harness into the images is not known",
            try_next="--key FILE, the private half; its public half lies beside it",
        )
    links: dict[str, Path] = {}
    texts: dict[str, str] = {}
    versions: dict[str, str] = {}
    for image, link in mine.items():
        if not link.exists():
            raise VerifyError(
                f"the installed image '{image}' leads to a file that is gone",
                try_next=f"dnf reinstall $(rpm -qf {link})",
            )
        chain = [part.path.resolve() for part in qcow2.chain(link.resolve(), is_beside=True)]
        builds = [store.read_build(file.with_suffix(".json")) for file in chain]
        links |= {file.name: file for file in chain}
        for depth, build in enumerate(builds):
            # A parent that came along with a leaf has no link of its own; of two of its versions the newer one counts.
            is_own = depth == 0
            if not is_own and (build.image in mine or not _is_newer(build.version, versions.get(build.image))):
                continue
            links[f"{build.image}.qcow2"] = chain[depth]
            texts |= _lists(build.image, chain[depth:], builds[depth:])
            versions[build.image] = build.version
    links[f"{wanted}_id_rsa.pub"] = key.with_name(f"{key.name}.pub").resolve()
    if group is None:
        links[f"{wanted}_id_rsa"] = key.resolve()
    return Layout(
        distribution=wanted,
        folder=folder,
        links=links,
        texts=texts,
        images=versions,
        key=key.resolve(),
        group=None if group is None else _group(group),
    )


def _group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(
            f"there is no group '{name}' on this host", try_next=f"groupadd {name}, and add the harness's users to it"
        ) from None


def _is_newer(version: str, than: str | None) -> bool:
    return than is None or version_key(version) > version_key(than)


def _lists(image: str, chain: list[Path], builds: list[Build]) -> dict[str, str]:
    lists = [_packages(file) for file in chain[:2]]
    below = lists[1] if len(lists) > 1 else []
    names = [f"{build.image}-pkglist.txt" for build in builds[:2]]
    change = difflib.unified_diff(
        below, lists[0], names[1] if len(names) > 1 else "/dev/null", names[0], lineterm="", n=0
    )
    return {
        f"{image}-pkglist.txt": "".join(f"{line}\n" for line in lists[0]),
        f"{image}-pkglist-diff.txt": "".join(f"{line}\n" for line in change),
    }


def _packages(file: Path) -> list[str]:
    """As `rpm -qa` says it, which leaves epochs out."""
    lines = file.with_suffix(".packages").read_text(encoding="utf-8").splitlines()
    return sorted(_EPOCH.sub("-", line) for line in lines)


def changes(layout: Layout) -> list[Change]:
    """What images lead elsewhere than in the folder as it is, or are not in it."""
    found = []
    for image, version in layout.images.items():
        old = _version_of(layout.folder / f"{image}.qcow2", image)
        if old != version:
            found.append(Change(image=image, old=old, new=version))
    return found


def _version_of(link: Path, image: str) -> str | None:
    if not link.is_symlink():
        return None
    return Path(link.readlink()).name.removeprefix(f"{image}-").removesuffix(".qcow2")


def install(layout: Layout, *, is_moved: bool) -> list[Change]:
    """Lay it out; what is right already stays. is_moved: whether images may lead to other versions than before.

    Raises ConfigError if one would and may not, or if something that is not golden's has a name that is needed.
    """
    moves = changes(layout)
    moved = [change for change in moves if change.old is not None]
    if moved and not is_moved:
        raise ConfigError(
            f"'{moved[0].image}' leads to {moved[0].old} and would lead to {moved[0].new}: "
            "an overlay that was made on it by its plain name would be destroyed without a word",
            try_next="golden harness install --move, once no such overlay is left; or another folder",
        )
    foreign = [name for name in (*layout.links, layout.key_name) if _is_foreign(layout.folder / name, layout)]
    if foreign:
        raise ConfigError(
            f"{layout.folder / foreign[0]} is there and is no link", try_next="another folder, or remove what is in it"
        )
    layout.folder.mkdir(parents=True, exist_ok=True)
    # Files before the names that lead to them: a reader finds a whole chain or no image.
    for name in sorted(layout.links, key=lambda name: name.removesuffix(".qcow2") in layout.images):
        _link(layout.folder / name, layout.links[name])
    if layout.group is not None:
        _give(layout.key, layout.folder / layout.key_name, group=layout.group)
    for name, text in layout.texts.items():
        store.write_atomically(layout.folder / name, text)
    return moves


def _is_foreign(path: Path, layout: Layout) -> bool:
    if not path.exists() or path.is_symlink():
        return False
    # The copy for a group, of this very key.
    return path.name != layout.key_name or path.read_bytes() != layout.key.read_bytes()


def _give(key: Path, path: Path, *, group: int) -> None:
    """A copy of `key` that members of the group may read, and nobody else, at no moment.

    ssh takes a key that others may read if it is not its user's own: a member's, that is, and not the owner's.
    Source: OpenSSH, authfile.c, sshkey_perm_ok.
    """
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    try:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(key.read_bytes())
            os.fchown(handle, -1, group)
            os.fchmod(handle, 0o640)
        part.rename(path)
    except PermissionError as error:
        part.unlink(missing_ok=True)
        raise HostError(
            f"the key could not be given to the group {grp.getgrgid(group).gr_name}: {error.strerror}",
            try_next="run it as root, or as a member of that group",
        ) from error


def _link(path: Path, target: Path) -> None:
    if path.is_symlink() and path.readlink() == target:
        return
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    part.rename(path)


def environment(
    folder: Path | None, *, distribution: str | None, set_already: Mapping[str, str], prefix: str = "golden"
) -> dict[str, str]:
    """The variables that a harness reads. Images are named by their versioned files.

    folder, distribution: those of OST_IMAGES_DIR and OST_IMAGES_DISTRO if None, else the default one, and the only one.
    prefix: what the names of the packages begin with. set_already: variables of the caller's go before what is found.
    Raises ConfigError if nothing is laid out in the folder.
    """
    folder = folder or Path(set_already.get("OST_IMAGES_DIR") or FOLDER)
    distribution = distribution or set_already.get("OST_IMAGES_DISTRO") or None
    keys = sorted(folder.glob("*_id_rsa"))
    known = [path.name.removesuffix("_id_rsa") for path in keys]
    if not known:
        raise ConfigError(f"nothing is laid out in {folder}", try_next="golden harness install --profile ost")
    if distribution is None and len(known) > 1:
        raise ConfigError(f"there are several distributions in {folder}", try_next=f"--distribution {'|'.join(known)}")
    if distribution is not None and distribution not in known:
        raise ConfigError(
            f"'{distribution}' is not laid out in {folder}{did_you_mean(distribution, known)}",
            try_next=f"golden harness install --profile ost --distribution {distribution}",
        )
    name = distribution or known[0]
    found = {
        "OST_IMAGES_DIR": str(folder),
        "OST_IMAGES_DISTRO": name,
        "OST_IMAGES_SSH_KEY": str(folder / f"{name}_id_rsa"),
    }
    for layer, variable in _VARIABLES.items():
        link = folder / f"{name}-{layer}.qcow2"
        if not link.is_symlink():
            if link.exists():  # a folder that was copied, with the files themselves
                found[f"OST_IMAGES_{variable}"] = str(link)
            continue
        file = link.resolve()
        if not file.exists():
            raise VerifyError(
                f"{link} leads to {file}, which is gone: its package was removed",
                try_next="golden harness install --profile ost --move",
            )
        found[f"OST_IMAGES_{variable}"] = str(file)
        image, _, version = file.stem.rpartition("-")
        found[f"OST_IMAGES_{variable}_PACKAGE"] = f"{prefix}-{image}-image-{version}"
    chosen = ("OST_IMAGES_DIR", "OST_IMAGES_DISTRO")  # what is found has followed them
    return found | {key: value for key, value in set_already.items() if key in found and key not in chosen}

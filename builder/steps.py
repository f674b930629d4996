"""The steps of a recipe, as models. Paths in them are the project's, relative to golden.toml, so that keys travel.

`files` of a step are the paths that it reads; their content decides the result as much as the step itself.
"""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SecretStr, field_serializer

from builder.frozen import Frozen


class _Step(Frozen):
    """timeout_s: seconds on a machine with KVM. uses_repositories: whether package repositories decide the result."""

    timeout_s: int = 1800
    is_online: ClassVar[bool] = False
    uses_repositories: ClassVar[bool] = False

    @property
    def files(self) -> tuple[str, ...]:
        return ()

    @property
    def files_if_there(self) -> tuple[str, ...]:
        """Paths that it reads where they exist; that one appears or goes counts."""
        return ()


# The name of the package repository that serves the packages of an Artifacts step.
ARTIFACTS = "artifacts"


# --- offline: in the guest's file system, without the guest running ---------------------------------------------


class Upgrade(_Step):
    """`dnf upgrade` from the distribution's repositories, offline."""

    kind: Literal["upgrade"] = "upgrade"
    timeout_s: int = 3600
    uses_repositories: ClassVar[bool] = True


class Install(_Step):
    """`dnf install`, offline; afterwards the packages are really there."""

    kind: Literal["install"] = "install"
    packages: tuple[str, ...] = Field(min_length=1)
    timeout_s: int = 3600
    uses_repositories: ClassVar[bool] = True


class Remove(_Step):
    """`dnf remove`, offline; afterwards the packages are really gone."""

    kind: Literal["remove"] = "remove"
    packages: tuple[str, ...] = Field(min_length=1)


class Groups(_Step):
    """`dnf group install`, offline. groups: ids, environments too."""

    kind: Literal["groups"] = "groups"
    groups: tuple[str, ...] = Field(min_length=1)
    timeout_s: int = 3600
    uses_repositories: ClassVar[bool] = True


class Modules(_Step):
    """Module streams of EL 8 and 9. enable, install: NAME:STREAM, of install with /PROFILE if wanted; disable: NAME."""

    kind: Literal["modules"] = "modules"
    enable: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()
    install: tuple[str, ...] = ()
    timeout_s: int = 3600
    uses_repositories: ClassVar[bool] = True


class Copy(_Step):
    """Files and folders of the project into the guest. paths: source in the project -> path in the guest.

    mode: of regular files, None for 0755 where the project's file may be run and 0644 where not. owner: USER[:GROUP].
    """

    kind: Literal["copy"] = "copy"
    paths: dict[str, str] = Field(min_length=1)
    mode: int | None = None
    owner: str = "root:root"

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(self.paths)


class Write(_Step):
    """Texts of the recipe itself into the guest. texts: path in the guest -> all of the file. mode, owner: as Copy."""

    kind: Literal["write"] = "write"
    texts: dict[str, str] = Field(min_length=1)
    mode: int | None = None
    owner: str = "root:root"


class Run(_Step):
    """Shell commands, or one script of the project, offline."""

    kind: Literal["run"] = "run"
    commands: tuple[str, ...] = ()
    script: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        return (self.script,) if self.script else ()


class Services(_Step):
    """Units enabled, disabled and masked, in this order."""

    kind: Literal["services"] = "services"
    enable: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()
    mask: tuple[str, ...] = ()


class Selinux(_Step):
    """SELinux's mode and booleans, from the next boot on. Does nothing, and says so, in a guest without SELinux."""

    kind: Literal["selinux"] = "selinux"
    mode: Literal["enforcing", "permissive", "disabled"] | None = None
    booleans: dict[str, bool] = Field(default_factory=dict)


class SshKeys(_Step):
    """Public keys that `user` lets in. keys: lines of authorized_keys, or files of the project that hold some."""

    kind: Literal["sshkeys"] = "sshkeys"
    keys: tuple[str, ...] = Field(min_length=1)
    user: str = "root"

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(key for key in self.keys if not is_public_key(key))


class Repos(_Step):
    """Package repositories for the package steps of this recipe. urls: name -> http(s) URL, or a folder of the project.

    is_kept: also in the finished guest, and for the layers above; folders cannot be.
    gpgkey: URL of the key that the finished guest checks their packages with.
    """

    kind: Literal["repos"] = "repos"
    urls: dict[str, str] = Field(min_length=1)
    is_kept: bool = True
    gpgkey: str | None = None


class Artifact(Frozen):
    """One RPM of the user's own. nevra: with the epoch only if it has one; nvra: never with it, as `rpm -q` takes it.

    sha256: of the file. header: SHA-256 of the package's header, which also stands in the database of a guest that
    installed it and which covers the payload.
    """

    nevra: str
    nvra: str
    sha256: str
    header: str


class Artifacts(_Step):
    """Packages of the user's own, installed offline and compared with what was given: `golden build --with`."""

    kind: Literal["artifacts"] = "artifacts"
    packages: tuple[Artifact, ...] = Field(min_length=1)
    timeout_s: int = 3600
    uses_repositories: ClassVar[bool] = True


class RootPassword(_Step):
    """root's password in the base, offline. hash: as crypt(5) writes it; wherever the step is shown it is a digest."""

    kind: Literal["root-password"] = "root-password"
    hash: SecretStr
    timeout_s: int = 60

    @field_serializer("hash")
    def _digest(self, value: SecretStr) -> str:
        return f"sha256 {hashlib.sha256(value.get_secret_value().encode()).hexdigest()}"


# --- online: in the running guest, over SSH ---------------------------------------------------------------------


class Shell(_Step):
    """Shell commands as root over SSH in the running guest."""

    kind: Literal["shell"] = "shell"
    commands: tuple[str, ...] = Field(min_length=1)
    is_online: ClassVar[bool] = True


class Ansible(_Step):
    """A playbook of the project, run by ansible-playbook against the running guest.

    playbook: its whole folder counts. roles, collections: further folders to find them in.
    groups: of the inventory that the guest is in. variables: extra vars.
    """

    kind: Literal["ansible"] = "ansible"
    playbook: str
    roles: tuple[str, ...] = ()
    collections: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    variables: dict[str, Any] = Field(default_factory=dict)
    timeout_s: int = 3600
    is_online: ClassVar[bool] = True

    @property
    def files(self) -> tuple[str, ...]:
        return (str(PurePosixPath(self.playbook).parent), *self.roles, *self.collections)


# What Sparrowdo takes along from the folder that it runs in. Source: Sparrowdo::Utils, prepare-sparrowdo-files.
HARNESS = ("tasks", "files", "templates", "data", "conf", "vars", "config.raku")


class Sparrowdo(_Step):
    """Sparrowdo against the running guest: its bootstrap, sparrowfiles, caches that tests then find warm.

    sparrowfiles: what of `HARNESS` lies beside one goes with it, and counts. plugins: Sparrow6's, fetched into the
    cache. modules: zef's. repository: Sparrow6's: "public", an http(s) URL, a folder of the project, or None for what
    is in the guest. tags: "" for a tag without a value. secrets: a file of variables for the sparrowfiles alone; what
    is in it never counts. user: whom tests will log in as. zef: folder of the project with a mirror for zef.
    versions: "raku" and "sparrow6" as they have to be. expires_days: after how many the bootstrap is done anew.
    resolves: host names that the guest has to resolve before anything is tried. retries: after failures that pass.
    """

    kind: Literal["sparrowdo"] = "sparrowdo"
    bootstrap: bool = True
    sparrowfiles: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    repository: str | None = None
    tags: dict[str, str] = Field(default_factory=dict)
    secrets: str | None = None
    user: str = "root"
    is_sudo: bool = True
    zef: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    expires_days: int | None = None
    resolves: tuple[str, ...] = ()
    retries: int = 3
    is_online: ClassVar[bool] = True

    @property
    def repository_folder(self) -> str | None:
        is_folder = self.repository not in (None, "public") and "://" not in str(self.repository)
        return self.repository if is_folder else None

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.sparrowfiles, *(folder for folder in (self.repository_folder, self.zef) if folder))

    @property
    def files_if_there(self) -> tuple[str, ...]:
        folders = dict.fromkeys(PurePosixPath(path).parent for path in self.sparrowfiles)
        return tuple(str(folder / name) for folder in folders for name in HARNESS)


class Reboot(_Step):
    """A reboot from inside; it is over when SSH answers from another boot."""

    kind: Literal["reboot"] = "reboot"
    timeout_s: int = 300
    is_online: ClassVar[bool] = True


AnyStep = (
    Upgrade
    | Install
    | Remove
    | Groups
    | Modules
    | Copy
    | Write
    | Run
    | Services
    | Selinux
    | SshKeys
    | Repos
    | Artifacts
    | RootPassword
    | Shell
    | Ansible
    | Sparrowdo
    | Reboot
)
Step = Annotated[AnyStep, Field(discriminator="kind")]


def name_of(number: int, step: Step) -> str:
    """`3-install`: what a step of a recipe is called in file names and messages."""
    return f"{number}-{step.kind}"


def is_public_key(text: str) -> bool:
    """Whether `text` is a line of authorized_keys rather than the name of a file. Source: sshd(8)."""
    return " " in text.strip()

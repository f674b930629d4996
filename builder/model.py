"""The words of golden as frozen models: what the user defines, and what a build leaves behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from builder.frozen import Frozen as Frozen
from builder.media import Repository, Source
from builder.publication import Publication
from builder.steps import Repos, Step

# Image and package-repository names end up in file names, RPM names, domain names and URLs.
NAME = re.compile(r"[a-z0-9]+([.-][a-z0-9]+)*")
VERSION = re.compile(r"(?P<date>[0-9]{8})\.(?P<count>[1-9][0-9]*)")
_SHA256 = re.compile("[0-9a-f]{64}")


# --- what the user defines ------------------------------------------------------------------------------------


class Limits(Frozen):
    """Seconds after which waiting ends, on a machine with KVM; golden multiplies them where it has to emulate.

    silence_s: without a word on the console during an installation. boot_s: until SSH answers.
    shutdown_s: from the order to power off until the machine is off.
    """

    install_s: int = 3600
    silence_s: int = 120
    boot_s: int = 120
    shutdown_s: int = 90


Architecture = Literal["x86_64", "aarch64"]
Firmware = Literal["bios", "uefi"]
FileSystem = Literal["ext4", "xfs"]
Layout = Literal["plain", "separate", "lvm", "separate-lvm"]
PackageSet = Literal["minimal", "ost"]


class Setup(Frozen):
    """What a base may say otherwise than its distribution; None leaves the distribution's word.

    kickstart_file: a finished kickstart of the user's own, in place of a rendered one.
    """

    firmware: Firmware | None = None
    layout: Layout | None = None
    file_system: FileSystem | None = None
    package_set: PackageSet | None = None
    packages: tuple[str, ...] | None = None
    fips: bool | None = None
    openscap: str | None = None
    kickstart_file: Path | None = None

    def given(self) -> dict[str, Any]:
        """The keys that say something."""
        return {key: value for key, value in self if value is not None}


class Distribution(Frozen):
    """What is installed, and how a base of it is made.

    kickstart: its template; kickstart_file: the user's own in its place. kickstart_version: pykickstart's name of the
    syntax, "RHEL9". osinfo: libosinfo's short id, for virt-install. source: None for one that only others inherit from,
    or whose makers publish nothing. gpg_key: what its makers sign with; the file need not be there. packages: besides
    those of the set.
    openscap: profile that the installation is to follow. openscap_addon: the name by which the installer's OpenSCAP
    add-on goes, None where there is none. sparrowdo: whether Sparrowdo's own bootstrap supports it. selinux_is_own:
    whether golden.toml itself names the mode. memory_mib, cpus: of the machine that installs and of clones that ask for
    nothing else.
    """

    name: str
    title: str
    kickstart_version: str
    kickstart: Path
    osinfo: str
    source: Source | None = None
    gpg_key: Path | None = None
    kickstart_file: Path | None = None
    arch: Architecture = "x86_64"
    firmware: Firmware = "bios"
    layout: Layout = "plain"
    package_set: PackageSet = "minimal"
    packages: tuple[str, ...] = ()
    kernel_arguments: str = ""
    file_system: FileSystem = "xfs"
    fips: bool = False
    openscap: str | None = None
    openscap_addon: str | None = None
    sparrowdo: bool = True
    selinux: Literal["enforcing", "permissive", "disabled"] = "enforcing"
    selinux_is_own: bool = False
    memory_mib: int = 2048
    cpus: int = 2
    repositories: tuple[Repository, ...] = ()
    limits: Limits = Limits()

    @property
    def boot_arguments(self) -> str:
        """Of the installer's kernel and of the installed one. FIPS mode is decided by the installer's own."""
        return " ".join(word for word in (self.kernel_arguments, "fips=1" if self.fips else "") if word)


# When what package repositories hold, and a parent's newer build, count: at once, or when that much time has passed.
Refresh = Literal["on-change", "nightly", "weekly", "monthly"]


class FileCheck(Frozen):
    """What a file in the guest is to be. mode: its permissions; owner: USER[:GROUP]; None: anything that is there."""

    mode: int | None = None
    owner: str | None = None
    contains: str | None = None


class Verify(Frozen):
    """What an image promises besides what its steps say; `promises` adds the two up along the chain.

    services: units that run and are enabled. commands: lines for the guest's shell that end with 0. tests: files of
    pytest-testinfra, relative to the project. boot_within_s: seconds from the kernel's start to default.target, on a
    machine with KVM. size_below_bytes: of the image's own layer. growth_percent: of size and boot over the last good
    build. inherit: whether what the images below promise holds here too.
    """

    inherit: bool = True
    packages: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    files: dict[str, FileCheck] = Field(default_factory=dict)
    commands: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    boot_within_s: int | None = None
    size_below_bytes: int | None = None
    growth_percent: int | None = None


class Image(Frozen):
    """A node of the layer tree. disk_bytes, setup: of a base; a layer has its parent's.

    flat_of: the image that this one is the squashed form of; it has neither parent nor steps of its own.
    stable: which form its plain package, and the link that it owns, follow.
    is_private: never published by accident. repositories: package repositories on top of the distribution's.
    keeps_private_keys: paths in the guest -> the file with the public half of the key that may be there; other private
    keys are not packaged. obsoletes: images that are gone, whose packages leave a host when this one's come.
    """

    name: str
    distribution: str
    layer: str
    parent: str | None = None
    description: str = ""
    disk_bytes: int | None = None
    setup: Setup = Setup()
    refresh: Refresh = "on-change"
    steps: tuple[Step, ...] = ()
    flat_of: str | None = None
    stable: Literal["chain", "flat"] = "chain"
    is_private: bool = False
    repositories: tuple[Repository, ...] = ()
    verify: Verify = Verify()
    keeps_private_keys: dict[str, Path] = Field(default={})
    obsoletes: tuple[str, ...] = ()

    @property
    def needs_repositories(self) -> bool:
        """Whether the result depends on what package repositories hold."""
        return any(step.uses_repositories for step in self.steps)

    @property
    def source(self) -> str | None:
        """The image that has to be there before: the parent, or the one that this one is the flat form of."""
        return self.flat_of or self.parent

    def flat(self) -> Image:
        """The image `NAME-flat`: the whole chain of this one squashed into one file."""
        return Image(
            name=f"{self.name}-flat",
            distribution=self.distribution,
            layer=f"{self.layer}-flat",
            description=self.description,
            flat_of=self.name,
            is_private=self.is_private,
        )


class Project(Frozen):
    """One golden.toml, resolved: every image's distribution is there, every parent exists, there is no cycle.

    prefix: first word of RPM names. url: where the channels will be served, without a trailing slash.
    ssh_key: the project's private key; its public half is let into every image.
    prefer: which form of an image clones are made of, where it is there in both.
    publication: who signs its packages, where they go, how long they are kept.
    """

    file: Path
    name: str
    prefix: str
    ssh_key: Path
    url: str
    distributions: dict[str, Distribution]
    images: dict[str, Image]
    prefer: Literal["chain", "flat"] = "chain"
    publication: Publication = Publication()

    @property
    def folder(self) -> Path:
        """What the paths of recipes are relative to."""
        return self.file.parent

    def repositories(self, image: str) -> list[Repository]:
        """What the package steps of `image` install from.

        Those of its distribution, those that recipes of its chain keep, and its own recipe's.
        """
        distribution = self.distributions[self.images[image].distribution]
        found = {repository.name: repository for repository in distribution.repositories}
        for link in reversed(self.chain(image)):
            for step in link.steps:
                if isinstance(step, Repos) and (step.is_kept or link.name == image):
                    for name, url in step.urls.items():
                        location = url if "://" in url else str(self.folder / url)
                        found[name] = Repository(name=name, location=location, is_extra=True)
        return list(found.values())

    @property
    def flat_links(self) -> frozenset[str]:
        """The images whose plain package follows their flat form."""
        return frozenset(image.name for image in self.images.values() if image.stable == "flat")

    def chain(self, image: str) -> list[Image]:
        """The image, what it is made from, … down to the base."""
        found = [self.images[image]]
        while (source := found[-1].source) is not None:
            found.append(self.images[source])
        return found

    def distribution_of(self, image: str) -> Distribution:
        """The distribution as the base under `image` wants it."""
        base = self.chain(image)[-1]
        return self.distributions[base.distribution].model_copy(update=base.setup.given())


# --- what a build leaves behind ---------------------------------------------------------------------------------


def _matching(pattern: re.Pattern[str]) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"{text!r} does not match {pattern.pattern}")
        return text

    return check


class ImageId(Frozen):
    """One build's image file, beyond doubt. sha256: hex, of the sealed qcow2's bytes.

    All of it gets into file names, package names and addresses, and it is read out of files that others wrote.
    """

    image: Annotated[str, AfterValidator(_matching(NAME))]
    version: Annotated[str, AfterValidator(_matching(VERSION))]
    sha256: Annotated[str, AfterValidator(_matching(_SHA256))]

    @property
    def stem(self) -> str:
        return f"{self.image}-{self.version}"

    @property
    def age(self) -> tuple[int, int]:
        """Sorts builds of an image, oldest first."""
        return version_key(self.version)


class Timing(Frozen):
    step: str
    seconds: float


class Build(Frozen):
    """`build.json`: one result of running a recipe. Written last; what has none is no build.

    format: of this file; another number is refused. id: what this is. parent: what it stands on, None for a base.
    description: out of golden.toml. key: content key (hex SHA-256 over `inputs` in order). inputs: what decided the
    result, name -> digest or text. texts: what is behind some of those digests, for people, secrets left out. reason:
    why it was built. size_bytes: of the sealed qcow2. virtual_bytes: the disk that the guest sees. packages: number of
    RPMs inside. packages_sha256: of the list beside, IMAGE-VERSION.packages. memory_mib, cpus: of clones that ask for
    nothing else. accelerator: what it was built with. times: seconds of each step. commands: what was run, as it would
    be typed. started, finished: UTC, ISO 8601. tools: program -> version. software: name -> version of what online
    steps brought and asked for its version, such as "raku" and "sparrow6". flattened: the build that this one is the
    flat form of. obsoletes: as of its image. private: of embargoed work, or standing on such. private_keys: files of
    the guest that hold a private key, path -> SHA-256 of the file. key_fingerprints: of those among them that ssh
    could use, "SHA256:…".
    """

    format: Literal[1] = 1
    id: ImageId
    parent: ImageId | None
    flattened: ImageId | None = None
    obsoletes: tuple[Annotated[str, AfterValidator(_matching(NAME))], ...] = ()
    private: bool = False
    distribution: str
    description: str
    key: str
    inputs: dict[str, str]
    texts: dict[str, str] = Field(default={})
    reason: str = ""
    size_bytes: int
    virtual_bytes: int
    packages: int
    packages_sha256: str
    private_keys: dict[str, str] = Field(default={})
    key_fingerprints: dict[str, str] = Field(default={})
    arch: Architecture = "x86_64"
    firmware: Firmware = "bios"
    memory_mib: int
    cpus: int
    accelerator: Literal["kvm", "tcg"]
    started: str
    finished: str
    times: tuple[Timing, ...]
    commands: tuple[str, ...]
    tools: dict[str, str]
    software: dict[str, str] = Field(default_factory=dict)

    @property
    def image(self) -> str:
        return self.id.image

    @property
    def version(self) -> str:
        return self.id.version

    @property
    def source(self) -> ImageId | None:
        """The build that this one was made from: its parent, or what it is the flat form of."""
        return self.flattened or self.parent

    @property
    def stem(self) -> str:
        """`sandbox-base-20261121.1`: the file name of everything of this build, less its suffix."""
        return self.id.stem


def version_key(version: str) -> tuple[int, int]:
    """Sorts versions by age: `20261121.10` after `20261121.9`. Raises ValueError on anything else."""
    match = VERSION.fullmatch(version)
    if match is None:
        raise ValueError(f"{version!r} is not a version; one looks like 20261121.1")
    return int(match["date"]), int(match["count"])

"""Kickstart and DVD or tree -> base: virt-install, watched by its console, and a look at what it left."""

from __future__ import annotations

import configparser
import time
from collections.abc import Callable
from pathlib import Path

from builder import run, templates
from builder.errors import ConfigError, Problem, ToolError, VerifyError
from builder.model import Distribution, Image
from builder.tools import kickstart as kickstarts
from builder.tools import virt_install
from builder.tools.console import Console
from builder.tools.virt_install import Installation
from builder.units import MIB, format_bytes

# After a fatal line the console is read on for a moment, so that the error can quote what came with it.
_LAST_WORDS_S = 3.0
# How often libvirt is asked how the machine is.
_LOOK_S = 2.0
# Less than any installed system takes: an installer that gave up leaves the partition table at most.
_LEAST_INSTALLED_BYTES = 64 * MIB


def kickstart(
    image: Image,
    distribution: Distribution,
    *,
    ssh_public_key: str,
    tree: str | None = None,
    proxy_for: Callable[[str], str | None] = lambda _address: None,
) -> str:
    """The kickstart of a base, checked against the distribution's syntax. Raises ConfigError; starts nothing.

    tree: address by which the installer reaches a source that is a folder. proxy_for: address -> the proxy on the way
    to it, without a login; how a base came here decides nothing of it, so content keys are made without.
    """
    _check_key(distribution, ssh_public_key)
    if distribution.kickstart_file is not None:
        return _own_kickstart(image, distribution, distribution.kickstart_file, ssh_public_key=ssh_public_key)
    source = distribution.source
    address = source and (source.url or (source.tree and (tree or source.tree.as_uri())))
    text = templates.render(
        [distribution.kickstart.parent, templates.shared("kickstarts")],
        distribution.kickstart.name,
        image=image.name,
        title=distribution.title,
        kickstart_version=distribution.kickstart_version,
        tree=address,
        tree_proxy=address and proxy_for(address),
        install_repositories=[
            {"name": it.name, "location": it.location, "proxy": proxy_for(it.location)}
            for it in (source.repositories if source else ())
        ],
        firmware=distribution.firmware,
        layout=distribution.layout,
        package_set=distribution.package_set,
        packages=distribution.packages,
        kernel_arguments=distribution.boot_arguments,
        file_system=distribution.file_system,
        selinux=distribution.selinux,
        fips=distribution.fips,
        openscap=distribution.openscap,
        openscap_addon=distribution.openscap_addon,
        ssh_public_key=ssh_public_key,
    )
    kickstarts.validate(text, version=distribution.kickstart_version, name=image.name)
    return text


def _own_kickstart(image: Image, distribution: Distribution, file: Path, *, ssh_public_key: str) -> str:
    """The user's file as it is, flattened; golden adds its marker alone, the proof that all of it was carried out."""
    version = distribution.kickstart_version
    text = kickstarts.flatten(file)
    found = kickstarts.shortcomings(text, version=version, name=image.name, ssh_public_key=ssh_public_key)
    if found:
        raise ConfigError(
            f"the kickstart {file.name} of '{image.name}' lacks what golden needs; nothing was started",
            problems=[Problem(file.name, what) for what in [*found, *advice(distribution, text, image=image.name)]],
        )
    marker = templates.render(templates.shared("kickstarts"), "fragments/marker.ks.j2", image=image.name)
    return f"{text}\n{marker}"


def advice(distribution: Distribution, text: str, *, image: str) -> list[str]:
    """What would be good to have in the kickstart that a user brought; nothing for a rendered one."""
    if distribution.kickstart_file is None:
        return []
    console = "console=ttyAMA0" if distribution.arch == "aarch64" else "console=ttyS0"
    found = kickstarts.recommendations(text, version=distribution.kickstart_version, console=console, name=image)
    return [f"recommended: {what}" for what in found]


def _check_key(distribution: Distribution, ssh_public_key: str) -> None:
    """FIPS 186-5 has Ed25519, the FIPS policies of crypto-policies do not: no word of it is in EL's opensshserver.txt.

    Source: ComplianceAsCode/content, pull request 4723 (EL 8); openstack-k8s-operators/install_yamls, 641 (EL 9).
    """
    if distribution.fips and ssh_public_key.startswith("ssh-ed25519"):
        raise ConfigError(
            f"the project's SSH key is an Ed25519 key, which '{distribution.name}' does not let in in FIPS mode",
            try_next="ssh-keygen -t ecdsa -b 384 -N '' -C golden -f keys/id_ecdsa, "
            'and in golden.toml: [project] ssh_key = "keys/id_ecdsa"',
        )


def check_tree(folder: Path, name: str) -> None:
    """Raises ConfigError if the folder is no tree, or the installer's kernel is missing. name: the distribution's.

    Source: productmd's .treeinfo, sections [images-ARCH]; its paths are relative to the tree.
    """
    file = folder / ".treeinfo"
    if not file.is_file():
        raise ConfigError(f"the tree of '{name}' is none: {file} is missing")
    info = configparser.ConfigParser(interpolation=None)
    try:
        info.read_string(file.read_text(encoding="utf-8"))
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"the tree of '{name}' cannot be read: {file}: {' '.join(str(error).split())}") from error
    images = [path for section in info.sections() if section.startswith("images-") for path in info[section].values()]
    missing = [path for path in images if not _is_file_in(folder, path)]
    if missing or not images:
        what = f"{missing[0]} is missing" if missing else "its .treeinfo names no kernel"
        raise ConfigError(f"the tree of '{name}' at {folder} is not whole: {what}")


def _is_file_in(folder: Path, path: str) -> bool:
    """Whether there is such a file, in the folder and not outside of it; `path` may be anything."""
    try:
        place = (folder / path).resolve()
        return place.is_relative_to(folder.resolve()) and place.is_file()
    except (ValueError, OSError, RuntimeError):  # a NUL byte, a name too long, a loop of links
        return False


def check_dvd(dvd: Path) -> None:
    """Raises ConfigError if the file is not there, is no DVD, or is cut short."""
    if not dvd.is_file():
        raise ConfigError(
            f"the DVD is not there: {dvd}",
            try_next="put it there, or have `source` in golden.toml name another file or an http(s) address",
        )
    declared = _iso9660_bytes(dvd)
    if declared is None:
        raise ConfigError(f"{dvd} is no DVD image: it has no ISO 9660 volume descriptor")
    if dvd.stat().st_size < declared:
        raise ConfigError(
            f"the DVD {dvd} is cut short: its volume has {declared} bytes, the file {dvd.stat().st_size}",
            try_next="download it again",
        )


def _iso9660_bytes(path: Path) -> int | None:
    """The size that a volume says it has; None if it is none. Source: ECMA-119, 8.4, primary volume descriptor."""
    with path.open("rb") as stream:
        stream.seek(16 * 2048)
        descriptor = stream.read(2048)
    if len(descriptor) < 2048 or descriptor[0] != 1 or descriptor[1:6] != b"CD001":
        return None
    blocks = int.from_bytes(descriptor[80:84], "little")
    return blocks * int.from_bytes(descriptor[128:130], "little")


def install(
    installation: Installation,
    *,
    image: str,
    log: Path,
    silence_s: float,
    look: Callable[[], object],
    note: Callable[[str], None],
) -> None:
    """Run the installer to its end and look at what is on the disk.

    silence_s: seconds after which a console that says nothing means that nothing will come. look: called now and
    then; raises once the machine stands still. The caller removes the domain, whatever happens. Raises ToolError when
    the installer fails, is late or stops to ask, VerifyError when all ended well and nothing is installed.
    """
    console = Console(installation.console)
    watch = _Watch(console, image=image, silence_s=silence_s, look=look, note=note)
    try:
        run.run(
            virt_install.argv(installation),
            why=f"install '{image}'",
            timeout_s=installation.timeout_s,
            log=log,
            watch=watch,
        )
    except ToolError as error:
        if error.log is log:  # virt-install's own failure, not one that the console told of
            error.details.append(("console", console.tail() or "(it said nothing)"))
        raise
    console.poll()
    if console.fatal is not None:
        raise watch.failure(console.fatal.kind)
    _check_installed(installation.disk, console, image=image)


def _check_installed(disk: Path, console: Console, *, image: str) -> None:
    """virt-install ends with 0 when the guest powers off, whatever the installer did."""
    used = disk.stat().st_blocks * 512
    if used < _LEAST_INSTALLED_BYTES:
        raise VerifyError(
            f"virt-install ended well, but nothing is installed for '{image}': the disk holds {format_bytes(used)}",
            details=[("console", console.tail() or "(it said nothing)")],
            log=console.log,
        )


class _Watch:
    """Called while virt-install runs; raises when waiting is no use."""

    def __init__(
        self, console: Console, *, image: str, silence_s: float, look: Callable[[], object], note: Callable[[str], None]
    ) -> None:
        self._look = look
        self._looked = time.monotonic()
        self._console = console
        self._image = image
        self._silence_s = silence_s
        self._note = note
        self._fatal_since: float | None = None

    def __call__(self) -> None:
        for line in self._console.poll():
            self._note(line)
        if self._console.fatal is not None:
            self._fatal_since = self._fatal_since or time.monotonic()
            if time.monotonic() - self._fatal_since >= _LAST_WORDS_S:
                raise self.failure(self._console.fatal.kind)
        if time.monotonic() - self._looked >= _LOOK_S:
            self._looked = time.monotonic()
            self._look()
        quiet_s = self._console.silent_s
        if quiet_s >= self._silence_s:
            raise self.failure(f"the installer has said nothing for {quiet_s:.0f} s")

    def failure(self, kind: str) -> ToolError:
        return ToolError(
            f"could not install '{self._image}': {kind}",
            details=[("console", self._console.tail() or "(it said nothing)")],
            log=self._console.log,
        )

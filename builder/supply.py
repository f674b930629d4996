"""What a channel has for a builder on another machine: which builds, and their files when they are needed.

A step of a night then needs nothing but the project and two addresses: where it takes what it stands on, and where it
leaves what it made.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from builder import locks
from builder.digests import Artifacts
from builder.errors import ConfigError, VerifyError
from builder.model import Build, Project, version_key
from builder.plan import order
from builder.progress import Reporter
from builder.store import Store, read_build, verify_digest
from builder.tools import channel
from builder.tools.channel import ImageRpm
from builder.tools.download import Patience, shown
from builder.tools.openpgp import Signer

_FETCHES_AT_ONCE = 8


@dataclass(frozen=True)
class Supply:
    """What a channel has of some images. rpms: capability -> RPM, of all images. builds: stem -> facts, of these.

    Of each image the newest build is known, and all that it stands on.
    """

    address: str
    rpms: Mapping[str, ImageRpm]
    builds: Mapping[str, Build]

    def newest(self, image: str) -> Build | None:
        return max(self._of(image), key=lambda build: build.id.age, default=None)

    def by_key(self, image: str, key: str | None) -> Build:
        """The newest build with that content key, or of all. Raises ConfigError if there is none."""
        found = [build for build in self._of(image) if key in (None, build.key)]
        if not found:
            what = f"a build of '{image}' with the content key {key}" if key else f"a build of '{image}'"
            raise ConfigError(
                f"the channel {shown(self.address)} does not have {what} to stand on", try_next=f"golden step {image}"
            )
        return max(found, key=lambda build: build.id.age)

    def standing(self, project: Project, image: str, *, key: str | None = None) -> dict[str, Build]:
        """What a build of `image` is to stand on: image -> build, of all that it is made from.

        key: the content key of what it is directly made from; without one the newest build counts. Raises ConfigError
        if the channel lacks it, or has it on top of something else than golden.toml says.
        """
        source = project.images[image].source
        if source is None:
            return {}
        chain = self.chain(self.by_key(source, key))
        found = {build.image: build for build in chain}
        for name in order(project, [source]):
            build = found[name] = found.get(name) or self.by_key(name, None)
            if (build.parent.image if build.parent else None) != project.images[name].parent:
                raise ConfigError(
                    f"golden.toml wants '{name}' on top of something else than '{build.stem}' of the channel is",
                    try_next=f"golden step {name}",
                )
        return found

    def chain(self, build: Build) -> list[Build]:
        """It and all that it stands on, itself first."""
        return [self.builds[rpm.id.stem] for rpm in self._rpms_of(build)]

    def take(self, builds: Iterable[Build], store: Store, *, reporter: Reporter) -> None:
        """Have builds, and all that they stand on, in the store, as far as they are not there.

        What the channel has is right: a build of the same version that the store has of its own goes. Another golden
        that does so is waited for. Raises ToolError or HostError if they cannot be had, VerifyError if they are not
        what the channel's metadata speaks of.
        """

        def waiting(holder: str) -> None:
            reporter.note(f"another golden takes images out of a channel; waiting for {holder}")

        with locks.lock(store.root / "take.lock", what="what comes out of channels", waiting=waiting):
            self._take(builds, store, reporter=reporter)

    def _take(self, builds: Iterable[Build], store: Store, *, reporter: Reporter) -> None:
        artifacts = Artifacts(store, note=reporter.note)
        for build in builds:
            folder = store.root / "taken" / build.stem
            if missing := [rpm for rpm in self._rpms_of(build) if not _is_here(store, rpm, artifacts)]:
                with reporter.step(f"take {build.stem} out of the channel") as step:
                    self._bring(missing, folder, store, note=step.note)
            if folder.exists():  # also that of a golden that was ended when all was taken
                shutil.rmtree(folder)
        artifacts.save()

    def _bring(self, missing: Sequence[ImageRpm], folder: Path, store: Store, *, note: Callable[[str], None]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        log = store.root / "logs" / "take.log"
        log.parent.mkdir(exist_ok=True)
        files = channel.bring(missing, folder, log=log, patience=Patience(), note=note)[: len(missing)]
        for file, rpm in zip(files, missing, strict=True):
            if read_build(file.with_suffix(".json")) != self.builds[rpm.id.stem]:
                raise VerifyError(f"the RPM of {rpm.id.stem} holds other facts than lie beside it")
            verify_digest(file, rpm.id.sha256, what=f"'{rpm.id.stem}'", remedy="the same command again")
        store.adopt(files, is_theirs_right=True)

    def _of(self, image: str) -> list[Build]:
        return [build for build in self.builds.values() if build.image == image]

    def _rpms_of(self, build: Build) -> list[ImageRpm]:
        own = next(rpm for rpm in self.rpms.values() if rpm.id == build.id)
        return channel.chain_of(own, self.rpms, channel=self.address)


def survey(
    address: str,
    images: Iterable[str],
    *,
    every: Sequence[str] = (),
    signer: Signer | None,
    note: Callable[[str], None],
) -> Supply:
    """What the channel at `address` has of `images`. every: those of which all builds count, not the newest alone.

    signer: the key that has to have signed all of it, None for a project that signs nothing. A channel that is not
    there has nothing yet, which is said. Raises ToolError, VerifyError.
    """
    address = address.rstrip("/")
    if not address.startswith(("http://", "https://")):
        raise ConfigError(
            f"'{shown(address)}' is no address of a channel",
            try_next="its url, as golden publish prints it: http://mirror.example/golden/candidate",
        )
    with tempfile.TemporaryDirectory(prefix="golden-supply-") as name:
        folder = Path(name)
        key = None
        if signer is not None:
            key = folder / "key.asc"
            key.write_text(signer.public_key, encoding="utf-8")
        try:
            rpms = channel.images(address, key=key, folder=folder, patience=Patience(), note=note)
        except channel.NoChannelError:
            note(f"there is nothing at {shown(address)} yet")
            return Supply(address, {}, {})
        known = {rpm.capability: rpm for rpm in rpms}
        wanted: dict[str, ImageRpm] = {}
        for image in images:
            found = sorted((rpm for rpm in rpms if rpm.id.image == image), key=lambda rpm: version_key(rpm.id.version))
            for rpm in found if image in every else found[-1:]:
                wanted |= {link.id.stem: link for link in channel.chain_of(rpm, known, channel=address)}
        with ThreadPoolExecutor(_FETCHES_AT_ONCE) as pool:
            builds = pool.map(
                lambda rpm: channel.facts(rpm, folder, signer=signer, patience=Patience(), note=note), wanted.values()
            )
            return Supply(address, known, dict(zip(wanted, builds, strict=True)))


def _is_here(store: Store, rpm: ImageRpm, artifacts: Artifacts) -> bool:
    facts = store.images / f"{rpm.id.stem}.json"
    if not facts.exists():
        return False
    build = read_build(facts)
    return build.id == rpm.id and not artifacts.fault(build)

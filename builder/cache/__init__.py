"""What golden downloaded for bases, shared by all projects of this machine, each file by the SHA-256 of its bytes.

STATE/cache/files/DIGEST/NAME            the file, 0444, verified; the folder appears by one rename. Of an image that
                                         came from a channel, with all files of its chain beside it
                         .facts.json     where it came from; its mtime: when it was used last
STATE/cache/addresses/KEY.json           which digest an address last had; stays when the file is pruned
STATE/cache/partial/KEY/NAME             on its way; a broken download goes on from here
                        chain/           of an image from a channel: what was unpacked so far
STATE/cache/locks/KEY, DIGEST            held while an address is downloaded; while a file is used (shared)
KEY is the SHA-256 of the address.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from builder import checksums, faults
from builder.cache.records import Address, Cached, address_facts, file_facts, key, locked, read_address, read_facts
from builder.errors import ConfigError, ToolError, VerifyError
from builder.locks import lock
from builder.media import Source, file_name
from builder.store import sha256, sync_directory, write_atomically
from builder.tools import channel, download, gpg
from builder.tools.download import Patience, Validators, shown

# Looks at a file's form before it becomes visible; raises what is wrong with it.
Check = Callable[[Path], object]
Note = Callable[[str], None]


class Cache:
    """state: the root of all state. patience: with servers."""

    def __init__(self, state: Path, *, patience: Patience | None = None) -> None:
        self.state = state
        self.root = state / "cache"
        self.patience = patience or Patience()

    # --- what is known without a network

    def known_sha256(self, source: Source) -> str | None:
        """The digest of what has to be downloaded: as golden.toml says, else as the address last had it, else None."""
        return source.sha256 or self._address_of(source.location).sha256

    def file(self, source: Source) -> Path:
        """Where the downloaded file is, or will be."""
        digest = self.known_sha256(source) or "SHA256"
        return self._here(digest) or self.root / "files" / digest / file_name(source.location)

    # --- bringing things here

    def refresh(self, source: Source, *, distribution: str, check: Check, note: Note) -> str:
        """The digest that the source has now. Downloads no more than is needed to know it.

        That is nothing if golden.toml says it, the checksum file if there is one, the metadata of a channel, else the
        file itself, unless its server says that it has not changed. If the server fails, the source is taken for what
        it was last time. Raises ConfigError, ToolError, VerifyError.
        """
        if source.sha256 is not None:
            return source.sha256
        known = self._address_of(source.location)
        try:
            if source.checksums is None and source.channel is None:
                return self._download(source, distribution=distribution, expected=None, check=check, note=note)
            published = self.published(source, note=note)
        except ToolError as error:
            if known.sha256 is None or known.verified != _how_verified(source):
                raise
            note(f"{error.what}: {dict(error.details)['reason']}; taken as it was when it was last asked")
            return known.sha256
        with self._locked(source.location, note):
            self._remember(source, distribution, published, Validators())
        return published

    def obtain(self, source: Source, digest: str, *, distribution: str, check: Check, note: Note) -> Path:
        """The file with `digest`, downloaded if it is not here. Raises ToolError, VerifyError."""
        if not self.is_verified(digest, source):
            if source.sha256 is not None and source.checksums is not None:
                published = self.published(source, note=note)
                if published != digest:
                    raise VerifyError(
                        f"golden.toml and the checksum file disagree on {file_name(source.location)}",
                        details=[("golden.toml", digest), (shown(source.checksums), published)],
                    )
            self._download(source, distribution=distribution, expected=digest, check=check, note=note)
        return self.file(source.model_copy(update={"sha256": digest}))

    @contextlib.contextmanager
    def in_use(self, path: Path) -> Iterator[None]:
        """While the block runs, `golden cache prune` leaves the file alone. Raises VerifyError if it was changed.

        All of it is read: a disk that goes bad changes no time. That is seconds of an installation's minutes.
        """
        digest = path.parent.name
        with locked(self.root, digest, fcntl.LOCK_SH):
            if not path.exists():
                raise VerifyError(f"{path} went out of the cache", try_next="run the same command again")
            if sha256(path) != digest:
                raise VerifyError(
                    f"{path} was changed after it was downloaded",
                    try_next=f"rm -r {path.parent}  and run the same command again",
                )
            file_facts(path.parent).touch()
            yield

    def published(self, source: Source, *, note: Note) -> str:
        """The digest that the checksum file, or a channel, gives; its signature checked if there is a key for it."""
        if source.channel is not None:
            return self._chain(source, None, note=note)[0].id.sha256
        assert source.checksums is not None
        what = shown(source.checksums)
        with tempfile.TemporaryDirectory(prefix="golden-checksums-") as folder:
            file = self._small(source.checksums, Path(folder), note=note)
            if source.key is not None:
                signature = self._small(source.signature, Path(folder), note=note) if source.signature else None
                text = gpg.signed_text(file, signature=signature, key=source.key, what=what)
            else:
                text = file.read_bytes()
        try:
            return checksums.sha256_of(file_name(source.location), text.decode(errors="replace"))
        except ValueError as error:
            raise VerifyError(f"the checksum file {what} is of no use: {error}") from error

    def _chain(self, source: Source, digest: str | None, *, note: Note) -> list[channel.ImageRpm]:
        """The RPMs of the chain of an image in a channel; its newest version, or the one with `digest`."""
        assert source.channel is not None and source.image is not None
        with tempfile.TemporaryDirectory(prefix="golden-channel-") as folder:
            return channel.find(
                source.channel,
                source.image,
                sha256=digest,
                key=source.key,
                folder=Path(folder),
                patience=self.patience,
                note=note,
            )

    def _small(self, location: str, folder: Path, *, note: Note) -> Path:
        """A checksum file or signature: asked for anew each time, never kept."""
        if "://" not in location:
            path = Path(location)
            if not path.is_file():
                raise ConfigError(f"there is no file {path}")
            return path
        part = folder / key(location)
        download.fetch(location, part, patience=self.patience, note=note)
        return part

    def _download(self, source: Source, *, distribution: str, expected: str | None, check: Check, note: Note) -> str:
        """Bring the file into the cache unless it is there; returns its digest. One golden does it, others wait."""
        url = source.location
        with self._locked(url, note):
            known = self._address_of(url)
            if expected is not None and self._here(expected):  # perhaps another golden brought it in the meantime
                self._mark_verified(expected, source)
                return expected
            part = self._partial(url)
            part.parent.mkdir(parents=True, exist_ok=True)
            if not known.distribution:  # from now on there may be a part of a file
                self._remember(source, distribution, None, Validators())
            files: Sequence[Path] = [part]
            try:
                if source.channel is not None:
                    files = self._bring_chain(source, expected, part.parent, note)
                    validators: Validators | None = Validators()
                else:
                    unless = known.validators if known.sha256 and expected is None else None
                    validators = download.fetch(url, part, unless=unless, patience=self.patience, note=note)
                if validators is None:
                    assert known.sha256 is not None
                    return known.sha256
                note("computing its SHA-256")
                found = self._verified(source, files[0], expected, check)
            except (ConfigError, VerifyError) as error:
                error.details.append(("address", shown(url)))
                shutil.rmtree(part.parent)
                raise
            self._take(files, part.parent, source, distribution, found)
            self._remember(source, distribution, found, validators)
            return found

    def _bring_chain(self, source: Source, expected: str | None, folder: Path, note: Note) -> list[Path]:
        chain = self._chain(source, expected, note=note)
        with tempfile.TemporaryDirectory(prefix="golden-channel-") as logs:
            return channel.bring(chain, folder, log=Path(logs) / "unpack.log", patience=self.patience, note=note)

    def _verified(self, source: Source, part: Path, expected: str | None, check: Check) -> str:
        found = sha256(part)
        if expected is not None and found != expected:
            said_by = "golden.toml" if source.sha256 else shown(source.checksums or "the server, a moment ago")
            raise VerifyError(
                f"the download of {part.name} is not the file that it should be",
                details=[("expected", f"sha256 {expected} ({said_by})"), ("found", f"sha256 {found}")],
                try_next="run the same command again: a mirror may have been in between; else mend golden.toml",
            )
        check(part)
        return found

    def _take(self, files: Sequence[Path], partial: Path, source: Source, distribution: str, digest: str) -> None:
        """The verified files, and the facts of the first of them, appear under its digest by one rename."""
        if self._here(digest):  # the same bytes from another address
            self._mark_verified(digest, source)
            shutil.rmtree(partial)
            return
        final = self.root / "files" / digest
        aside = final.with_name(f".{digest}.part")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        size = sum(file.stat().st_size for file in files)
        for file in files:
            file.chmod(0o444)
            file.rename(aside / file.name)
        facts = Cached(
            name=files[0].name,
            sha256=digest,
            size_bytes=size,
            address=shown(source.location),
            distribution=distribution,
            verified=_how_verified(source),
            fetched=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        )
        write_atomically(file_facts(aside), facts.model_dump_json(indent=2) + "\n")
        shutil.rmtree(final, ignore_errors=True)  # without its facts it is not whole
        shutil.rmtree(partial)  # what is left in it is of no use without the files; nobody would look there again
        faults.place("cache.aside")
        aside.rename(final)
        faults.place("cache.named")
        sync_directory(final.parent)

    # --- places and locks

    def _here(self, digest: str) -> Path | None:
        """The file with that digest, under whatever name it came."""
        cached = read_facts(self.root, digest)
        path = self.root / "files" / digest / cached.name if cached else None
        return path if path and path.is_file() else None

    def is_verified(self, digest: str, source: Source) -> bool:
        """Whether the file is here, verified in the way that `source` asks for."""
        cached = read_facts(self.root, digest)
        needs_proof = source.sha256 or source.checksums or source.channel
        is_proven = cached is not None and (not needs_proof or cached.verified == _how_verified(source))
        return is_proven and self._here(digest) is not None

    def _mark_verified(self, digest: str, source: Source) -> None:
        """The file was here already, and `source` vouches for it in a way of its own."""
        cached = read_facts(self.root, digest)
        if cached is not None and (source.sha256 or source.checksums or source.channel):
            now = cached.model_copy(update={"verified": _how_verified(source)})
            write_atomically(file_facts(self.root / "files" / digest), now.model_dump_json(indent=2) + "\n")

    def _address_of(self, url: str) -> Address:
        return read_address(self.root, key(url), url=url)

    def _partial(self, url: str) -> Path:
        return self.root / "partial" / key(url) / file_name(url)

    def _remember(self, source: Source, distribution: str, digest: str | None, validators: Validators) -> None:
        path = address_facts(self.root, key(source.location))
        path.parent.mkdir(parents=True, exist_ok=True)
        record = Address(
            address=shown(source.location),
            distribution=distribution,
            sha256=digest,
            verified=_how_verified(source),
            validators=validators,
        )
        write_atomically(path, record.model_dump_json(indent=2) + "\n")

    def _locked(self, url: str, note: Note) -> contextlib.AbstractContextManager[None]:
        return lock(
            self.root / "locks" / key(url),
            what=f"the download of {shown(url)}",
            waiting=lambda holder: note(f"another golden downloads it; waiting for {holder}"),
        )


def _how_verified(source: Source) -> str:
    if source.channel is not None:
        return f"the channel {shown(source.channel)}{', signed' if source.key else ', not signed'}"
    if source.checksums is None:
        return (
            "sha256 of golden.toml" if source.sha256 else "not verified: golden.toml has neither sha256 nor checksums"
        )
    return f"{shown(source.checksums)}{', signed' if source.key else ', not signed'}"

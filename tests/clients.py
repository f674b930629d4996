"""The real dnf as client of a channel: over http, by the mirrorlist, into a root of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from builder.channels import client_config
from builder.run import query
from builder.tools import dnf
from builder.tools.openpgp import Signer


@dataclass
class Client:
    """A root with nothing in it, and dnf for it, which takes nothing that `signer` did not sign.

    channel: where it installs from, served at `url`.
    """

    folder: Path
    url: str
    signer: Signer | None
    channel: str = "candidate"

    def __post_init__(self) -> None:
        self.folder.mkdir()
        text = client_config(
            self.channel,
            prefix="golden",
            project="demo",
            url=self.url,
            fingerprint=self.signer.fingerprint if self.signer else None,
        )
        self.repo_file.write_text(text)

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def repo_file(self) -> Path:
        return self.folder / "golden-candidate.repo"

    @property
    def images(self) -> Path:
        return self.root / "usr/share/golden/images"

    def install(self, *packages: str) -> None:
        dnf.install_into_root(
            packages, root=self.root, repo_file=self.repo_file, cache=self.folder / "cache", log=self.folder / "dnf.log"
        )

    def dnf(self, *words: str) -> str:
        argv = dnf.argv("--refresh", *words, root=self.root, repo_file=self.repo_file, cache=self.folder / "cache")
        return query(argv, why=f"dnf {words[0]}", timeout_s=120)

    def rpm(self, *words: str) -> list[str]:
        return sorted(query(["rpm", f"--root={self.root}", *words], why="ask rpm").splitlines())

    def names(self) -> list[str]:
        """The packages that are installed; the key that was imported is none."""
        return [name for name in self.rpm("-qa", "--qf", "%{NAME}\n") if name != "gpg-pubkey"]

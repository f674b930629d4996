"""Who made an image of what: the files that vouch for a build, in its package and beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from builder.model import Build
from builder.store import Store, verify_digest
from builder.tools.openpgp import Signer

# What lies beside the image's RPM under the same name, and in it under the image's: its facts, what is in it
# (CycloneDX), who made it of what (in-toto statements, signed), the record of its tests where there is one.
COMPANIONS = {
    ".build.json": ".json",
    ".cdx.json": ".cdx.json",
    ".intoto.jsonl": ".intoto.jsonl",
    ".tests.json": ".tests.json",
}


def write(build: Build, folder: Path, *, store: Store, signer: Signer | None) -> None:
    """Write the files that vouch for a build into a new folder, under the names that they get beside the image.

    Raises VerifyError if the build's package list is gone or damaged.
    """
    # Their libraries take a quarter of a second to load, which commands that package nothing need not wait for.
    from builder.tools import attestation, bom

    folder.mkdir()
    listed = store.package_list(build)
    what = f"the package list of '{build.stem}'"
    verify_digest(listed, build.packages_sha256, what=what, remedy=f"golden build {build.image}")
    packages = listed.read_text(encoding="utf-8")
    document = bom.cyclonedx(build, packages.split())
    tests = _tests(store, build)
    files = {
        f"{build.stem}.packages": packages.encode(),
        f"{build.stem}.json": store.facts(build).read_bytes(),
        f"{build.stem}.cdx.json": document.encode(),
    }
    (folder / f"{build.stem}.cdx.json").write_text(document, encoding="utf-8")
    if tests is not None:
        (folder / f"{build.stem}.tests.json").write_text(json.dumps(tests, indent=2) + "\n", encoding="utf-8")
    signed = attestation.signed(attestation.statements(build, files, tests=tests), signer)
    (folder / f"{build.stem}.intoto.jsonl").write_text(signed, encoding="utf-8")


def extras(store: Store, build: Build) -> list[str]:
    """Suffixes of the files that `write` makes for this build."""
    return [".cdx.json", ".intoto.jsonl", *([".tests.json"] if _tests(store, build) is not None else [])]


def _tests(store: Store, build: Build) -> dict[str, Any] | None:
    """The record of a build's tests, if it was tested, and the record is of these very bytes."""
    path = store.verification(build)
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found if found.get("sha256") == build.id.sha256 else None

"""Who made an image of what: the files that vouch for a build, in its package and beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import RootModel, ValidationError

from builder.errors import VerifyError
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


class _Record(RootModel[dict[str, Any]]):
    """Of another golden's verification, too, so its keys are whatever they are."""


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
    """The record of a build's tests, if it was tested, and the record is of these very bytes. Raises VerifyError."""
    path = store.verification(build)
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = _Record.model_validate_json(path.read_bytes()).root
    except ValidationError as error:
        raise VerifyError(
            f"the verification record of {build.stem} is damaged: {path}",
            details=[("reason", str(error).splitlines()[0])],
            try_next=f"golden verify {build.image}, which writes it anew",
        ) from error
    return found if found.get("sha256") == build.id.sha256 else None

"""What is in an image as a CycloneDX document, by cyclonedx-python-lib: one component per package of the guest."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from datetime import datetime

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from builder.model import Build
from builder.packages import parse

# Of serial numbers: the same build has the same document, whenever it is written.
_SERIALS = uuid.UUID("3d1a1f0e-93a5-5c26-9a1e-7d6f0a3c5b42")


def cyclonedx(build: Build, packages: Iterable[str]) -> str:
    """The document as JSON, CycloneDX 1.6. packages: NEVRAs of what is installed in the image. Pure.

    Source: CycloneDX 1.6; the Package URL specification, type rpm.
    """
    image = Component(
        name=build.image,
        version=build.version,
        type=ComponentType.OPERATING_SYSTEM,
        bom_ref=build.stem,
        description=build.description or None,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=build.id.sha256)],
        properties=[
            Property(name="golden:distribution", value=build.distribution),
            Property(name="golden:content-key", value=build.key),
            *([Property(name="golden:parent", value=build.parent.stem)] if build.parent else []),
        ],
    )
    found = [_component(nevra, build) for nevra in sorted(set(packages))]
    bom = Bom(
        components=found,
        serial_number=uuid.uuid5(_SERIALS, f"{build.stem} {build.id.sha256}"),
        metadata=BomMetaData(component=image, timestamp=datetime.fromisoformat(build.finished)),
    )
    bom.register_dependency(image, found)
    return str(JsonV1Dot6(bom).output_as_string(indent=1)) + "\n"


def _component(nevra: str, build: Build) -> Component:
    package = parse(nevra)
    epoch, _, version = package.evr.rpartition(":")
    vendor = re.sub(r"[-.]?[0-9.]+$", "", build.distribution)
    qualifiers = {"arch": package.arch, "distro": build.distribution} | ({"epoch": epoch} if epoch else {})
    return Component(
        name=package.name,
        version=package.evr,
        type=ComponentType.LIBRARY,
        bom_ref=nevra,
        purl=PackageURL("rpm", vendor, package.name, version, qualifiers),
    )

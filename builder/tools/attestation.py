"""Who made an image of what, as in-toto statements in signed envelopes: in-toto-attestation and securesystemslib.

A file holds one envelope (DSSE) per line: the SLSA provenance of a build, and after it the result of its tests, if it
was tested. The envelopes of a project that signs nothing have no signature.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import GPGSigner  # type: ignore[attr-defined]

from builder import __version__
from builder.errors import VerifyError
from builder.model import Build
from builder.tools.openpgp import Signer

PAYLOAD_TYPE = "application/vnd.in-toto+json"
PROVENANCE = "https://slsa.dev/provenance/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
# Names of golden's own, as the specification wants URIs: how it builds, and golden as a builder.
BUILD_TYPE = "urn:golden:build:1"
BUILDER = f"urn:golden:builder:{__version__}"

_SHA256 = re.compile(r"(?:sha256 )?([0-9a-f]{64})")


def statements(build: Build, files: Mapping[str, bytes], *, tests: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The provenance of a build, and the result of its tests if there is one. Pure.

    files: name -> bytes, of what lies beside the image and is vouched for, too. tests: its verification record.
    Source: in-toto attestation framework, Statement v1, SLSA provenance v1, test-result v0.1.
    """
    digests = {f"{build.stem}.qcow2": build.id.sha256} | {
        name: hashlib.sha256(data).hexdigest() for name, data in files.items()
    }
    subjects = [ResourceDescriptor(name=name, digest={"sha256": digest}).pb for name, digest in digests.items()]
    predicates: list[tuple[str, dict[str, Any]]] = [(PROVENANCE, _provenance(build))]
    if tests is not None:
        predicates.append((TEST_RESULT, _test_result(build, tests)))
    found = []
    for kind, predicate in predicates:
        statement = Statement(subjects, kind, predicate)
        statement.validate()
        found.append(MessageToDict(statement.pb))
    return found


def signed(statements: Sequence[Mapping[str, Any]], signer: Signer | None) -> str:
    """The statements in envelopes, one line each."""
    envelopes = [Envelope(json.dumps(statement, sort_keys=True).encode(), PAYLOAD_TYPE, {}) for statement in statements]
    if signer is not None:
        _, key = GPGSigner.import_(_signing_key(signer), str(signer.home))
        gpg = GPGSigner(key, str(signer.home))
        for envelope in envelopes:
            envelope.sign(gpg)
    return "".join(json.dumps(envelope.to_dict(), sort_keys=True) + "\n" for envelope in envelopes)


def read(text: str, *, signer: Signer | None, what: str) -> list[dict[str, Any]]:
    """The statements in a file that `signed` wrote, each proven to be signed with that key, where one is given.

    Raises VerifyError.
    """
    try:
        envelopes = [Envelope.from_dict(json.loads(line)) for line in text.splitlines()]
        if signer is not None:
            _, key = GPGSigner.import_(_signing_key(signer), str(signer.home))
            for envelope in envelopes:
                envelope.verify([key], 1)
        found: list[dict[str, Any]] = [json.loads(envelope.payload) for envelope in envelopes]
        for statement in found:
            if statement["predicateType"] == PROVENANCE:
                ParseDict(statement["predicate"], Provenance())
    except (ValueError, KeyError, TypeError, AttributeError, ParseError, VerificationError) as error:
        raise VerifyError(
            f"the attestation of {what} is damaged or not signed with the project's key",
            details=[("reason", str(error))],
        ) from error
    return found


def _signing_key(signer: Signer) -> str:
    """As securesystemslib names it; gpg's program is the one that golden uses."""
    os.environ.setdefault("GNUPG", "gpg")
    return signer.signing_fingerprint.lower()


def _provenance(build: Build) -> dict[str, Any]:
    # A parent's input is its content key, which is no digest of bytes; its image is among the dependencies by itself.
    bytes_of = {name: text for name, text in build.inputs.items() if not name.startswith(("parent ", "flat form of "))}
    digests = {name: match[1] for name, text in bytes_of.items() if (match := _SHA256.fullmatch(text))}
    parents = [build.source] if build.source else []
    predicate = {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"image": build.image, "distribution": build.distribution, "inputs": build.inputs},
            "internalParameters": {
                "key": build.key,
                "accelerator": build.accelerator,
                "commands": list(build.commands),
            },
            "resolvedDependencies": [
                *({"name": f"{parent.stem}.qcow2", "digest": {"sha256": parent.sha256}} for parent in parents),
                *({"name": name, "digest": {"sha256": digest}} for name, digest in digests.items()),
            ],
        },
        "runDetails": {
            "builder": {"id": BUILDER, "version": {"golden": __version__, **build.tools}},
            "metadata": {
                "invocationId": f"{build.stem} {build.key}",
                "startedOn": build.started,
                "finishedOn": build.finished,
            },
            "byproducts": [{"name": f"{build.stem}.packages", "digest": {"sha256": build.packages_sha256}}],
        },
    }
    # The library's own schema says whether this is one.
    found: dict[str, Any] = MessageToDict(ParseDict(predicate, Provenance()))
    return found


def _test_result(build: Build, tests: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "result": "PASSED" if tests.get("passed") else "FAILED",
        "configuration": [{"name": f"{build.stem}.qcow2", "digest": {"sha256": build.id.sha256}}],
        "record": json.loads(json.dumps(dict(tests))),
    }

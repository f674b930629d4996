"""JUnit XML, which CI servers read: written from checks, and read as pytest writes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from junitparser import Failure, JUnitXml, JUnitXmlError, Skipped, TestCase, TestSuite

from builder.errors import VerifyError
from builder.verdicts import Check


def write(file: Path, suites: Mapping[str, Sequence[Check]]) -> None:
    """suites: name -> its checks."""
    xml = JUnitXml("golden")
    for name, checks in suites.items():
        suite = TestSuite(name)
        for check in checks:
            suite.add_testcase(_case(check, suite=name))
        xml.add_testsuite(suite)
    xml.update_statistics()  # type: ignore[no-untyped-call]
    xml.write(str(file), pretty=True)


def read(file: Path) -> Iterator[TestSuite]:
    """Raises VerifyError if it is damaged."""
    try:
        yield from JUnitXml.fromfile(str(file))
    except (OSError, SyntaxError, JUnitXmlError) as error:
        raise VerifyError(f"the results of the tests are damaged: {file}: {error}") from error


def _case(check: Check, *, suite: str) -> TestCase:
    case = TestCase(check.name, classname=suite, time=check.seconds)
    message = "".join(c for c in check.message if c.isprintable() or c in "\t\n")  # XML takes no control characters
    if check.result == "failed":
        failure = Failure(message.partition("\n")[0])
        failure.text = message
        case.result = [failure]
    elif check.result == "skipped":
        case.result = [Skipped(message)]
    return case

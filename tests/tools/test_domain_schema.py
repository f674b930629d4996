"""The domain XML that the golden files hold, by libvirt's own schema."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.errors import ToolError
from builder.run import query
from tests.unit.test_domain import GOLDEN


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("domain-*.xml")), ids=lambda file: file.stem)
def test_libvirts_schema_takes_it(file: Path) -> None:
    query(["virt-xml-validate", file, "domain"], why="validate a domain")


def test_the_schema_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.xml"
    wrong.write_text((GOLDEN / "domain-clone-networks.xml").read_text().replace("oemStrings", "oemString"))
    with pytest.raises(ToolError, match="could not validate a domain"):
        query(["virt-xml-validate", wrong, "domain"], why="validate a domain")

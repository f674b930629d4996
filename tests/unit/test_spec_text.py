"""Text of the user's on its way into a spec; tests/tools/test_package_rpms.py shows that rpm agrees."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.package.spec import image_id, image_package, render_spec
from builder.tools.rpm import escape, plain
from tests.builds import make_build

HOSTILE = st.text(st.sampled_from("%%%{}()[]#\\\n \tabif\x00\r\x1b\x85é")) | st.text()


@given(HOSTILE)
def test_no_percent_sign_is_left_single(text: str) -> None:
    assert set(re.findall(r"%+", escape(text))) <= {"%" * n for n in range(2, 2 * len(text) + 1, 2)}


@given(HOSTILE)
def test_escaping_loses_nothing_but_control_characters_and_blanks_at_the_edges(text: str) -> None:
    assert escape(text).replace("%%", "%") == plain(text)
    assert plain(plain(text)) == plain(text)


@given(HOSTILE)
def test_no_line_begins_as_a_section_a_condition_or_a_comment(text: str) -> None:
    # rpm skips ASCII blanks only
    assert not [line for line in plain(text).split("\n") if line.lstrip(" \t\r\v\f").startswith(("%", "#"))]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", ""),
        ("plain text", "plain text"),
        ("100% sure\n\nof 50 %", "100% sure\n\nof 50 %"),
        ("\n\n first \r\nlast\n\n", " first\nlast"),
        ("%files", "\N{NO-BREAK SPACE}%files"),
        ("  %if 0", "\N{NO-BREAK SPACE}  %if 0"),
        ("# %(touch x)", "\N{NO-BREAK SPACE}# %(touch x)"),
        ("a\x1b[31mred\x00", "a[31mred"),
    ],
)
def test_what_a_package_can_carry(text: str, kept: str) -> None:
    assert plain(text) == kept


def test_spec_of_a_base_requires_no_parent() -> None:
    spec = render_spec(make_build("sandbox-base"), prefix="golden")
    assert re.findall("^Requires: .*", spec, re.M) == ["Requires:  golden-sandbox-base-image-20261121.1 = 20261121.1-1"]


def test_spec_of_a_layer_requires_its_parent_exactly() -> None:
    parent = make_build("sandbox-base", version="20261120.3", digest="a" * 64)
    spec = render_spec(make_build("sandbox-upgrade", parent=parent.id), prefix="acme")
    assert re.findall("^Requires: +(.*)", spec, re.M) == [
        "acme-sandbox-upgrade-image-20261121.1 = 20261121.1-1",
        "acme-sandbox-base-image-20261120.3 = 20261120.3-1",
        f"golden-image-id(acme-sandbox-base-image-20261120.3-20261120.3-1:{'a' * 64})",
    ]
    assert image_package(parent.id, prefix="acme") == "acme-sandbox-base-image-20261120.3"
    assert image_id(parent.id, prefix="acme") in spec


def test_spec_holds_no_scriptlet_and_no_path_of_the_building_machine() -> None:
    spec = render_spec(make_build("sandbox-base"), prefix="golden")
    assert not re.findall(r"^%(pre|post|trigger|filetrigger|transfiletrigger|verifyscript)", spec, re.M)
    assert set(re.findall(r"(?<![\w}])/[a-z]\S+", spec)) == {
        "/usr/share/golden",
        "/usr/share/golden/images",
        "/usr/share/golden/images/sandbox-base.qcow2",
        "/usr/share/golden/images/sandbox-base-20261121.1.qcow2",
        "/usr/share/golden/images/sandbox-base-20261121.1.packages",
        "/usr/share/golden/images/sandbox-base-20261121.1.json",
    }


def test_a_description_appears_in_both_packages_escaped() -> None:
    spec = render_spec(make_build("sandbox-base", description="%{nil} 100%"), prefix="golden")
    assert spec.count("\N{NO-BREAK SPACE}%%{nil} 100%%\n") == 2

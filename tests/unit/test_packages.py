from __future__ import annotations

import pytest

from builder.packages import Change, compare, parse


def test_a_nevra_is_taken_apart() -> None:
    package = parse("python3-dnf-plugin-1:4.14.0-3~bpo12+1.noarch")
    assert (package.name, package.evr, package.arch) == ("python3-dnf-plugin", "1:4.14.0-3~bpo12+1", "noarch")


@pytest.mark.parametrize(
    "text",
    [
        *("", "bash", "bash-5", "bash-5-1", "-5-1.x86_64", "-rf-5-1.x86_64", "../bash-5-1.x86_64", "bash-5-1.../x"),
        *("bash-:-1.x86_64", "bash-5-1:.x86_64", f"bash-{'9' * 5000}:5-1.x86_64"),
    ],
)
def test_what_is_no_nevra_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not NAME-"):
        parse(text)


def test_changes() -> None:
    before = ["a-1-1.x86_64", "b-2-1.x86_64", "c-1:1-1.noarch", "kernel-5-1.x86_64", "same-1-1.noarch"]
    after = [
        "a-1-10.x86_64",
        "c-2-1.noarch",
        "d-1-1.x86_64",
        "kernel-5-1.x86_64",
        "kernel-6-1.x86_64",
        "same-1-1.noarch",
    ]
    assert compare(before, after) == [
        Change(kind="upgraded", name="a.x86_64", before="1-1", after="1-10"),
        Change(kind="removed", name="b.x86_64", before="2-1", after=None),
        Change(kind="downgraded", name="c.noarch", before="1:1-1", after="2-1"),
        Change(kind="added", name="d.x86_64", before=None, after="1-1"),
        Change(kind="upgraded", name="kernel.x86_64", before="5-1", after="5-1 6-1"),
    ]


def test_versions_are_ordered_as_rpm_orders_them() -> None:
    (change,) = compare(["a-1.0-9.x86_64"], ["a-1.0~rc1-10.x86_64"])
    assert change.kind == "downgraded"

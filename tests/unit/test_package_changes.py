"""What a build's packages are against its parent's and its predecessor's; where changelogs come from and end."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from builder import package_changes, seal
from builder.cli import golden
from builder.errors import ConfigError
from builder.model import Build
from builder.store import Store, write_atomically
from tests.builds import make_build


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "state", "demo")
    found.images.mkdir(parents=True)
    return found


def add(store: Store, image: str, version: str, packages: list[str], parent: Build | None = None) -> Build:
    build = make_build(image, version=version, parent=parent.id if parent else None)
    write_atomically(store.package_list(build), "".join(f"{package}\n" for package in packages))
    write_atomically(store.facts(build), build.model_dump_json())
    return build


BASE = ["bash-5-1.noarch", "curl-1-1.noarch", "old-1-1.noarch", "same-1-1.noarch"]
FIRST = ["bash-6-1.noarch", "curl-1-1.noarch", "old-1-1.noarch", "same-1-1.noarch"]
SECOND = ["bash-6-1.noarch", "curl-0-1.noarch", "new-1:2-1.noarch", "same-1-1.noarch"]


def test_both_differences_and_the_changelogs_of_what_is_new(store: Store, tmp_path: Path) -> None:
    base = add(store, "sandbox-base", "20261121.1", BASE)
    previous = add(store, "sandbox-upgrade", "20261121.1", FIRST, base)
    entries = {package: f"entry of {package}" for package in SECOND if not package.startswith("curl")}
    found = package_changes.describe(SECOND, parent=base, previous=previous, store=store, changelogs=entries)
    assert found.parent is not None and found.previous is not None
    assert found.parent.since == "sandbox-base-20261121.1"
    assert [(change.kind, change.name) for change in found.parent.changes] == [
        ("upgraded", "bash.noarch"),
        ("downgraded", "curl.noarch"),
        ("added", "new.noarch"),
        ("removed", "old.noarch"),
    ]
    assert [(change.kind, change.name) for change in found.previous.changes] == [
        ("downgraded", "curl.noarch"),
        ("added", "new.noarch"),
        ("removed", "old.noarch"),
    ]
    assert found.changelogs == {name: f"entry of {name}" for name in ("bash-6-1.noarch", "new-1:2-1.noarch")}


def test_a_first_base_is_compared_with_nothing(store: Store) -> None:
    found = package_changes.describe(BASE, parent=None, previous=None, store=store, changelogs={BASE[0]: "x"})
    assert (found.parent, found.previous, found.changelogs) == (None, None, {})


def test_changelogs_as_rpm_prints_them() -> None:
    text = (
        "\fbash-6-1.noarch\nA Packager <a@example.org> - 6-1\n- mend it\n- and that\n"
        "\fnone-1-1.noarch\n(none)\n(none)\n"
        f"\flong-1-1.noarch\nB\n{'x' * 5000}\n"
        "\fcut-1-1.noa"
    )
    found = seal.read_changelogs(text)
    assert found["bash-6-1.noarch"] == "A Packager <a@example.org> - 6-1\n- mend it\n- and that"
    assert set(found) == {"bash-6-1.noarch", "long-1-1.noarch"}
    assert len(found["long-1-1.noarch"]) == 2000


@pytest.fixture
def project(tmp_path: Path, store: Store) -> Path:
    file = tmp_path / "golden.toml"
    file.write_text(
        '[project]\nname = "demo"\n[distribution.sandbox]\ninherits = "el9"\n'
        '[image.sandbox-base]\ndistribution = "sandbox"\n[image.sandbox-upgrade]\nparent = "sandbox-base"\n'
    )
    base = add(store, "sandbox-base", "20261121.1", BASE)
    add(store, "sandbox-upgrade", "20261121.1", FIRST, base)
    build = add(store, "sandbox-upgrade", "20261121.2", SECOND, base)
    logs = store.logs / build.stem
    logs.mkdir(parents=True)
    entries = {"new-1:2-1.noarch": "A Packager - 2-1\n- the first one"}
    found = package_changes.describe(SECOND, parent=base, previous=None, store=store, changelogs=entries)
    package_changes.write(found, logs)
    return file


def diff(project: Path, *words: str) -> str:
    argv = ["--file", str(project), "--state", str(project.parent / "state"), "diff", *words]
    return CliRunner().invoke(golden, argv, catch_exceptions=False).output


def test_diff_without_b_is_against_the_parent(project: Path) -> None:
    lines = diff(project, "sandbox-upgrade").splitlines()
    assert lines[0].split() == ["PACKAGE", "CHANGE", "sandbox-base-20261121.1", "sandbox-upgrade-20261121.2"]
    assert [line.split()[:2] for line in lines[1:]] == [
        ["bash.noarch", "upgraded"],
        ["curl.noarch", "downgraded"],
        ["new.noarch", "added"],
        ["old.noarch", "removed"],
    ]


def test_diff_with_the_build_before(project: Path) -> None:
    first, *_ = diff(project, "sandbox-upgrade", "--previous").splitlines()
    assert first.split()[2:] == ["sandbox-upgrade-20261121.1", "sandbox-upgrade-20261121.2"]


def test_diff_shows_changelogs_when_asked(project: Path) -> None:
    assert diff(project, "sandbox-upgrade", "--changelogs").endswith(
        "\n\nnew-1:2-1.noarch\n  A Packager - 2-1\n  - the first one\n"
    )
    assert "the first one" not in diff(project, "sandbox-upgrade")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sandbox-base"], "'sandbox-base' is a base and has no parent to compare with"),
        (["sandbox-base", "--previous"], "there is no build of 'sandbox-base' before 20261121.1"),
        (["sandbox-base", "sandbox-upgrade", "--previous"], "--previous compares with the build before A; leave B out"),
    ],
)
def test_nothing_to_compare_with(project: Path, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        diff(project, *words)
    assert caught.value.what == message

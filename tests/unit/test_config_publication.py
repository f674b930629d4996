"""[signing], [publish] and [retention] of golden.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import config
from builder.errors import ConfigError
from builder.publication import Publication, Rule, Signing


def read(folder: Path, text: str) -> Publication:
    file = folder / "golden.toml"
    file.write_text(text)
    return config.load(file).publication


def problem(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as refused:
        read(folder, text)
    (found,) = refused.value.problems
    return str(found)


def test_packages_are_signed_unless_golden_toml_says_otherwise(tmp_path: Path) -> None:
    assert read(tmp_path, "").signing == Signing(file=tmp_path / "keys/signing.asc")
    assert read(tmp_path, "[signing]\nunsigned = true\n").signing is None
    assert read(tmp_path, "[signing]\nunsigned = false\n").signing is not None
    assert read(tmp_path, '[signing]\nfile = "../ours.asc"\n').signing == Signing(file=tmp_path / "../ours.asc")


def test_a_key_that_gpg_has(tmp_path: Path) -> None:
    fingerprint = "79C4DA23BF9079A48AD25F58C293D3A5CA88BD84"
    spaced = "79c4 da23 bf90 79a4 8ad2  5f58 c293 d3a5 ca88 bd84"
    assert read(tmp_path, f'[signing]\nkey = "{spaced}"\n').signing == Signing(key=fingerprint)
    found = read(tmp_path, f'[signing]\nkey = "{fingerprint}"\nhomedir = "gnupg"\n').signing
    assert found == Signing(key=fingerprint, homedir=tmp_path / "gnupg")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[signing]\nkey = "me@example.org"\n',
            "line 2, signing.key: 'me@example.org' is not a fingerprint: 40 hex digits",
        ),
        (
            f'[signing]\nkey = "{"A" * 40}"\nunsigned = true\n',
            "signing: says key and unsigned; they exclude each other",
        ),
        ('[signing]\nhomedir = "x"\n', "signing: homedir is where gpg has the key of that fingerprint"),
        ("[signing]\nunsinged = true\n", "line 2, signing.unsinged: unknown key, did you mean 'unsigned'?"),
        ('[publish]\ntarget = "a b:/c"\n', "line 2, publish.target: 'a b:/c' is no target; one looks like"),
        ('[publish]\ntarget = "rsync://host"\n', "is no target"),
        ('[publish]\ntarget = "host:relative"\n', "is no target"),
        ('[publish]\ntarget = "--rsh=x"\n', "is no target"),
        ("[retention]\nkeep = 0\n", "line 2, retention.keep: input should be greater than or equal to 1, not 0"),
        ('[retention]\nage = "7"\n', "line 2, retention.age: '7' is not a duration"),
        ("[retention.channel.stable]\nkep = 1\n", "retention.channel.stable.kep: unknown key, did you mean 'keep'?"),
        ("[retention.channel.Stable]\nkeep = 1\n", "'Stable' is not a name"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    assert message in problem(tmp_path, text)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("rsync://mirror.example/golden/", "rsync://mirror.example/golden"),
        ("mirror.example:/srv/golden", "mirror.example:/srv/golden"),
        ("builder@mirror.example:/srv/golden", "builder@mirror.example:/srv/golden"),
        ("/srv/golden", "/srv/golden"),
    ],
)
def test_targets(tmp_path: Path, said: str, expected: str) -> None:
    assert read(tmp_path, f'[publish]\ntarget = "{said}"\n').target == expected
    assert read(tmp_path, '[publish]\ntarget = "out"\n').target == str(tmp_path / "out")
    assert read(tmp_path, "").target is None


def test_retention(tmp_path: Path) -> None:
    text = '[retention]\nkeep = 5\nage = "2 d"\ncomposes = 2\n[retention.channel.stable]\nkeep = 9\n'
    found = read(tmp_path, text).retention
    assert found.of("candidate") == Rule(keep=5, age_s=2 * 86400)
    assert found.of("stable") == Rule(keep=9, age_s=2 * 86400)
    assert found.composes == 2
    assert read(tmp_path, "").retention.of("nightly") == Rule(keep=3, age_s=7 * 86400)

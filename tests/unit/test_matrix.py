"""One definition for several distributions, and the example that shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.config import load
from builder.errors import ConfigError
from builder.model import Project
from builder.steps import Install

MATRIX = """\
[matrix]
el = ["rocky9", "almalinux9"]

[image."{el}-base"]
disk = "20 GiB"
description = "{el}, plain"

[image."{el}-web"]
parent = "{el}-base"
steps = [
  { install = ["nginx"] },
  { install = ["rocky-tools"], only = ["rocky9"] },
]
"""


def project(tmp_path: Path, text: str) -> Project:
    file = tmp_path / "golden.toml"
    file.write_text(text, encoding="utf-8")
    return load(file)


def problems(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        project(tmp_path, text)
    return [str(problem) for problem in caught.value.problems]


def test_each_image_is_there_once_for_each_distribution(tmp_path: Path) -> None:
    found = project(tmp_path, MATRIX).images
    assert list(found) == ["rocky9-base", "almalinux9-base", "rocky9-web", "almalinux9-web"]
    assert found["almalinux9-web"].parent == "almalinux9-base"
    assert (found["almalinux9-base"].distribution, found["almalinux9-base"].description) == (
        "almalinux9",
        "almalinux9, plain",
    )


def test_a_step_for_one_distribution_is_in_that_one_alone(tmp_path: Path) -> None:
    found = project(tmp_path, MATRIX).images
    assert found["rocky9-web"].steps == (Install(packages=("nginx",)), Install(packages=("rocky-tools",)))
    assert found["almalinux9-web"].steps == (Install(packages=("nginx",)),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "matrix = 1\n",
            ['line 1, matrix: is not a table; write [matrix] and lines such as el = ["rocky9", "almalinux9"]'],
        ),
        ("[matrix]\nel = []\n", ['line 2, matrix.el: needs a list of distributions, such as ["rocky9", "almalinux9"]']),
        (
            '[matrix]\nel = ["rocky9", "rockey9"]\n',
            ["line 2, matrix.el.1: there is no distribution 'rockey9', did you mean 'rocky9'?"],
        ),
        (
            '[matrix]\nel = ["rocky9"]\n\n[image."{ell}-base"]\n',
            ["line 4, image.{ell}-base: there is no matrix 'ell', did you mean 'el'?; write [matrix] ell = [...]"],
        ),
        (
            '[matrix]\nel = ["rocky9"]\n[image."{el}-{el}x-{b}"]\n',
            ["line 3, image.{el}-{el}x-{b}: a name takes one placeholder"],
        ),
        (
            '[matrix]\nel = ["rocky9"]\n[image.rocky9-base]\ndistribution = "rocky9"\n[image."{el}-base"]\n',
            ["line 5, image.{el}-base: defines 'rocky9-base', and so does [image.\"rocky9-base\"]"],
        ),
        # A problem of the definition is said once, at its line, not once for each distribution.
        (
            '[matrix]\nel = ["rocky9", "almalinux9"]\n[image."{el}-base"]\ndsk = "1 GiB"\n',
            ["line 4, image.{el}-base.dsk: unknown key, did you mean 'disk'?"],
        ),
        (
            '[matrix]\nel = ["rocky9"]\n[image."{el}-base"]\nsteps = [\n  { install = "a" },\n  { instal = "a" },\n]\n',
            ["line 6, image.{el}-base.steps.1: unknown step 'instal', did you mean 'install'?"],
        ),
        (
            '[image.rocky9-base]\ndistribution = "rocky9"\nsteps = [{ install = "a", only = ["rocki9"] }]\n',
            ["line 3, image.rocky9-base.steps.0: there is no distribution 'rocki9', did you mean 'rocky9'?"],
        ),
        (
            '[distribution.fedora]\ninherits = "el9"\nkickstart_version = "F40"\n'
            '[image.fedora-base]\ndistribution = "fedora"\nsteps = [{ modules = { enable = ["a:1"] } }]\n',
            ["line 6, image.fedora-base.steps.0: modules are of EL 8 and 9; 'fedora' is F40"],
        ),
    ],
)
def test_problems_point_at_the_definition(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert problems(tmp_path, text) == expected

"""docs/benchmarks.md holds what was measured, and nothing else."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
MADE = runpy.run_path(str(TOP / "benchmarks/page.py"))
WHOLE = {
    "title": "Reading",
    "when": "2026-11-21T10:00:00+00:00",
    "machine": {"processors": 2, "model": "A chip", "memory_gib": 4, "kernel": "6.1", "accelerator": "kvm"},
    "busy": False,
    "command": "python3 benchmarks/reading.py",
}


def write(folder: Path, name: str, found: object) -> None:
    (folder / f"benchmarks-{name}.json").write_text(json.dumps(found), encoding="utf-8")


def test_the_page_is_what_the_measurements_say() -> None:
    found = (TOP / "docs/benchmarks.md").read_text(encoding="utf-8")
    assert found == MADE["page"](TOP / "docs"), "docs/benchmarks.md is out of date; run: make figures"


def test_every_measurement_has_a_section_with_its_date_and_machine() -> None:
    sections = re.split(r"^## ", MADE["page"](TOP / "docs"), flags=re.MULTILINE)[1:]
    assert len(sections) == len(list((TOP / "docs").glob("benchmarks-*.json")))
    for section in sections:
        measured = r"^Measured \d{4}-\d\d-\d\d on \d+ processors, .+, \d+ GiB of memory, Linux \d"
        assert re.search(measured, section, flags=re.MULTILINE), section
        assert "![" in section, section
        assert re.search(r"^`.*(benchmarks/\w+\.py|tests|torture)", section, flags=re.MULTILINE), section


def test_a_measurement_without_a_script_shows_its_own_tables(tmp_path: Path) -> None:
    more = {
        "busy": True,
        "about": "How it\nwas read.\n\nTwice.",
        "tables": [{"title": "Median", "head": ["", "s"], "rows": [["warm", 0.5], ["cold", None]]}],
        "plots": ["reading.svg"],
        "notes": "Warm is faster.",
    }
    write(tmp_path, "no-such-script", WHOLE | more)
    with pytest.raises(ValueError, match=r"Reading: there is no reading\.svg"):
        MADE["page"](tmp_path)
    (tmp_path / "reading.svg").touch()
    assert MADE["page"](tmp_path).partition("## ")[2] == (
        "Reading\n\n`python3 benchmarks/reading.py`\n\nHow it was read.\n\nTwice.\n\n"
        "Measured 2026-11-21 on 2 processors, A chip, 4 GiB of memory, Linux 6.1, kvm, which had other work to do.\n\n"
        "Median:\n\n|  | s |\n| --- | --- |\n| warm | 0.5 |\n| cold |  |\n\n![Reading](reading.svg)\n\n"
        "Warm is faster.\n"
    )


@pytest.mark.parametrize("key", sorted(WHOLE))
def test_a_measurement_that_does_not_say_what_it_is_is_refused(tmp_path: Path, key: str) -> None:
    write(tmp_path, "no-such-script", {name: value for name, value in WHOLE.items() if name != key})
    with pytest.raises(ValueError, match=rf"benchmarks-no-such-script\.json does not say: {key}"):
        MADE["page"](tmp_path)


@pytest.mark.parametrize("key", ["processors", "model", "memory_gib", "kernel"])
def test_a_measurement_names_the_whole_machine(tmp_path: Path, key: str) -> None:
    assert isinstance(WHOLE["machine"], dict)
    machine = {name: value for name, value in WHOLE["machine"].items() if name != key}
    write(tmp_path, "no-such-script", WHOLE | {"machine": machine})
    with pytest.raises(ValueError, match=rf"benchmarks-no-such-script\.json does not say: machine's {key}"):
        MADE["page"](tmp_path)


SOME = r"(about|only|less than|under|a|an|half|few|some|one|two|three|four|five|six|seven|eight|nine|ten|twenty|thirty)"
MEASURED = re.compile(
    r"done in \d|\d ?(ms|s|KiB|MiB) each|\d (times|×) (as|the|faster|less)"
    r"|\d ?ms\b|\bcosts? (about |only )?\d|(tenth|hundredth)s? of a second|\d ?% (of|faster|slower|less)"
    r"|\b(takes?|took|needs?|in|within) (about |only )?\d+(\.\d+)? ?(ms|s|seconds|minutes)\b"
    rf"|\b(takes?|took|needs?|costs?|in|within) ({SOME} )*(milliseconds?|seconds?|minutes?|hours?)\b"
    rf"|\b({SOME} )+((kilo|mega|giga)bytes?|[KMG]iB)\b"
    r"|\b(half|a third|a quarter|a tenth|twice)( of)? the (time|room|size|memory|bytes)\b"
    r"|\b(twice|times) as (fast|slow|large|small|long)\b|within what can be measured|\(\d+ (seconds|minutes)",
    re.IGNORECASE,
).search


@pytest.mark.parametrize(
    "page",
    [
        TOP / "README.md",
        TOP / "CHANGELOG.md",
        TOP / "Makefile",
        *(it for it in (TOP / "docs").glob("*.md") if it.stem != "benchmarks"),
    ],
    ids=lambda page: page.name,
)
def test_no_other_page_has_figures_of_its_own(page: Path) -> None:
    typed = [line for line in page.read_text(encoding="utf-8").splitlines() if MEASURED(line)]
    assert not typed, "measure it, and link to docs/benchmarks.md"


@pytest.mark.parametrize(
    "line",
    [
        "done in 6 min",
        "200 KiB each",
        "20 times as fast",
        "it takes 0.9 s",
        "in 30 seconds",
        "12 ms",
        "would cost 10 s",
        "5 % less",
        "a running clone within seconds",
        "in a few minutes",
        "half a megabyte",
        "in less than half of the time",
        "twice as fast",
        "set up, then all tests (40 minutes)",
    ],
)
def test_a_figure_typed_by_hand_is_seen(line: str) -> None:
    assert MEASURED(line)


def test_extrapolated_figures_are_marked() -> None:
    def way(first_s: float, first_bytes: int, *tests_s: float) -> dict[str, object]:
        tests = [{"seconds": seconds, "bytes": 2**20} for seconds in tests_s]
        return {"first": {"seconds": first_s, "bytes": first_bytes}, "tests": tests}

    found = {
        "tests": 2,
        "each": way(0, 0, 60.0, 62.0),
        "once": way(100.0, 2**20, 30.0, 31.0),
    }
    section = runpy.run_path(str(TOP / "benchmarks/bootstrap_once.py"))["section"](found)
    (table,) = section["tables"]
    assert table["rows"][0] == ["2, measured", "122", "161", "2", "3"]
    assert table["rows"][2] == ["70, extrapolated", "4270", "2235", "70", "71"]
    assert section["notes"] == "70 tests: with the bootstrap in each, 1.9 times the time, extrapolated."

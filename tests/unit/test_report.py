"""The report of a night: the page, JUnit, the table."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

from junitparser import JUnitXml

from builder import report
from builder.nights import Night, Publication
from builder.verdicts import Check, Verdict
from tests.nights import sample

GOLDEN = Path(__file__).parent / "golden" / "night.txt"


class Page(HTMLParser):
    """What a browser would load, the tags, and the text that it would show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        self.loaded += [value for name, value in attrs if value and name in ("src", "href", "xlink:href", "action")]

    def handle_endtag(self, tag: str) -> None:
        while tag in self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if data.strip() and not {"style", "svg"} & set(self.open):
            self.words.append(" ".join(data.split()))


def page() -> Page:
    night, history = sample()
    return Page(report.html(night, history=history))


def test_the_page_says_what_it_said() -> None:
    """`GOLDEN.write_text(...)` by hand when it is to say something else."""
    assert "\n".join(page().words) + "\n" == GOLDEN.read_text(encoding="utf-8")


def test_the_page_loads_nothing() -> None:
    night, history = sample()
    text = report.html(night, history=history)
    found = Page(text)
    assert found.loaded == ["logs/upgrade.log", "logs/verify.log"]  # of this very night, beside the page
    assert not {"script", "link", "img", "iframe", "object"} & set(found.tags)
    assert not re.findall(r"@import|url\((?!#)", text)
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", text))
    assert addresses == {"http://www.w3.org/2000/svg", "http://mirror.example/repodata/repomd.xml"}


def test_what_comes_from_outside_is_never_markup() -> None:
    night, history = sample()
    text = report.html(night, history=history)
    assert "&lt;b&gt;tree&lt;/b&gt;.x86_64" in text
    assert "<b>tree" not in text
    assert "succeeds: &lt;raku&gt;" in text


def test_the_page_is_the_same_for_the_same_night() -> None:
    night, history = sample()
    assert report.html(night, history=history) == report.html(night, history=history)


def test_the_plots_show_every_night_and_every_image_in_a_colour_of_its_own() -> None:
    night, history = sample()
    plots = report.plots([*history, night])
    assert [title for title, _ in plots] == [
        "Size of each layer, MiB",
        "From the kernel's start to default.target, s",
        "Spent on building and verifying, min",
    ]
    root = ElementTree.fromstring(plots[0][1])
    dots = [node for node in root.iter() if (node.get("class") or "").startswith("dots")]
    assert len(dots) == 4 * 14
    shown = {node.text for node in root.iter() if node.tag.endswith("text")}
    assert {turn.image for turn in night.turns} <= shown


def test_a_first_night_has_no_trend() -> None:
    night, _ = sample()
    assert report.plots([night]) == []
    assert "There is one night so far" in report.html(night, history=[])


def test_many_images_leave_a_plot_that_can_be_read() -> None:
    night, history = sample(nights=3)
    turns = [turn.model_copy(update={"image": f"{turn.image}-{n}"}) for n in range(10) for turn in night.turns]
    many = [it.model_copy(update={"turns": tuple(turns)}) for it in (*history, night)]
    root = ElementTree.fromstring(report.plots(many)[0][1])
    legends = [node for node in root.iter() if node.get("class") == "legend reactive activate-serie"]
    assert len(legends) == 10


def test_junit_has_a_suite_for_each_image_with_its_tests(tmp_path: Path) -> None:
    night, history = sample()
    checks = (
        Check(name="no unit failed", result="passed", seconds=0.5),
        Check(name="command succeeds: raku", result="failed", message="exit 1\nno \x1b[31mraku"),
        Check(name="selinux is as declared", result="skipped", message="the guest has no SELinux"),
    )
    verdict = Verdict(
        image="sandbox-bootstrapped",
        version="20261114.1",
        sha256="0" * 64,
        passed=False,
        at="2026-11-14T02:10:00+00:00",
        seconds=44,
        boot_s=12,
        accelerator="kvm",
        promises="",
        tests=checks,
    )
    report.write(tmp_path, night, history=history, verdicts={"sandbox-bootstrapped": verdict})
    xml = JUnitXml.fromfile(str(tmp_path / "junit.xml"))
    assert {suite.name: (suite.tests, suite.failures, suite.skipped) for suite in xml} == {
        "sandbox-base": (1, 0, 0),
        "sandbox-upgrade": (1, 0, 0),
        "sandbox-bootstrapped": (4, 1, 1),
        "sandbox-tools-installed": (1, 0, 1),
        "publication": (1, 0, 0),
    }


def test_the_summary_counts_and_says_what_clients_get() -> None:
    night, _ = sample()
    assert report.summary(night) == "1 stands, 1 built, 1 failed, 1 held back; published to nightly"
    undone = Publication(channel="nightly", set={}, is_new=True, is_done=False)
    assert report.summary(night.model_copy(update={"publication": undone})).endswith("; NOT published to nightly")
    assert report.summary(night.model_copy(update={"publication": None})).endswith("; nothing to publish")
    empty = Night.model_validate(night.model_dump() | {"turns": (), "publication": None})
    assert report.summary(empty) == "no image; nothing to publish"


def test_the_table_says_why() -> None:
    night, _ = sample()
    assert [row[-1] for row in report.rows(night)] == [
        "nothing changed since 20261114.1",
        "repository updates changed",
        "failed: command succeeds: raku -e 'say 42'",
        "sandbox-bootstrapped is not good",
    ]


def test_in_a_narrow_window_a_row_is_a_block_whose_numbers_have_names() -> None:
    """There the head of the table is not shown."""
    night, history = sample()
    text = report.html(night, history=history)
    _, _, table = text.partition('<table class="images">')
    head, *rows = re.findall(r"<tr>(.*?)</tr>", table.partition("</table>")[0], flags=re.DOTALL)
    assert len(rows) == len(night.turns)
    named = re.findall(r"<th[^>]*>([^<]*)</th>", head)[4:]
    for row in rows:
        assert re.findall(r'<td class="number" data-name="([^"]*)"', row) == named == ["Size", "Boot", "Tests", "Time"]
    assert "@media (max-width: 640px)" in text

"""Readers of what others write say what is wrong, and nothing else: no traceback, no path outside."""

from __future__ import annotations

import copy
import io
import json
import socket
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder import cli, config, inputs, install, seal, supply, templates
from builder.channels import compose as composes
from builder.clones import saved
from builder.errors import ConfigError, ToolError, VerifyError
from builder.model import NAME, ImageId
from builder.tools import guestfs, kickstart
from builder.tools.console import Console
from builder.tools.domain import LABEL_NAMESPACE, read_label
from tests.fuzz.readers import READERS
from tests.fuzz.seeds import SEEDS

# Names and values as people with bad intentions, or bad luck, write them.
NASTY = [
    "", " ", "-rf", "--help", "../../etc/passwd", "/etc/passwd", "a b", 'a"b', "a'b", "a\nb", "a\0b", "$(reboot)",
    "%(reboot)", "{{ 7*7 }}", "ü\u202e\U0001f4a9", "\ud7ff", "x" * 300, "-1", "1e999", "9" * 30, "[", "]]>",
]  # fmt: skip


def words() -> st.SearchStrategy[bytes]:
    return st.sampled_from(NASTY).map(lambda text: text.encode()) | st.binary(max_size=40)


@st.composite
def spoiled(draw: st.DrawFn, seed: bytes) -> bytes:
    """Good input with pieces of it replaced, left out or doubled."""
    data = seed
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(data)))
        end = min(len(data), begin + draw(st.integers(0, 60)))
        data = data[:begin] + draw(words() | st.just(data[begin:end] * 2)) + data[end:]
    return data


@pytest.mark.parametrize("name", sorted(READERS))
def test_a_reader_has_good_input_to_begin_with(name: str, tmp_path: Path) -> None:
    READERS[name](SEEDS[name], tmp_path)


@pytest.mark.parametrize("name", sorted(READERS))
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_reader_only_says_what_is_wrong(name: str, data: st.DataObject, tmp_path: Path) -> None:
    READERS[name](data.draw(st.binary(max_size=200) | spoiled(SEEDS[name])), tmp_path)


def test_the_project_that_is_spoiled_is_a_good_one(tmp_path: Path) -> None:
    (tmp_path / "golden.toml").write_bytes(SEEDS["project"])
    assert set(config.load(tmp_path / "golden.toml").images) == {"sandbox-base", "sandbox-app"}


def toml(value: object) -> str:
    if isinstance(value, dict):
        pairs = [f"{json.dumps(key)} = {toml(it)}" for key, it in value.items()]
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value)


def spots(value: object, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The way to every value below."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, it in below:
        yield (*at, key)
        yield from spots(it, (*at, key))


STRANGE = [[], {}, [[]], [{}], {"": {}}, ["x", 1], 0, -1, 10**30, 1.5, True, "", "-", "x\n\u0000", "{el}", "a" * 300]


@pytest.mark.parametrize("reader", ["project", "tests_declaration"])
def test_any_value_may_be_of_any_kind(reader: str, tmp_path: Path) -> None:
    whole = tomllib.loads(SEEDS[reader].decode())
    found = list(spots(whole))
    assert len(found) > 5
    for spot in found:
        for strange in STRANGE:
            data = copy.deepcopy(whole)
            place: Any = data
            for key in spot[:-1]:
                place = place[key]
            place[spot[-1]] = strange
            text = "\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in data.items())
            READERS[reader](text.encode(), tmp_path)


@pytest.mark.parametrize("text", ["a = " + "[" * 5000, "a = " + "{a=" * 5000, "[" + "a." * 5000 + "a]"])
@pytest.mark.parametrize("reader", ["project", "tests_declaration"])
def test_what_is_nested_too_deeply_is_refused(reader: str, text: str, tmp_path: Path) -> None:
    READERS[reader](text.encode(), tmp_path)


def test_a_distribution_inherits_through_any_number_of_others(tmp_path: Path) -> None:
    lines = [f'[distribution.a{n}]\ninherits = "a{n + 1}"' for n in range(1500)]
    (tmp_path / "golden.toml").write_text("\n".join([*lines, '[distribution.a1500]\ninherits = "el9"']))
    assert config.load(tmp_path / "golden.toml").distributions["a0"].kickstart_version == "RHEL9"


# --- what was found once


def test_a_guest_cannot_fill_the_builders_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sparse file takes a block of the archive, whatever size it says that it has."""
    monkeypatch.setattr(guestfs, "OUTPUT_BYTES", 1000)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:") as archive:
        for number in range(50):
            member = tarfile.TarInfo(f"{number}")
            member.size = 100
            archive.addfile(member, io.BytesIO(bytes(100)))
    (tmp_path / "output").write_bytes(data.getvalue())
    assert sum(map(len, guestfs.read_output_disk(tmp_path / "output").values())) == 1000


def test_a_guests_list_of_packages_that_is_none(tmp_path: Path) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:") as archive:
        member = tarfile.TarInfo("packages")
        member.size = 8
        archive.addfile(member, io.BytesIO(b"nonsense"))
    (tmp_path / "output").write_bytes(data.getvalue())
    with pytest.raises(VerifyError, match="the guest's list of packages is none: 'nonsense' is not NAME"):
        seal.read_report(tmp_path / "output")


def test_a_repository_of_the_far_future_has_no_date(tmp_path: Path) -> None:
    for number in ("311111111111", "253402300800", "9" * 4000):
        READERS["repository"](f"<timestamp>{number}</timestamp>".encode(), tmp_path)
        assert inputs._made(f"<timestamp>{number}</timestamp>") == "of no date"
    assert inputs._made("<timestamp>253402300799</timestamp>") == "of 9999-12-31 23:59 UTC"


def test_a_long_word_that_is_no_name_is_refused_at_once() -> None:
    """The time went up with two to the power of its length."""
    assert NAME.fullmatch("2" * 5000 + "_") is None


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "x" * 300])
def test_a_tree_names_no_file_outside(tmp_path: Path, path: str) -> None:
    (tmp_path / ".treeinfo").write_text(f"[images-x86_64]\nkernel = {path}\n")
    with pytest.raises(ConfigError, match=f"is not whole: {path} is missing"):
        install.check_tree(tmp_path, "sandbox")


@pytest.mark.parametrize("text", [text for text in NASTY if text not in ("1e999", "9" * 30, "x" * 300)])
def test_no_name_of_a_build_leads_anywhere(text: str) -> None:
    good = {"image": "a-b", "version": "20261121.1", "sha256": "0" * 64}
    for key in good:
        with pytest.raises(ValueError, match="does not match"):
            ImageId.model_validate({**good, key: text})


def test_what_a_guest_says_last_moves_no_cursor(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"login: \x1b[2J\x1b[1;1Hgolden: all is well")
    console = Console(tmp_path / "log")
    console.poll()
    assert console.tail() == "login: golden: all is well"


def test_a_kickstart_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "own.ks").write_bytes(b"lang \xff\xfe\n")
    with pytest.raises(ConfigError, match=r"own\.ks could not be put together") as refused:
        kickstart.flatten(tmp_path / "own.ks")
    assert "cannot be read" in str(refused.value.problems[0])


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
@pytest.mark.parametrize("word", ["%include", "%ksappend"])
def test_a_kickstart_that_includes_what_no_file_can_be_called(tmp_path: Path, word: str, name: str) -> None:
    (tmp_path / "own.ks").write_bytes(f"{word} {name}\n".encode(errors="surrogatepass"))
    with pytest.raises(ConfigError, match=r"own\.ks could not be put together"):
        kickstart.flatten(tmp_path / "own.ks")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"{{ 1 / 0 }}", "division by zero"),
        (b"a\n{{ 'x' + 1 }}", 'can only concatenate str (not "int") to str'),
        (b"\xff", "'utf-8' codec can't decode byte 0xff"),
        (b"{% include 'a\0b' %}", "there is no template 'a\0b'"),
        (b"{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "maximum recursion depth"),
    ],
)
def test_what_a_projects_template_stumbles_over_is_said(tmp_path: Path, text: bytes, why: str) -> None:
    (tmp_path / "own.ks.j2").write_bytes(text)
    with pytest.raises(ConfigError, match=r"the template 'own\.ks\.j2' could not be rendered") as refused:
        templates.render(tmp_path, "own.ks.j2")
    assert why in refused.value.problems[0].what


def test_what_an_error_quotes_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    cli.print_error(ToolError("a\x1b[2Jb", details=[("agent", "one\ttwo\n\x1b]0;title\x07three\r\n")]))
    said = capsys.readouterr().err
    assert said == "golden: error: a\ufffd[2Jb\n  agent: one\ttwo\n         \ufffd]0;title\ufffdthree\n"


def test_a_guest_that_says_too_much_is_not_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved, "MIB", 1000)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(bytes(100_000))
        assert len(saved._read(ours, until=(b"golden",), timeout_s=60)) < 10_000


@pytest.mark.parametrize("line", ["", "..", "a/..", "20261121.1", "\0", "\ud800", "x" * 300])
def test_a_mirrorlist_that_leads_to_no_compose(tmp_path: Path, line: str) -> None:
    (tmp_path / "composes").mkdir()
    (tmp_path / "repodata").mkdir()
    (tmp_path / "mirrorlist").write_bytes(line.encode(errors="surrogatepass"))
    with pytest.raises(VerifyError, match="names a compose that is not there"):
        composes.current(tmp_path)


@pytest.mark.parametrize("line", ['sshkey --username=root "ssh-ed25519', "rootpw --lock 'x"])
def test_a_kickstart_with_half_a_quotation(line: str) -> None:
    with pytest.raises(ConfigError, match="is not valid for RHEL9") as refused:
        kickstart.validate(f"lang en_US\n{line}\n", version="RHEL9", name="own.ks")
    assert "No closing quotation" in str(refused.value.problems[0])


@pytest.mark.parametrize("inside", ["", "<g:machine/>", '<g:machine purpose="x" owner="1" work="/"/>', "<g:machine>"])
def test_a_machine_that_is_not_goldens_has_no_label(inside: str) -> None:
    assert read_label(f'<domain xmlns:g="{LABEL_NAMESPACE}"><metadata>{inside}</metadata></domain>') is None


@pytest.mark.parametrize("address", ["candidate", "", "-rf", "file:///etc", "../channels/candidate"])
def test_what_is_no_address_of_a_channel_is_not_asked(address: str) -> None:
    with pytest.raises(ConfigError, match="is no address of a channel"):
        supply.survey(address, ["a-b"], signer=None, note=print)


@pytest.mark.parametrize(
    "text",
    [
        "{{ cycler.__init__.__globals__.os.system('touch %s') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{%% set x = lipsum.__globals__ %%}{{ x['os'].popen('touch %s').read() }}",
        "{%% include '../../../../../../etc/passwd' %%}",
        "{%% include '/etc/passwd' %%}",
    ],
)
def test_a_projects_template_runs_nothing_and_reads_nothing_elsewhere(tmp_path: Path, text: str) -> None:
    made = tmp_path / "made"
    (tmp_path / "own.ks.j2").write_text(text % made if "%s" in text else text.replace("%%", "%"))
    with pytest.raises(ConfigError, match=r"the template 'own\.ks\.j2' could not be rendered"):
        templates.render(tmp_path, "own.ks.j2")
    assert not made.exists()

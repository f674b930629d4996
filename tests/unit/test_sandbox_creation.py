"""Creating the sandbox: what stops it before anything is made, what a failure leaves, when there is nothing to do."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from builder.errors import HostError, ToolError
from builder.progress import Reporter
from builder.sandbox import creation, debian, host, stamp


@pytest.fixture
def reporter() -> Reporter:
    return Reporter("quiet")


@pytest.fixture
def debian_12(monkeypatch: pytest.MonkeyPatch) -> None:
    is_host(monkeypatch, ID="debian", VERSION_ID="12")


def is_host(monkeypatch: pytest.MonkeyPatch, **release: str) -> None:
    monkeypatch.setattr(host.platform, "freedesktop_os_release", lambda: release)


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ({"ID": "rocky", "VERSION_ID": "9.4"}, "rocky 9.4"),
        ({"ID": "debian", "VERSION_ID": "13"}, "debian 13"),
        ({"ID": "debian"}, "debian"),
    ],
)
def test_another_host_is_told_that_debian_12_is_needed(
    monkeypatch: pytest.MonkeyPatch, release: dict[str, str], name: str
) -> None:
    is_host(monkeypatch, **release)
    with pytest.raises(HostError, match=f"can be made on Debian 12 only, and this host is '{name}'"):
        host.check()


def test_a_host_that_does_not_say_what_it_is_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> dict[str, str]:
        raise FileNotFoundError

    monkeypatch.setattr(host.platform, "freedesktop_os_release", unknown)
    with pytest.raises(HostError, match="this host is 'unknown'"):
        host.check()


@pytest.mark.usefixtures("debian_12")
def test_all_missing_programs_are_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match=r"programs are missing .*createrepo_c.*mksquashfs.*xorriso") as caught:
        host.check()
    assert caught.value.try_next is not None
    assert caught.value.try_next.startswith("apt-get install apt createrepo-c")


@pytest.mark.usefixtures("debian_12")
def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.run, "has_program", lambda _name: True)
    monkeypatch.setattr(host.os, "geteuid", lambda: 1000)
    with pytest.raises(HostError, match="making the sandbox needs root"):
        host.check()


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that has everything."""
    monkeypatch.setattr(host, "check", lambda: None)
    monkeypatch.setattr(stamp, "quick", lambda: "quick")


@pytest.mark.usefixtures("ready")
def test_a_failure_leaves_the_logs_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reporter: Reporter
) -> None:
    def fails(_roots: list[str], *, status: Path) -> dict[str, str]:
        log = status.parent / "logs/download.log"
        log.write_text("the mirror is on fire\n")
        raise ToolError("could not download the sandbox's Debian packages", log=log)

    monkeypatch.setattr(debian, "resolve", fails)
    with pytest.raises(ToolError, match="could not download") as caught:
        creation.create(tmp_path / "sandbox", cache=tmp_path / "cache", reporter=reporter)
    assert [path.name for path in tmp_path.iterdir()] == ["sandbox.failed-logs"]
    assert caught.value.log == tmp_path / "sandbox.failed-logs/download.log"
    assert caught.value.log.read_text() == "the mirror is on fire\n"


@pytest.mark.usefixtures("ready")
def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reporter: Reporter) -> None:
    def interrupted(_roots: list[str], *, status: Path) -> dict[str, str]:
        (status.parent / "logs/download.log").write_text("half of it\n")
        raise KeyboardInterrupt

    monkeypatch.setattr(debian, "resolve", interrupted)
    with pytest.raises(KeyboardInterrupt):
        creation.create(tmp_path / "sandbox", cache=tmp_path / "cache", reporter=reporter)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("ready")
def test_without_room_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reporter: Reporter) -> None:
    monkeypatch.setattr(creation, "_NEEDED_BYTES", 2**60)
    with pytest.raises(HostError, match=r"making the sandbox needs 1048576\.0 TiB on the disk of .*are free"):
        creation.create(tmp_path / "sandbox", cache=tmp_path / "cache", reporter=reporter)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("ready")
def test_a_place_where_no_folder_can_be_made_is_named(tmp_path: Path, reporter: Reporter) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match=r"could not make a folder in .*/file: (File exists|Not a directory)"):
        creation.create(tmp_path / "file" / "sandbox", cache=tmp_path / "cache", reporter=reporter)


def finished(folder: Path, *, quick: str, full: str) -> Path:
    """A folder as `create` leaves it."""
    for name in ("sandbox.iso", "updates/repodata/repomd.xml", "golden.toml", "keys/id_ed25519"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    stamp.write(folder, stamp.Stamp(quick, full, stamp.measure(folder), 22, 15))
    return folder


@pytest.mark.usefixtures("ready")
def test_nothing_is_done_when_nothing_changed(tmp_path: Path, reporter: Reporter) -> None:
    folder = finished(tmp_path / "sandbox", quick="quick", full="full")
    made = creation.create(folder, cache=tmp_path / "cache", reporter=reporter)
    assert (made.is_new, made.base_packages, made.update_packages) == (False, 22, 15)
    assert reporter.times == []


@pytest.mark.usefixtures("ready")
def test_new_lists_with_the_same_answer_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reporter: Reporter
) -> None:
    folder = finished(tmp_path / "sandbox", quick="yesterday's", full="full")
    monkeypatch.setattr(debian, "resolve", lambda _roots, *, status: {"bash": f"bash_1_amd64.deb{status.name[:0]}"})
    monkeypatch.setattr(stamp, "full", lambda _files: "full")
    assert not creation.create(folder, cache=tmp_path / "cache", reporter=reporter).is_new
    assert stamp.matches(folder, quick="quick", full="full") is not None


def test_a_damaged_part_or_stamp_does_not_count(tmp_path: Path) -> None:
    folder = finished(tmp_path / "sandbox", quick="q", full="f")
    assert stamp.matches(folder, quick="q") is not None
    assert stamp.matches(folder, quick="other") is None
    assert stamp.matches(folder, full="other") is None
    (folder / "sandbox.iso").write_text("cut")
    assert stamp.matches(folder, quick="q") is None
    (folder / ".stamp.json").write_text(json.dumps({"quick": "q"}))
    assert stamp.read(folder) is None


def test_the_full_stamp_follows_the_package_versions() -> None:
    one = stamp.full({"bash": "bash_5.2-1_amd64.deb"})
    assert one == stamp.full({"bash": "bash_5.2-1_amd64.deb"})
    assert one != stamp.full({"bash": "bash_5.2-2_amd64.deb"})


def test_the_first_failure_in_parallel_goes_up_and_stops_the_rest() -> None:
    ran = []
    begun = threading.Event()

    def fails() -> None:
        begun.set()
        raise ToolError("could not build the RPM coreutils")

    def follows() -> None:
        ran.append(begun.wait(timeout=60))

    with pytest.raises(ToolError, match="could not build the RPM coreutils"):
        creation.in_parallel([fails, *[follows] * 50])
    assert all(ran)

"""The serial console: its lines, and the ones after which waiting is no use."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.tools.console import GUEST_FATAL, Console, find_fatal


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("[    1.2] Kernel panic - not syncing: VFS: Unable to mount root fs", "the kernel panicked"),
        ("Traceback (most recent call last):", "the installer crashed"),
        ("Pane is dead (status 1, Sat Nov 21 11:00:00 2026)", "the installer crashed"),
        ("OSError: [Errno 28] No space left on device", "a disk of the guest is full"),
        (
            "The following problem occurred on line 12 of the kickstart file:",
            "the installer refused the kickstart",
        ),
        ("There was an error running the kickstart script at line 31.", "a script of the kickstart failed"),
        (
            "Error code 1 running the kickstart script at line 40",
            "a script of the kickstart failed",
        ),
        ("The following error occurred while installing. This is a fatal error", "the installation failed"),
        (
            "Please make a selection from the above ['b' to begin installation, 'q' to quit,",
            "the installer waits for somebody to answer",
        ),
        ("Press ENTER to continue:", "the installer waits for somebody to answer"),
        ("You are in emergency mode.", "the guest came no further than its emergency shell"),
    ],
)
def test_fatal_lines(line: str, kind: str) -> None:
    fatal = find_fatal(line)
    assert fatal is not None
    assert fatal.kind == kind


@pytest.mark.parametrize(
    "line",
    [
        "Installing bash.x86_64 (3/12)",
        "[    0.1] Kernel command line: panic=-1 console=ttyS0",
        "Running post-installation scripts",
        "systemd[1]: Reached target emergency-preparation",
        "Starting automated install...",
    ],
)
def test_ordinary_lines(line: str) -> None:
    assert find_fatal(line) is None


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("[    1.2] Kernel panic - not syncing: VFS: Unable to mount root fs", "the kernel panicked"),
        ("You are in emergency mode. After logging in", "the guest came no further than its emergency shell"),
        ("ALERT!  UUID=1234 does not exist.  Dropping to a shell!", "the guest did not find its root file system"),
        ("No bootable device.", "the guest found nothing to boot from"),
    ],
)
def test_what_a_running_guest_does_not_come_back_from(line: str, kind: str) -> None:
    fatal = find_fatal(line, GUEST_FATAL)
    assert fatal is not None
    assert fatal.kind == kind


@pytest.mark.parametrize(
    "line",
    [
        "cloud-init[512]: Traceback (most recent call last):",
        "dockerd[99]: write /var/lib/x: No space left on device",
        "monitor[7]: Unknown command: status",
        "Please make a selection from the above",
        "[   12.1] BUG: soft lockup - CPU#0 stuck for 22s!",
    ],
)
def test_what_services_of_a_running_guest_say(line: str) -> None:
    assert find_fatal(line, GUEST_FATAL) is None


def test_lines_come_as_they_are_written(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    console = Console(log)
    assert console.poll() == []
    log.write_bytes(b"one\r\n\x1b[1;32mtwo\x1b[0m\r\nthr")
    assert console.poll() == ["one", "two"]
    with log.open("ab") as stream:
        stream.write(b"ee\n\n")
    assert console.poll() == ["three"]
    assert console.last_line == "three"


def test_a_log_that_is_rotated_is_followed(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    console = Console(log)
    log.write_bytes(b"old line\n")
    console.poll()
    log.rename(tmp_path / "console.log.0")
    log.write_bytes(b"new\n")
    assert console.poll() == ["new"]


def test_a_question_without_a_line_end_is_seen(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(b"Installation\r\n\r\nPlease make a selection from the above ['c' to continue, 'q' to quit]: ")
    console = Console(log)
    console.poll()
    assert console.fatal is not None
    assert console.fatal.kind == "the installer waits for somebody to answer"
    assert console.tail().startswith("Please make a selection")


def test_the_tail_begins_with_the_fatal_line(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_text("".join(f"line {n}\n" for n in range(50)) + "Traceback (most recent call last):\n  boom\n")
    console = Console(log)
    console.poll()
    assert console.tail() == "Traceback (most recent call last):\nboom"


def test_bytes_that_are_no_text_do_no_harm(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(bytes(range(256)) * 20 + b"\nKernel panic - not syncing\n")
    console = Console(log)
    console.poll()
    assert console.fatal is not None

"""What is tried again, and what is not."""

from __future__ import annotations

import pytest

from builder.causes import cause_of, may_pass


@pytest.mark.parametrize(
    ("exit_code", "text", "cause"),
    [
        (3, "could not lock the project's store /x: another golden is at work on it", "lock"),
        (4, "could not read the package repository 'updates'\n  reason: 503 Server Error", "mirror"),
        (4, "could not run step\n  output: Error: Failed to download metadata for repo 'golden-updates'", "mirror"),
        (4, "could not fetch the DVD\n  reason: Connection reset by peer", "network"),
        (4, "curl: (6) Could not resolve host: mirror.example", "network"),
        (4, "could not install: a script of the kickstart failed\n  output: Curl error", "kickstart"),
        (4, "could not run step 2 (shell) in the guest\n  output: curl: (6) Could not resolve host", "script"),
        (4, "could not run 1-run on 'x'\n  during: /steps/1-run.sh\n  output: Connection timed out", "script"),
        (5, "'x' is not what it promises\n  failed: command succeeds: curl\n  Could not resolve host", "verify"),
        (2, "golden.toml has a problem: Connection refused", "config"),
        (3, "this machine lacks virt-install", "machine"),
        (4, "could not compress: exit 1", "tool"),
        (1, "Traceback", "tool"),
        (130, "golden: interrupted", "interrupted"),
    ],
)
def test_a_failure_has_a_cause(exit_code: int, text: str, cause: str) -> None:
    assert cause_of(exit_code, text) == cause
    assert may_pass(cause_of(exit_code, text)) == (cause in ("lock", "mirror", "network"))

"""A night in which everything happened, and the nights before it."""

from __future__ import annotations

import math

from builder.nights import Attempt, Night, Publication, Turn
from builder.packages import Change
from builder.units import MIB

CHANGES = (
    Change(kind="upgraded", name="sandbox-release.noarch", before="9.1-1", after="9.2-1"),
    Change(kind="added", name="jq.x86_64", before=None, after="1.6-2"),
    Change(kind="removed", name="<b>tree</b>.x86_64", before="2.1-1", after=None),
)


def sample(nights: int = 14) -> tuple[Night, list[Night]]:
    """The last night and those before it, oldest first; always the same."""
    found = [_quiet(number) for number in range(nights - 1)]
    return _last(nights - 1), found


def _turn(image: str, parent: str | None, night: int, *, mib: float, boot_s: float) -> Turn:
    is_built = (night + len(image)) % 3 == 0
    return Turn(
        image=image,
        parent=parent,
        outcome="built" if is_built else "stands",
        reason="repository updates changed" if is_built else f"nothing changed since 202611{night + 1:02d}.1",
        version=f"202611{night + 1:02d}.1",
        before=f"202611{night:02d}.1" if is_built else None,
        size_bytes=int((mib + night * mib / 60) * MIB),
        build_s=95.0 + 20 * math.sin(night) if is_built else None,
        verify_s=41.5 if is_built else None,
        boot_s=boot_s + math.sin(night * 2 + mib),
        checks=14,
    )


def _quiet(night: int) -> Night:
    return Night(
        project="demo",
        version=f"202611{night + 1:02d}.1",
        started=f"2026-11-{night + 1:02d}T02:00:00+00:00",
        seconds=400 + 30 * night,
        accelerator="kvm",
        exit_code=0,
        turns=(
            _turn("sandbox-base", None, night, mib=180, boot_s=11),
            _turn("sandbox-upgrade", "sandbox-base", night, mib=64, boot_s=12),
            _turn("sandbox-bootstrapped", "sandbox-upgrade", night, mib=22, boot_s=13),
            _turn("sandbox-tools-installed", "sandbox-upgrade", night, mib=4, boot_s=14),
        ),
        publication=Publication(channel="nightly", set={"sandbox-base": "20261101.1"}, is_new=night % 2 == 0),
    )


def _last(night: int) -> Night:
    quiet = _quiet(night)
    base, upgrade, bootstrapped, tools = quiet.turns
    error = (
        "'sandbox-bootstrapped-20261114.1' is not what it promises: a test failed\n  failed: command succeeds: <raku>"
    )
    mirror = "could not read the package repository 'updates'\n  address: http://mirror.example/repodata/repomd.xml"
    return quiet.model_copy(
        update={
            "exit_code": 5,
            "turns": (
                base.model_copy(update={"outcome": "stands", "build_s": None, "verify_s": None}),
                upgrade.model_copy(
                    update={
                        "outcome": "built",
                        "build_s": 88.0,
                        "verify_s": 40.0,
                        "reason": "repository updates changed",
                        "before": "20261113.1",
                        "changes": CHANGES,
                        "attempts": (Attempt(step="build", cause="mirror", error=mirror, log="logs/upgrade.log"),),
                    }
                ),
                bootstrapped.model_copy(
                    update={
                        "outcome": "failed",
                        "build_s": 71.0,
                        "verify_s": 44.0,
                        "reason": "sandbox-upgrade was built",
                        "failed": ("command succeeds: raku -e 'say 42'",),
                        "attempts": (Attempt(step="verify", cause="verify", error=error, log="logs/verify.log"),),
                    }
                ),
                tools.model_copy(
                    update={"outcome": "held back", "reason": "sandbox-bootstrapped is not good", "build_s": None}
                ),
            ),
            "publication": Publication(
                channel="nightly",
                set={"sandbox-base": "20261114.1", "sandbox-upgrade": "20261114.1"},
                is_new=True,
                steps=("package", "publish", "promote"),
            ),
        }
    )

"""What golden's commands survive: `make torture` (tests/torture) measures it. Here is how it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import figure

ABOUT = """
Each command of golden's that writes is run once undisturbed, and then ended again and again: at the places where
something becomes visible to others, at random times, and in want of room, of open files and of large ones, or beside
itself; all of that in an order that is random, until there is nothing left or the time is over. What is struck is
golden, a program that it started, libvirtd, or the QEMU of a machine. After each: every channel is checked by golden,
and the real dnf installs all of it into an empty root, where rpm verifies it; every build is read; no process, mount
or lock is left. Then the command is run again, and its result has to be that of the undisturbed run.

Real are golden, qemu-img, rpmbuild, rpmsign, gpg, createrepo_c, dnf, libvirtd and QEMU, in a world of mounts and
processes of their own. Stand-ins are the images (a few hundred KiB, with no operating system in them), virt-install,
virt-customize and ssh."""


def section(found: Mapping[str, Any]) -> dict[str, Any]:
    """For docs/benchmarks.md, see page.py. found: what tests/torture/report.py says."""
    head = ("tried", "survived")
    return {
        "title": "What golden's commands survive",
        "about": ABOUT,
        "tables": [
            {"title": "By command", "head": ["command", *head], "rows": counted(found["trials"], "scenario")},
            {"title": "By what happened", "head": ["", *head], "rows": counted(found["trials"], "kind")},
        ],
        "plots": ["benchmarks-torture.svg"],
        "notes": f"Seed {found['seed']}: {verdict(found)}.",
    }


def verdict(found: Mapping[str, Any]) -> str:
    tried, survived = found["tried"], found["survived"]
    left = found["planned"] - found["missed"] - tried
    return (
        f"{tried} trials at {found['places']} places in {found['seconds']:.0f} s: {survived} survived, "
        f"{tried - survived} did not; {f'there was no time for {left} more' if left else 'nothing was left out'}; "
        f"{found['missed']} came when the command was over; dnf installed {found['dnf_installations']} states of "
        "channels"
    )


def counted(trials: Sequence[Mapping[str, Any]], key: str) -> list[tuple[str, int, int]]:
    """What trials have as `key` -> how many were tried and survived; in the order of the words."""
    found = []
    for name in sorted({it[key] for it in trials}):
        mine = [it for it in trials if it[key] == name]
        found.append((name, len(mine), sum(not it["wrong"] for it in mine)))
    return found


def plot(found: Mapping[str, Any], target: Path) -> None:
    """What survived, and what did not, of each command."""
    rows = list(reversed(counted(found["trials"], "scenario")))
    with figure(target, (8, 0.8 + 0.25 * len(rows))) as (_, axis):
        names, tried, survived = zip(*rows, strict=True)
        axis.barh(names, survived, label="survived")
        axis.barh(names, [all_ - well for all_, well in zip(tried, survived, strict=True)], left=survived, label="not")
        axis.set_xlabel("trials")
        axis.legend()

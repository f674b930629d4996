"""What golden's commands survive: `make torture` (tests/torture) measures it. Here is how it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import figure

ABOUT = """
Each command in the first table is run once undisturbed, which tells the places it comes to: where something becomes
visible to others, and where a program is started. Then it is run again and again from the same state, and one thing
happens each time. At a place: SIGKILL, SIGTERM or SIGINT for golden, or for the program that was just started (of
packages, rpmbuild); no space left, as the system says it; SIGKILL for golden and the host rebooted, where every process
ends, libvirt forgets what ran, and the boot is another one, but what was written is there (no power is cut). If
machines of libvirt's are part of the command, also: SIGKILL or SIGTERM for libvirtd; SIGTERM for it and its start, as
of `systemctl restart`, while golden stands still; SIGKILL or SIGTERM for the machine's QEMU. At random times: the same
for golden, for a program of its, libvirtd, QEMU or the host. Of a night, which runs golden commands, the places are
those at which it starts each of them. Besides: little room, a read-only store, limits of open files and of the size of
files, a clock that went back, and others at once: the same command twice and five times; and, as a row of its own,
publish, build, clone create and collect at once.

At first comes what is the first trial of its kind of fault for a command, or of a signal for a program, and then
whatever is left, in an order that the seed says, until the time is over. After each trial: every channel is checked by
golden, and the real dnf installs all of it into an empty root, where rpm verifies it; every build is read; no process,
mount or lock is left. Then the command is run again, after what it says to type if it says so, and its result has to be
that of the undisturbed run.

Real are golden, qemu-img, rpmbuild, rpmsign, gpg, createrepo_c, dnf, rsync, libvirtd and QEMU, in a world of mounts and
processes of their own. Stand-ins are the images (small, with no operating system in them), virt-install, virt-customize
and ssh, and for `golden step` the verification. Commands that need a guest that answers are not tried: verify, bisect,
test, validate, sparrowdo, shell; nor pools of clones."""

_JOURNAL = (
    " It went on from a journal: the trials are of several runs, and what failed was tried again on the mended code."
)


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
        "notes": f"Seed {found['seed']}: {verdict(found)}.{_JOURNAL if '--journal' in found['command'] else ''}",
    }


def verdict(found: Mapping[str, Any]) -> str:
    tried, survived = found["tried"], found["survived"]
    left = found["planned"] - found["missed"] - tried
    covered = len(found.get("pairs_covered", ()))
    pairs = covered + len(found.get("pairs_left", ()))
    of_pairs = f"{covered} of the {pairs} pairs of a command and a kind of fault, or of a program and a signal"
    return (
        f"{tried} trials at {found['places']} places, of {found['seconds']:.0f} s in all: {survived} survived, "
        f"{tried - survived} did not; {f'there was no time for {left} more' if left else 'nothing was left out'}; "
        f"{found['missed']} came when the command was over; dnf installed {found['dnf_installations']} states of "
        f"channels{f'. The trials are of {of_pairs}' if pairs else ''}"
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

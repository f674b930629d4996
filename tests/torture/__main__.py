"""`python -m tests.torture`: run the campaign and report. Ends with 1 if something did not survive."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.conditions import Run
from tests.torture import world
from tests.torture.campaign import Campaign
from tests.torture.plans import KINDS
from tests.torture.report import Journal, Report, table
from tests.torture.scenarios import SCENARIOS, SHORT


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a few places of each command, and no others")
    parser.add_argument("--rounds", type=int, default=10, help="times that each command is ended at random (10)")
    parser.add_argument("--minutes", type=float, default=25, help="no trial begins later (25)")
    parser.add_argument("--seed", type=int, default=None, help="of what is random")
    parser.add_argument("--only", action="append", choices=[it.name for it in SCENARIOS], help="this command alone")
    parser.add_argument("--kind", action="append", choices=KINDS, help="only faults at places, lacks, random ends")
    parser.add_argument(
        "--jobs", type=int, default=1, help="parts of the campaign side by side, in worlds of their own (1)"
    )
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write the report there")
    parser.add_argument(
        "--journal", type=Path, help="note each trial there; those that are there, of a run before, are not tried again"
    )
    words = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("the campaign makes mounts and processes of its own, for which it has to be root")
    journal = Journal(words.journal)
    known = journal.seed()
    if None not in (known, words.seed) and known != words.seed:
        parser.error(f"the trials in {words.journal} are of the seed {known}")
    seed = next(it for it in (known, words.seed, random.SystemRandom().randrange(10**6)) if it is not None)
    journal.begin(seed)
    if words.jobs > 1:
        run = Run()
        return _tell(_side_by_side(words.jobs, seed), seed, words.json, run)
    world.enter()
    folder = Path(tempfile.mkdtemp(prefix="golden-torture-", dir="/var/tmp"))
    run = Run(folder)
    try:
        campaign = Campaign(
            folder,
            seed=seed,
            part=tuple(words.part),
            kinds=words.kind or KINDS,
            is_short=words.short,
            rounds=words.rounds,
            limit_s=words.minutes * 60,
        )
        names = words.only or (SHORT if words.short else [it.name for it in SCENARIOS])
        wanted = [it for it in SCENARIOS if it.name in names]
        report = campaign.carry_out(wanted, before=journal.trials(), note=journal.note)
    finally:
        world.leave(folder)
        shutil.rmtree(folder, ignore_errors=True)
    return _tell(report, seed, words.json, run)


def _side_by_side(jobs: int, seed: int) -> Report:
    """Each in a process of its own, with the words of this one."""
    with tempfile.TemporaryDirectory(prefix="golden-torture-") as folder:
        files = [Path(folder) / f"{number}.json" for number in range(jobs)]
        started = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.torture", *sys.argv[1:], "--jobs", "1", "--seed", str(seed)),
                    *("--part", str(number), str(jobs), "--json", file),
                ],
                stdout=subprocess.DEVNULL,
            )
            for number, file in enumerate(files)
        ]
        for process in started:
            process.wait()
        if not all(file.exists() for file in files):
            raise SystemExit("a part of the campaign did not come to its end; what it said is above")
        return Report.of_parts([json.loads(file.read_text()) for file in files])


def _tell(report: Report, seed: int, file: Path | None, run: Run) -> int:
    if file:
        places = {"--json": "docs/benchmarks-torture.json", "--journal": "JOURNAL"}
        words = [places.get(before, word) for before, word in itertools.pairwise(sys.argv)]
        command = f"python3 -m tests.torture {shlex.join(words)}"
        found = {**run.said(), "command": command, "seed": seed, **report.as_json()}
        trials = ",\n".join(f"  {json.dumps(it)}" for it in found.pop("trials"))
        # A line for each trial.
        file.write_text(f'{json.dumps(found, indent=1)[:-2]},\n "trials": [\n{trials}\n ]\n}}\n')
    print(f"seed {seed}\n{table(report)}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""What does a night cost in which nothing changed? `golden plan` and `golden nightly`, of catalogues of several sizes.

    PYTHONPATH=. python3 benchmarks/plan.py --output docs/benchmarks-plan.json

Makes a project of trees of ten images (a base, an upgrade on it, eight layers on that, most of which install packages
from two repositories, one copies a folder of files) and a store with a build of each, whose files have a size but no
data; each is verified, and all were published by the night before. Then runs the command line as a person does and
takes the wall clock, start of Python included. The first plan reads every image file, since nothing is known of it;
the others only look at each. QEMU and libguestfs are put out of reach, so that a run that would start a machine fails.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.conditions import Run
from benchmarks.results import figure, leave, times
from builder import nights, verdicts
from builder.config import load
from builder.decision import Decision
from builder.model import Build, ImageId
from builder.nights import Publication
from builder.promises import promises
from builder.store import Store
from builder.verdicts import Check, Verdict

SIZES = (10, 40, 200, 1000)
NIGHT = 40
TREE = 10
KIB = 1024
MTIME_NS = 1_700_000_000_000_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="images in the catalogue")
    parser.add_argument("--image-kib", type=int, default=256, help="size of each image file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"), help="where the projects are made and removed")
    parser.add_argument("--output", type=Path, help="write the JSON here, too, and a plot beside it (needs matplotlib)")
    options = parser.parse_args()
    run, rows = Run(), []
    for size in options.sizes:
        with tempfile.TemporaryDirectory(prefix="golden-plan-", dir=options.work) as folder:
            rows.append(measure(Path(folder), size, rounds=options.rounds, image_bytes=options.image_kib * KIB))
    found = {
        "image_kib": options.image_kib,
        "rows": rows,
        "rounds": options.rounds,
        "night": night(options.work, rounds=options.rounds),
    }
    leave(found | run.said(), options.output, plot=plot)


def measure(folder: Path, images: int, *, rounds: int, image_bytes: int) -> dict[str, object]:
    file = make_project(folder, images)
    state = folder / "state"
    make_store(file, state, image_bytes=image_bytes)
    first = seconds(file, state, "plan", "--json")
    plans = [seconds(file, state, "plan", "--json") for _ in range(rounds)]
    why = [seconds(file, state, "why", "d0-l7") for _ in range(rounds)]
    touch_repository(folder / "updates")
    changed = [seconds(file, state, "plan", "--json", rebuilds=True) for _ in range(rounds)]
    return {
        "images": images,
        "first plan, every file read, s": round(first, 2),
        "nothing changed, s": round(statistics.median(plans), 2),
        "a repository changed, s": round(statistics.median(changed), 2),
        "why of one image, s": round(statistics.median(why), 2),
    }


def night(work: Path, *, rounds: int) -> dict[str, object]:
    """A whole `golden nightly` in which nothing changed, with its report."""
    with tempfile.TemporaryDirectory(prefix="golden-plan-", dir=work) as folder:
        file, state = make_project(Path(folder), NIGHT), Path(folder) / "state"
        make_store(file, state, image_bytes=KIB)
        seconds(file, state, "plan", "--json")
        taken = [seconds(file, state, "nightly", "--json") for _ in range(rounds)]
    return {"images": NIGHT, "seconds": round(statistics.median(taken), 2), "longest_s": round(max(taken), 2)}


def seconds(file: Path, state: Path, *words: str, rebuilds: bool = False) -> float:
    """Wall clock of one command. Fails if it says anything else than that all is there, or that something is not."""
    environment = os.environ | {"GOLDEN_FILE": str(file), "GOLDEN_STATE": str(state), "PATH": "/nowhere"}
    begin = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "builder", *words], env=environment, capture_output=True, text=True, check=True
    )
    taken = time.monotonic() - begin
    if words[0] == "plan":
        actions = {step["action"] for step in json.loads(ended.stdout)}
        expected = {"reuse", "rebuild"} if rebuilds else {"reuse"}
        if actions != expected:
            sys.exit(f"the plan should hold {expected}, and holds {actions}")
    if words[0] == "nightly":
        night = json.loads(ended.stdout)
        if {turn["outcome"] for turn in night["turns"]} != {"stands"} or night["publication"]["is_new"]:
            sys.exit("nothing changed, and the night did something")
    return taken


def make_project(folder: Path, images: int) -> Path:
    for name in ("updates", "extras"):
        touch_repository(folder / name)
    (folder / "files").mkdir()
    for number in range(50):
        (folder / "files" / f"{number}.conf").write_text(f"number = {number}\n" * 100)
    (folder / "id.pub").write_text("ssh-ed25519 AAAA golden\n")
    lines = ['[project]\nname = "demo"\nssh_key = "id"\n']
    for tree in range(images // TREE):
        lines.append(
            f'[distribution.d{tree}]\ninherits = "el9"\nsource = {{ url = "http://mirror.example/{tree}" }}\n'
            'repositories = { updates = "updates", extras = "extras" }\n'
            f'[image.d{tree}-base]\ndistribution = "d{tree}"\n'
            f'[image.d{tree}-upgrade]\nparent = "d{tree}-base"\nsteps = [{{ upgrade = true }}]\n'
        )
        for layer in range(TREE - 2):
            step = '{ copy = { "files" = "/opt/files" } }' if layer == 0 else f'{{ install = ["p{layer}"] }}'
            lines.append(f'[image.d{tree}-l{layer}]\nparent = "d{tree}-upgrade"\nsteps = [{step}]\n')
    file = folder / "golden.toml"
    file.write_text("".join(lines))
    return file


def touch_repository(folder: Path) -> None:
    (folder / "repodata").mkdir(parents=True, exist_ok=True)
    (folder / "repodata" / "repomd.xml").write_text(f"<repomd><timestamp>{time.time_ns()}</timestamp></repomd>")


def make_store(file: Path, state: Path, *, image_bytes: int) -> None:
    """A build of every image, as a night before would have left it."""
    project = load(file)
    store = Store(state, project.name)
    store.images.mkdir(parents=True)
    digest = hashlib.sha256(bytes(image_bytes)).hexdigest()
    made: dict[str, Build] = {}
    for step in Decision(project, store, project.images).plan():
        build = Build(
            id=ImageId(image=step.image, version="20261121.1", sha256=digest),
            parent=made[step.parent].id if step.parent else None,
            distribution=project.images[step.image].distribution,
            description="",
            key=step.key,
            inputs=step.inputs,
            texts=step.texts,
            size_bytes=image_bytes,
            virtual_bytes=image_bytes,
            packages=1,
            packages_sha256="",
            memory_mib=1,
            cpus=1,
            accelerator="tcg",
            started="2026-11-21T02:00:00+00:00",
            finished="2026-11-21T02:10:00+00:00",
            times=(),
            commands=("a command of some length that was run to make this image",) * 20,
            tools={},
        )
        made[step.image] = build
        with store.qcow2(build).open("wb") as stream:
            stream.truncate(image_bytes)
        os.utime(store.qcow2(build), ns=(MTIME_NS, MTIME_NS))
        store.facts(build).write_text(build.model_dump_json(indent=2))
        verdict = Verdict(
            image=step.image,
            version=build.version,
            sha256=digest,
            passed=True,
            at=build.finished,
            seconds=60,
            boot_s=20,
            accelerator="tcg",
            promises=promises(project, step.image).digest(),
            tests=tuple(Check(name=f"test {number}", result="passed") for number in range(10)),
        )
        verdicts.write(store, verdict, build)
    version, _ = nights.begin(store)
    night = nights.Night(
        project=project.name,
        version=version,
        started="2026-11-21T02:00:00+00:00",
        seconds=600,
        accelerator="tcg",
        exit_code=0,
        turns=(),
        publication=Publication(channel="nightly", set={name: it.version for name, it in made.items()}, is_new=True),
    )
    nights.write(store, night)


def section(found: dict[str, Any]) -> dict[str, Any]:
    """For docs/benchmarks.md, see page.py."""
    small, *_, large = found["rows"]
    columns = list(small)
    ratios = ", ".join(f'{times(large[it], small[it])} the time of "{it.removesuffix(", s")}"' for it in columns[1:])
    return {
        "title": "Plans",
        "about": """
Catalogues of trees of ten images (a base whose kickstart is rendered and checked each time, an upgrade, eight
layers), two package repositories, one layer in ten copies fifty files; a build of each image in the store. Wall
clock of the command, start of Python included, with no program on PATH that could start a machine. No image
file is read twice: the first plan reads all of them, later ones look at inode, size and mtime.""",
        "tables": [
            {
                "title": "Median of the runs",
                "head": columns,
                "rows": [[row[column] for column in columns] for row in found["rows"]],
            }
        ],
        "plots": ["benchmarks-plan.svg"],
        "notes": f"""
{large["images"]} images against {small["images"]} take {ratios}.

A whole `golden nightly` of {found["night"]["images"]} images that are verified and published, in which nothing changed,
with its report: {found["night"]["seconds"]} s, the longest {found["night"]["longest_s"]} s.""",
    }


def plot(found: dict[str, Any], target: Path) -> None:
    """Each command over the number of images."""
    with figure(target, (6, 4)) as (_, axis):
        sizes = [row["images"] for row in found["rows"]]
        for column in list(found["rows"][0])[1:]:
            axis.plot(sizes, [row[column] for row in found["rows"]], "o-", label=column.removesuffix(", s"))
        axis.set_xscale("log")
        axis.set_ylim(bottom=0)
        axis.set_xlabel("images in the project")
        axis.set_ylabel("median, s")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)


if __name__ == "__main__":
    main()

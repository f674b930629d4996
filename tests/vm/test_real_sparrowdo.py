"""The real Sparrowdo against a sandbox guest with Debian's rakudo and zef: bootstrap, smoke run, a test on a clone.

It is in no package mirror, so this runs where somebody put it on PATH, and is reported as not run elsewhere. The guest
has to get Sparrow6 from somewhere:

GOLDEN_TEST_ZEF     folder of Raku distributions, as the step's `zef` takes them; without it zef asks the network
GOLDEN_TEST_RAKU    Rakudo's folder `site`, of a machine with the guest's very Rakudo, with Sparrow6 and Sparky::JobApi
                    installed there (`zef install --to=site`), to be copied into the guest. Under TCG compiling them
                    there takes half an hour and more, which is longer than the test waits. A repository of another
                    name does not do, as Rakudo then compiles all of it again.
GOLDEN_TEST_HOME    the folder `.raku` of somebody on such a machine who has used zef, to be copied into root's home:
                    Debian's zef comes without its compiled form, and compiling that takes ten minutes under TCG.
GOLDEN_TEST_FIGURES the JSON with what it took is written there, for the page of benchmarks
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from benchmarks.conditions import Run
from tests.commands import Ended
from tests.vm.conftest import Golden

DEFINITION = """
[image.sandbox-real]
parent = "sandbox-bootstrapped"
steps = [
  {copies}
  {{ run = ['''
# Sparrowdo's bootstrap knows no sandbox, and asks yum for packages that a sandbox does not have.
sed -i 's/^ID=.*/ID=centos/' /usr/lib/os-release
printf '#!/bin/sh\\nexit 0\\n' > /usr/local/bin/yum
chmod 755 /usr/local/bin/yum
'''] }},
  {{ sparrowdo = {{ sparrowfile = "sparrow/layer.raku"{zef} }}, timeout = "20 min" }},
]
"""

# Folders of the project's, what they are copies of, and where they go in the guest.
VARIABLES = {"raku": "GOLDEN_TEST_RAKU", "home": "GOLDEN_TEST_HOME", "zef": "GOLDEN_TEST_ZEF"}
COPIES = {"raku": "/usr/lib/perl6/site", "home": "/root/.raku"}


GIVEN = {name: os.environ[variable] for name, variable in VARIABLES.items() if variable in os.environ}


@pytest.fixture(scope="module")
def project(golden: Golden, shared_path: Path) -> Iterator[Golden]:
    folder = shared_path / "real-sparrowdo"
    copies = [f'{{ copy = {{ "{name}" = "{to}" }} }},' for name, to in COPIES.items() if name in GIVEN]
    text = DEFINITION.format(copies="\n  ".join(copies), zef=', zef = "zef"' if "zef" in GIVEN else "")
    project = golden.with_images(folder, text)
    (folder / "sparrow" / "files").mkdir(parents=True)
    (folder / "sparrow" / "files" / "greeting").write_text("hello")
    (folder / "sparrow" / "layer.raku").write_text("'/root/layer'.IO.spurt: slurp('files/greeting');\n")
    (folder / "sparrow" / "test.raku").write_text("say '/root/layer'.IO.slurp, ' from a test';\nexit 42;\n")
    for name, source in GIVEN.items():
        shutil.copytree(source, folder / name)
    yield project
    for path in (golden.store / "images").glob("sandbox-real-*"):
        path.unlink()
    for path in golden.store.glob("work/sandbox-real-*"):
        shutil.rmtree(path)
    shutil.rmtree(folder)


@pytest.mark.real_sparrowdo
def test_bootstrap_smoke_and_a_test(project: Golden) -> None:
    run = Run(project.state)
    build = project("build", "sandbox-real")
    facts = project("show", "sandbox-real", "--json").json
    assert re.fullmatch(r"20\d\d\.\d\d.*", facts["software"]["raku"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", facts["software"]["sparrow6"])
    sparrowfile = project.file.parent / "sparrow" / "test.raku"
    begin = time.monotonic()
    ended = project("sparrowdo", "sandbox-real", "--sparrowfile", sparrowfile, expect=42)
    test_s = time.monotonic() - begin
    assert "hello from a test" in ended.stdout
    assert "the sparrowfile ended with 42" in ended.stdout
    if file := os.environ.get("GOLDEN_TEST_FIGURES"):
        Path(file).write_text(
            json.dumps(figures(build, facts, test_s) | said(run, facts), indent=2) + "\n", encoding="utf-8"
        )


def figures(build: Ended, facts: dict[str, Any], test_s: float) -> dict[str, Any]:
    """What benchmarks/real_sparrowdo.py shows. Runs of one step are told by the clock in front of golden's lines."""
    words = ("the bootstrap", "sparrow/layer.raku", "the smoke sparrowfile", "shutting down")
    clock = [re.search(rf"^(\d\d:\d\d:\d\d) .*sparrowdo: .*{word}$", build.stderr, re.MULTILINE) for word in words]
    times = [datetime.strptime(found[1], "%H:%M:%S") for found in clock if found]
    took = [(after - before).seconds for before, after in itertools.pairwise(times)]
    version = subprocess.run(["sparrowdo", "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    return {
        "sparrowdo": version,
        "raku": facts["software"]["raku"],
        "sparrow6": facts["software"]["sparrow6"],
        "bootstrap_s": took[0],
        "layer_s": took[1],
        "smoke_s": took[2],
        "whole_s": round(sum(it["seconds"] for it in facts["times"])),
        "test_s": round(test_s),
    }


def said(run: Run, facts: dict[str, Any]) -> dict[str, Any]:
    brought = [f"{variable}=…" for variable in (*VARIABLES.values(), "GOLDEN_TEST_FIGURES") if variable in os.environ]
    command = " ".join([*brought, "pytest -m real_sparrowdo tests/vm"])
    return run.said(accelerator=facts["accelerator"]) | {"command": command}

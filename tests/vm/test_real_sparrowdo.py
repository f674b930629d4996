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
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

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


@pytest.fixture(scope="module")
def built(golden: Golden, shared_path: Path) -> Iterator[Golden]:
    folder = shared_path / "real-sparrowdo"
    given = {name: os.environ[variable] for name, variable in VARIABLES.items() if variable in os.environ}
    copies = [f'{{ copy = {{ "{name}" = "{to}" }} }},' for name, to in COPIES.items() if name in given]
    text = DEFINITION.format(copies="\n  ".join(copies), zef=', zef = "zef"' if "zef" in given else "")
    project = golden.with_images(folder, text)
    (folder / "sparrow" / "files").mkdir(parents=True)
    (folder / "sparrow" / "files" / "greeting").write_text("hello")
    (folder / "sparrow" / "layer.raku").write_text("'/root/layer'.IO.spurt: slurp('files/greeting');\n")
    (folder / "sparrow" / "test.raku").write_text("say '/root/layer'.IO.slurp, ' from a test';\nexit 42;\n")
    for name, source in given.items():
        shutil.copytree(source, folder / name)
    try:
        project("build", "sandbox-real")
        yield project
    finally:
        for path in (golden.store / "images").glob("sandbox-real-*"):
            path.unlink()
        for path in golden.store.glob("work/sandbox-real-*"):
            shutil.rmtree(path)
        shutil.rmtree(folder)


@pytest.mark.real_sparrowdo
def test_bootstrap_smoke_and_a_test(built: Golden) -> None:
    software = built("show", "sandbox-real", "--json").json["software"]
    assert re.fullmatch(r"20\d\d\.\d\d.*", software["raku"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", software["sparrow6"])
    sparrowfile = built.file.parent / "sparrow" / "test.raku"
    ended = built("sparrowdo", "sandbox-real", "--sparrowfile", sparrowfile, expect=42)
    assert "hello from a test" in ended.stdout
    assert "the sparrowfile ended with 42" in ended.stdout

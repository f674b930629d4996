"""`python -m tests.fuzz`: give each reader what atheris finds, for a bounded time. Needs the extra `fuzz`.

Each reader has a process of its own, as libFuzzer ends its own at a find; what broke it is left in a file.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

# What atheris counts the branches of: the readers, and what of others' they read with that is Python. What is C or Rust
# is not: pydantic's core, expat, json's scanner, gpg.
_INSTRUMENTED = (
    "builder",
    "configparser",
    "jinja2",
    "junitparser",
    "pydantic",
    "pykickstart.parser",
    "pykickstart.sections",
    "securesystemslib",
    "tarfile",
    "tomllib",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("readers", nargs="*", metavar="READER", help="of tests/fuzz/readers.py (all)")
    parser.add_argument("--seconds", type=int, default=60, help="for each reader (60)")
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.here:
        _fuzz(words.readers[0], words.seconds, words.here)
    from tests.fuzz.readers import READERS  # not before: what is imported already is not instrumented any more

    if unknown := set(words.readers) - set(READERS):
        parser.error(f"there is no reader {', '.join(sorted(unknown))}")
    found = []
    for name in words.readers or READERS:
        # Not in the other process: libFuzzer ends that without a word.
        with tempfile.TemporaryDirectory(prefix="golden-fuzz-", dir="/dev/shm") as place:
            argv = [sys.executable, "-m", "tests.fuzz", name, "--here", place, "--seconds", str(words.seconds)]
            ended = subprocess.run(argv, capture_output=True, text=True, check=False)
        lines = [line for line in ended.stderr.splitlines() if line.startswith("Done ")]
        print(f"{name}: {lines[-1] if lines and ended.returncode == 0 else 'BROKEN'}", flush=True)
        if ended.returncode != 0:
            found.append(name)
            print(ended.stdout[-2000:], ended.stderr[-3000:], flush=True)
    return 1 if found else 0


def _fuzz(name: str, seconds: int, place: Path) -> None:
    import atheris  # only here: it is no part of a usual installation

    with atheris.instrument_imports(include=list(_INSTRUMENTED)):
        from tests.fuzz.readers import READERS
        from tests.fuzz.seeds import SEEDS
    folder, corpus = Path(place, "work"), Path(place, "corpus")
    folder.mkdir()
    corpus.mkdir()
    (corpus / "seed").write_bytes(SEEDS[name])
    options = [f"-max_total_time={seconds}", "-max_len=4096", "-timeout=30", f"-artifact_prefix=fuzz-{name}-"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: READERS[name](bytes(data), folder))
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())

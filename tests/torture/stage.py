"""A project of small real images, and golden's command line for it, ended on order."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from builder import cli, config, faults
from builder.decision import Decision
from builder.store import Store, write_atomically
from tests.builds import add_build, verify_builds
from tests.tools.test_resume_build import APPLIANCE

LIMIT_S = 60.0
_DVD = bytes(16 * 2048) + b"\1CD001\1" + bytes(2048)

PROJECT = """
[project]
name = "demo"
url = "http://127.0.0.1:1/channels"
[retention]
keep = 1
age = "7 d"
composes = 1
[distribution.sandbox]
inherits = "el9"
source = { dvd = "sandbox.iso" }
[image.sandbox-base]
distribution = "sandbox"
[image.sandbox-app]
parent = "sandbox-base"
steps = [ { run = "echo 11" } ]
"""
LEAF = """
[image.sandbox-leaf]
parent = "sandbox-app"
steps = [ { script = "golden.private/fix.sh" } ]
"""


@dataclass(frozen=True)
class Ended:
    """How a command of golden's ended. status: its exit code; below zero the signal that ended it."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def last(self) -> str:
        return (self.err.strip().splitlines() or ["(nothing)"])[-1]


@dataclass(frozen=True)
class _Started:
    process: int
    begin: float
    out: Path
    err: Path
    what: str

    def poll(self) -> Ended | None:
        found, code = os.waitpid(self.process, os.WNOHANG)
        if found:
            out, err = (path.read_text(errors="replace") for path in (self.out, self.err))
            return Ended(os.waitstatus_to_exitcode(code), out, err)
        if time.monotonic() - self.begin > LIMIT_S:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
            raise TimeoutError(f"{self.what} did not end: {self.err.read_text()[-1500:]}")
        return None


class Stage:
    """folder: open to libvirt's QEMU. Its state is where the campaign's commands work."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.store = Store(self.state, "demo")
        self._kept = folder / "kept"
        (folder / "keys").mkdir(parents=True)
        (folder / "keys/id_ed25519.pub").write_text("ssh-ed25519 AAAA golden\n")
        (folder / "sandbox.iso").write_bytes(_DVD)
        (folder / "golden.toml").write_text(PROJECT)
        (folder / "more.toml").write_text(PROJECT + LEAF)
        (folder / "golden.private").mkdir()
        (folder / "golden.private/fix.sh").write_text("true\n")
        self._stand_in()
        os.environ.update(
            GOLDEN_FILE=str(folder / "golden.toml"),
            GOLDEN_STATE=str(self.state),
            GOLDEN_PROGRESS="plain",
            GOLDEN_IMAGES_DIR=str(self.store.images),
            TMPDIR=str(folder),
            PATH=f"{folder / 'bin'}:{os.environ['PATH']}",
        )

    def _stand_in(self) -> None:
        """virt-customize, for one: it writes a byte for each step where a step says which, and the list of packages."""
        program = self.folder / "bin/virt-customize"
        program.parent.mkdir()
        program.write_text(APPLIANCE.format(calls=str(self.folder / "calls"), packages="bash-5-1.x86_64\n"))
        program.chmod(0o755)
        # It only says its version, which takes the real one half a second.
        program = self.folder / "bin/virt-install"
        program.write_text("#!/bin/sh\necho 4.1.0\n")
        program.chmod(0o755)

    # --- states to begin from

    def keep(self, name: str) -> None:
        """The state as it is now, to come back to."""
        subprocess.run(["cp", "-a", self.state, self._kept / name], check=True)

    def come_back(self, name: str) -> None:
        shutil.rmtree(self.state, ignore_errors=True)
        subprocess.run(["cp", "-a", self._kept / name, self.state], check=True)

    def begin(self) -> None:
        self._kept.mkdir()
        self.state.mkdir()
        self.golden("doctor")  # sees whether KVM boots a kernel, once for all that comes
        self.add_base("20261121.1")

    def add_base(self, version: str) -> None:
        """A base as if it had been installed from the DVD."""
        (planned,) = Decision(config.load(self.folder / "golden.toml"), self.store, ["sandbox-base"]).plan()
        build = add_build(self.store, "sandbox-base", version=version)
        update = {"key": planned.key, "inputs": planned.inputs}
        write_atomically(self.store.facts(build), build.model_copy(update=update).model_dump_json(), mode=0o444)

    def verify_all(self) -> None:
        verify_builds(self.store, *self.store.builds())

    def make_old(self) -> None:
        """Nothing of what there is stays for being young."""
        for build in self.store.builds():
            text = build.model_copy(update={"finished": "2024-11-21T10:00:00+00:00"}).model_dump_json()
            write_atomically(self.store.facts(build), text, mode=0o444)
        for compose in self.store.channels.glob("*/composes/*"):
            os.utime(compose, (1, 1))

    # --- golden

    def golden(
        self,
        *words: str,
        fault: str | None = None,
        at_random_s: float | None = None,
        by: int = signal.SIGKILL,
        limits: Mapping[int, int] | None = None,
    ) -> Ended:
        """Run a command in a process of its own. at_random_s: after that many seconds it is sent `by`.

        limits: resource -> how much of it the command may have. Source: setrlimit(2).
        """
        started = self._start(words, fault=fault, limits=limits)
        while (ended := started.poll()) is None:
            if at_random_s is not None and time.monotonic() - started.begin > at_random_s:
                os.kill(started.process, by)
                at_random_s = None
            time.sleep(0.01)
        return ended

    def goldens(self, *words: str, count: int) -> list[Ended]:
        """The same command several times at once."""
        running = [self._start(words, number=number) for number in range(count)]
        ended: dict[int, Ended] = {}
        while len(ended) < count:
            for started in running:
                if started.process not in ended and (end := started.poll()) is not None:
                    ended[started.process] = end
            time.sleep(0.01)
        return [ended[it.process] for it in running]

    def _start(
        self,
        words: Sequence[str],
        *,
        fault: str | None = None,
        limits: Mapping[int, int] | None = None,
        number: int = 0,
    ) -> _Started:
        # Apart from what may be full, or read-only.
        out, err = (Path("/run") / f"{name}-{number}" for name in ("out", "err"))
        begin, child = time.monotonic(), os.fork()
        if child == 0:
            _become_golden(words, fault, limits or {}, out, err)
        return _Started(child, begin, out, err, f"golden {' '.join(words)} with {fault}")

    def ok(self, *words: str) -> Ended:
        found = self.golden(*words)
        if found.status != 0:
            raise AssertionError(f"golden {' '.join(words)} ended with {found.status}:\n{found.err}")
        return found

    def trace(self, *words: str) -> list[str]:
        """The places that a command comes to, in order."""
        file = Path("/run/trace")
        file.unlink(missing_ok=True)
        found = self.golden(*words, fault=f"trace:{file}")
        if found.status != 0:
            raise AssertionError(f"golden {' '.join(words)} ended with {found.status}:\n{found.err}")
        return file.read_text().split() if file.exists() else []

    # --- what there is

    def builds(self) -> dict[str, str]:
        """Stem -> digest of what a guest sees, of all builds; each is verified against its facts."""
        found = {}
        for build in self.store.builds():
            self.store.verify(build)
            raw = self.folder / "raw"
            subprocess.run(["qemu-img", "convert", "-O", "raw", self.store.qcow2(build), raw], check=True)
            found[build.stem] = hashlib.sha256(raw.read_bytes()).hexdigest()
            raw.unlink()
        return found

    def half_made(self) -> list[str]:
        """What is neither of a build nor of a channel and should have been cleared."""
        root = self.store.root
        found = [path for path in root.rglob("*") if path.name.endswith(".part")]
        found += list((root / "work").glob("*"))
        found += [
            path for path in self.store.images.glob("*") if path.stem not in {it.stem for it in self.store.builds()}
        ]
        return sorted({str(path.relative_to(root)) for path in found})


def _become_golden(
    words: Sequence[str], fault: str | None, limits: Mapping[int, int], out: Path, err: Path
) -> NoReturn:
    """The rest of a forked process. Loading golden's modules anew each time would take most of the campaign."""
    code = 70
    try:
        os.setsid()
        for number, path in ((1, out), (2, err)):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, number)
            os.close(handle)
        sys.argv = ["golden", *words]
        os.environ.pop(faults.VARIABLE, None)
        if fault is not None:
            os.environ[faults.VARIABLE] = fault
        for limit, value in limits.items():
            resource.setrlimit(limit, (value, value))
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

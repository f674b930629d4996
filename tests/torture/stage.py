"""A project of small real images, and golden's command line for it, ended on order."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from builder import cli, config, faults, promises, verdicts
from builder.clones import saved, warm
from builder.decision import Decision
from builder.model import Build, Project
from builder.store import Store, write_atomically
from builder.tools import guestfs, ssh
from tests.builds import add_build
from tests.tools.test_resume_build import APPLIANCE
from tests.torture.world import Server, folder_served, upstream

LIMIT_S = 180.0
BUG = "this is a bug in golden"
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
NEW = """
[image.sandbox-new]
distribution = "sandbox"
disk = "1 GiB"
"""
ONLINE = """
[image.sandbox-online]
parent = "sandbox-app"
steps = [ { shell = "echo 41" }, { shell = "echo 42" } ]
"""
# An image of others', brought in.
CLOUD = """
[distribution.cloud]
inherits = "el9"
source = { qcow2 = "cloud.qcow2" }
[image.cloud-base]
distribution = "cloud"
disk = "16 MiB"
"""
# What fails at its second step, and is gone on from after its first.
TWICE = """
[image.sandbox-twice]
parent = "sandbox-app"
steps = [ {{ run = "echo 51" }}, {{ run = "{word}" }} ]
"""
# What is downloaded: a DVD, and by builds, through the package cache, a package.
REMOTE = """
[distribution.remote]
inherits = "el9"
source = {{ dvd = "{url}/dvd.iso", sha256 = "{digest}" }}
[image.remote-base]
distribution = "remote"
[distribution.sandbox.repositories]
packages = "{url}"
[image.sandbox-more]
parent = "sandbox-app"
steps = [ {{ install = ["a"] }} ]
"""
PACKAGE = "Packages/a-1-1.noarch.rpm"
_UPSTREAM = {
    "dvd.iso": _DVD + bytes(range(256)) * 4096 * 8,
    "repodata/repomd.xml": b"<repomd><revision>1</revision></repomd>",
    PACKAGE: b"a package" * 100_000,
}

# In the stand-in for virt-customize: what a guest's dnf would do. Source: builder/tools/guestfs.py, HOST.
_FETCH = f"""\
def fetch(text):
    import hashlib, urllib.request
    for port in set(re.findall(r"http://{re.escape(guestfs.HOST)}:([0-9]+)", text)):
        for path, expected in {{expected!r}}.items():
            address = f"http://127.0.0.1:{{{{port}}}}/{{{{path}}}}"
            found = urllib.request.urlopen(address, timeout=30).read()
            if hashlib.sha256(found).hexdigest() != expected:
                quit(f"other bytes came of {{{{path}}}}")
"""

# In the place of a guest's: it says what it runs to nobody, and ends with its machine, as a connection to one does.
_SSH = """\
#!/bin/sh
for last; do :; done
[ "$last" = -V ] && exec /usr/bin/ssh -V
name=$(virsh -q -c qemu:///system list --name | grep online) || exit 255
case $last in
    *poweroff*) virsh -q -c qemu:///system destroy "$name" >/dev/null ;;
esac
"""


# virt-install, as far as it matters: a machine that is there while the disk is being written, and not after it.
_INSTALLER = """\
#!/bin/sh -e
case "$*" in
    --version) exec echo 4.1.0 ;;
    "--osinfo list") exec echo rocky9 ;;
esac
while [ $# -gt 1 ]; do
    case $1 in
        --name) name=$2 ;;
        --disk) disk=${2#path=} ;;
        --serial) console=${2#*log.file=} ;;
    esac
    shift
done
disk=${disk%%,*} console=${console%%,*}
cat > "$disk.xml" <<END
<domain type='qemu'>
  <name>$name</name>
  <memory unit='MiB'>16</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
</domain>
END
virsh -q -c qemu:///system create "$disk.xml"
rm "$disk.xml"
echo installing >> "$console"
qemu-io -c "write -q -P 7 0 66M" "$disk"
virsh -q -c qemu:///system destroy "$name"
"""


@dataclass(frozen=True)
class Blow:
    """A signal at a time. after_s: seconds from the command's start. name: of who is struck."""

    after_s: float
    by: signal.Signals
    name: str


@dataclass(frozen=True)
class Ended:
    """How a command of golden's ended. status: its exit code; below zero the signal that ended it.

    was_struck: the blow that was meant for it, or for another, came.
    """

    status: int
    out: str
    err: str
    was_struck: bool = False

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

    def poll(self, halted: Callable[[int], object] | None = None) -> Ended | None:
        """halted: called with its process if it stands still, before it goes on."""
        found, code = os.waitpid(self.process, os.WNOHANG | os.WUNTRACED)
        if found and os.WIFSTOPPED(code):
            try:
                if halted is not None:
                    halted(self.process)
            finally:
                os.kill(self.process, signal.SIGCONT)
        elif found:
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
        (folder / "new.toml").write_text(PROJECT + NEW)
        (folder / "online.toml").write_text(PROJECT + ONLINE)
        (folder / "cloud.toml").write_text(PROJECT + CLOUD)
        (folder / "fails.toml").write_text(PROJECT + TWICE.format(word="FAIL"))
        (folder / "mended.toml").write_text(PROJECT + TWICE.format(word="echo 52"))
        self._make_cloud()
        self.upstream = Server(upstream(_UPSTREAM))
        self.channels = Server(folder_served(self.store.channels))
        # Processes that are no command's, and are there for all of the campaign.
        self.servers = (self.upstream.pid, self.channels.pid)
        digest = hashlib.sha256(_UPSTREAM["dvd.iso"]).hexdigest()
        remote = REMOTE.format(url=self.upstream.url, digest=digest)
        (folder / "remote.toml").write_text(PROJECT + remote)
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
        (self.folder / "bin").mkdir()
        text = APPLIANCE.format(calls=str(self.folder / "calls"), packages="bash-5-1.x86_64\n")
        wanted = {name: _UPSTREAM[name] for name in ("repodata/repomd.xml", PACKAGE)}
        fetch = _FETCH.format(expected={name: hashlib.sha256(data).hexdigest() for name, data in wanted.items()})
        reads = "text = Path(script).read_text()\n"
        assert text.count(reads) == 1
        text = text.replace(reads, f"{reads}        fetch(text)\n").replace("qemu = ", f"{fetch}qemu = ", 1)
        self._program("virt-customize", text)
        self._program("virt-install", _INSTALLER)
        self._program("ssh", _SSH)
        # Nobody says its name at the port of a machine without an operating system.
        ssh.wait_until_answers = lambda *_, **__: 0.1  # type: ignore[assignment]
        # Nor does anybody hear that it is another machine now: what goes on from memory boots in the end.
        warm._Preparation._prepare_guest = lambda _self, _machine: ()  # type: ignore[method-assign]
        saved.RENEW_TIMEOUT_S = 0.5
        # Nor can it be tested; what `golden step` makes passes.
        step = importlib.import_module("builder.cli.step")
        step.verify_builds = self._verified  # type: ignore[attr-defined]

    def _verified(self, session: Any, builds: Sequence[Build], *, again: bool) -> list[Any]:
        for build in builds:
            verdicts.write(session.store, self._verdict(session.project, build), build)
        return []

    def _make_cloud(self) -> None:
        disk = self.folder / "cloud.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "16M"], check=True)
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 9 0 1M", disk], check=True)

    def _program(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    # --- states to begin from

    def keep(self, name: str) -> None:
        """The state as it is now, to come back to."""
        subprocess.run(["cp", "-a", self.state, self._kept / name], check=True)

    def come_back(self, name: str) -> None:
        shutil.rmtree(self.state, ignore_errors=True)
        subprocess.run(["cp", "-a", self._kept / name, self.state], check=True)

    def begin(self) -> None:
        self._kept.mkdir()
        self.state.mkdir(exist_ok=True)
        self.golden("doctor")  # sees whether KVM boots a kernel, once for all that comes
        self.add_base("20261121.1")

    def add_base(self, version: str) -> None:
        """A base as if it had been installed from the DVD."""
        (planned,) = Decision(config.load(self.folder / "golden.toml"), self.store, ["sandbox-base"]).plan()
        build = add_build(self.store, "sandbox-base", version=version)
        update = {"key": planned.key, "inputs": planned.inputs}
        write_atomically(self.store.facts(build), build.model_copy(update=update).model_dump_json(), mode=0o444)

    def verify_all(self) -> None:
        """As if a clone of each build had kept all promises."""
        project = config.load(self.folder / "golden.toml")
        for build in self.store.builds():
            verdicts.write(self.store, self._verdict(project, build), build)

    def _verdict(self, project: Project, build: Build) -> verdicts.Verdict:
        return verdicts.Verdict(
            image=build.image,
            version=build.version,
            sha256=build.id.sha256,
            passed=True,
            at="2024-11-21T11:00:00+00:00",
            seconds=30,
            boot_s=12,
            accelerator="tcg",
            promises=promises.promises(project, build.image).digest(),
            tests=(verdicts.Check(name="no unit failed", result="passed"),),
        )

    def come_from_the_future(self) -> None:
        """As if the clock had been more than a year ahead, and was set right."""
        for path in self.state.rglob("*"):
            if not path.is_symlink():
                then = path.stat().st_mtime + 400 * 86400
                os.utime(path, (then, then))

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
        blow: Blow | None = None,
        at: Callable[[int], Any] | None = None,
        limits: Mapping[int, int] | None = None,
        beside: Sequence[Sequence[str]] = (),
    ) -> Ended:
        """Run a command in a process of its own.

        at: the process of the command -> whose turn it is when the blow comes; without a blow it is called when the
        fault has the command stand still, and says whether somebody was struck.
        limits: resource -> how much of it the command may have. Source: setrlimit(2).
        beside: other commands, which begin with it and have to end well or say why not; what they say comes with it.
        """
        struck: list[object] = []
        others = [self._start(it, number=number) for number, it in enumerate(beside, 1)]
        started = self._start(words, fault=fault, limits=limits)
        halted = None if at is None or blow is not None else lambda process: struck.append(at(process))
        while (ended := started.poll(halted)) is None:
            is_time = blow is not None and time.monotonic() - started.begin > blow.after_s
            if blow is not None and at is not None and is_time and not any(struck):
                struck.append(_strike(blow, at(started.process)))
            time.sleep(0.01)
        told = [it for it in _all_ended(others) if it.status not in range(6) or it.status == 1 or BUG in it.err]
        err = "\n".join([ended.err, *(f"{BUG}, or of what runs beside it: {it.status}: {it.err}" for it in told)])
        return replace(ended, err=err, was_struck=any(struck))

    def goldens(self, *commands: Sequence[str]) -> list[Ended]:
        """Several commands at once."""
        return _all_ended([self._start(words, number=number) for number, words in enumerate(commands)])

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


def _all_ended(running: Sequence[_Started]) -> list[Ended]:
    """How each of several ends."""
    ended: dict[int, Ended] = {}
    while len(ended) < len(running):
        for started in running:
            if started.process not in ended and (end := started.poll()) is not None:
                ended[started.process] = end
        time.sleep(0.01)
    return [ended[it.process] for it in running]


def _strike(blow: Blow, whom: int | None) -> bool:
    """Whether there was somebody to be struck."""
    if whom is None:
        return False
    try:
        os.kill(whom, blow.by)
    except ProcessLookupError:  # it has just ended
        return False
    return True


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

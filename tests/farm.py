"""A real Buildbot master with ci/buildbot/master.cfg, and real workers, on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

MASTER_CFG = Path(__file__).parents[1] / "ci/buildbot/master.cfg"
_BIN = Path(sys.executable).parent
# Of what takes a second or two on a machine that has nothing else to do.
_PATIENCE_S = 180
# Source: twisted's log, one line for each port that is listened on.
_WORKERS_PORT = re.compile(r"PBServerFactory starting on ([0-9]+)")
_WEB_PORT = re.compile(r"(?:Site|WithWebSocket\w*) starting on ([0-9]+)")
SUCCESS, FAILURE = 0, 2


def until(look: Callable[[], Any], *, what: str, limit_s: float = _PATIENCE_S) -> Any:
    """What `look` finds once it finds something."""
    deadline = time.monotonic() + limit_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what} did not come in {limit_s:.0f} s"
        time.sleep(0.2)
    return found


@dataclass
class Farm:
    """golden: the command. state: of the machine that has the channel, the master's."""

    folder: Path
    golden: Sequence[str]
    file: Path
    state: Path
    channel: str = "http://127.0.0.1:1/candidate"
    names: Sequence[str] = ("one", "two")
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    port: str = ""
    web: str = ""

    @property
    def master(self) -> Path:
        return self.folder / "master"

    @property
    def drop(self) -> Path:
        return self.folder / "delivered"

    def write(self) -> None:
        """The master's folder, as the documentation says."""
        self.drop.mkdir(parents=True)
        _run("buildbot", "create-master", self.master)
        (self.master / "master.cfg").symlink_to(MASTER_CFG)
        settings = f"""
            golden = {json.dumps(list(self.golden))}
            file = "{self.file}"
            state = "{self.state}"
            channel = "{self.channel}"
            deliver = "{self.drop}"
            delivered = "{self.drop}"
            promote_to = "nightly"
            [night]
            month = 2
            dayOfMonth = 29
            [ports]
            workers = "tcp:0:interface=127.0.0.1"
            web = "tcp:0:interface=127.0.0.1"
            url = "http://127.0.0.1/"
        """
        settings += "".join(f'[worker.{name}]\npassword = "secret {name}"\n' for name in self.names)
        (self.master / "farm.toml").write_text(settings)

    def check_config(self) -> subprocess.CompletedProcess[str]:
        return _run("buildbot", "checkconfig", self.master, check=False)

    @contextlib.contextmanager
    def running(self) -> Iterator[Farm]:
        """The master and all of its workers, until the block ends."""
        self.write()
        with contextlib.ExitStack() as stack:
            master = self._start("buildbot", "start", "--nodaemon", self.master, log=self.folder / "master.log")
            stack.callback(_end, master)
            stack.callback(lambda: print(self.said()))
            self.port = self._port(_WORKERS_PORT, master)
            self.web = f"http://127.0.0.1:{self._port(_WEB_PORT, master)}/api/v2"
            for name in self.names:
                self.workers[name] = self.start_worker(name)
                stack.callback(_end, self.workers[name])
            until(lambda: self.connected() >= {*self.names, "keeper"}, what="the workers")
            yield self

    def said(self) -> str:
        log = self.master / "twistd.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def state_of(self, worker: str) -> Path:
        return self.folder / worker / "state"

    def start_worker(self, name: str) -> subprocess.Popen[bytes]:
        place = self.folder / name / "buildbot"
        self.state_of(name).mkdir(parents=True, exist_ok=True)
        _run("buildbot-worker", "create-worker", place, f"127.0.0.1:{self.port}", name, f"secret {name}")
        own = {"GOLDEN_FILE": str(self.file), "GOLDEN_STATE": str(self.state_of(name))}
        log = self.folder / name / "worker.log"
        return self._start("buildbot-worker", "start", "--nodaemon", place, log=log, **own)

    def kill_worker(self, name: str) -> None:
        """As if its machine had lost power: buildbot-worker, and whatever it has started, at once."""
        for process in [self.workers[name].pid, *_below(self.workers[name].pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.workers[name].wait()

    # --- what the master's web server says

    def get(self, path: str) -> list[dict[str, Any]]:
        answer = requests.get(f"{self.web}/{path}", timeout=60)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return next(value for key, value in found.items() if key != "meta")

    def connected(self) -> set[str]:
        return {it["name"] for it in self.get("workers") if it["connected_to"]}

    def force(self, scheduler: str, **properties: object) -> None:
        order = {"jsonrpc": "2.0", "id": 1, "method": "force", "params": properties}
        answer = requests.post(f"{self.web}/forceschedulers/{scheduler}", json=order, timeout=60)
        assert answer.ok, answer.text

    def builds(self, name: str) -> list[dict[str, Any]]:
        """Of one builder, oldest first, each with its properties."""
        found = [it for it in self.get("builders") if it["name"] == name]
        builds = self.get(f"builders/{found[0]['builderid']}/builds?property=*")
        return sorted(builds, key=lambda build: int(build["number"]))

    def ended(self, name: str, *, number: int = 1, limit_s: float = _PATIENCE_S) -> dict[str, Any]:
        """The build of that number of a builder, once it has ended."""

        def look() -> dict[str, Any] | None:
            found = [it for it in self.builds(name) if it["number"] == number and it["complete"]]
            return found[0] if found else None

        return until(look, what=f"the end of {name} {number}", limit_s=limit_s)  # type: ignore[no-any-return]

    def steps(self, build: dict[str, Any]) -> dict[str, int]:
        """Step -> its result."""
        return {it["name"]: it["results"] for it in self.get(f"builds/{build['buildid']}/steps")}

    def _start(self, *words: str | Path, log: Path, **own: str) -> subprocess.Popen[bytes]:
        # The environment's golden would be everybody's.
        clean = {name: text for name, text in os.environ.items() if not name.startswith("GOLDEN_")}
        with log.open("ab") as stream:
            return subprocess.Popen(
                [_BIN / words[0], *words[1:]],
                env=clean | {"PYTHONPATH": str(MASTER_CFG.parents[2])} | own,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    def _port(self, line: re.Pattern[str], master: subprocess.Popen[bytes]) -> str:
        def look() -> re.Match[str] | None:
            assert master.poll() is None, self.said()
            return line.search(self.said())

        return str(until(look, what=f"'{line.pattern}' in the master's log")[1])


def _run(program: str, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run(
        [_BIN / program, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE_S
    )
    assert not check or ended.returncode == 0, ended.stdout + ended.stderr
    return ended


def _below(pid: int) -> list[int]:
    """The children of a process, and theirs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # "pid (name) state ppid …", and a name may hold anything.
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                child = int(path.parent.name)
                found += [child, *_below(child)]
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

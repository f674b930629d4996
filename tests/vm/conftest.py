"""One DVD, one chain, one published repository, one installed root: made once, shared by all tests that need machines.

The DVD is kept between runs (GOLDEN_TEST_SANDBOX, by default below /var/tmp); all the rest is new each time.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from builder.layer import domain_prefix
from builder.store import Store
from builder.tools import libvirt
from tests.commands import Ended, started

# Where two workers share the tests, these are at the end of the queue, in this order, each for whichever worker is
# free, with the chain or a copy of it: so both end at nearly the same time. The rest of the chain's tests lasts about
# as long as all tests that need no chain.
LAST = ("test_harness.py", "test_guests.py", "test_steps.py", "test_buildbot.py")
ALL = ["sandbox-base", "sandbox-upgrade", "sandbox-bootstrapped", "sandbox-tools-installed"]
_MACHINE_TESTS = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Most tests of the one chain stay together; where pytest-xdist runs several workers, one begins with these."""
    for item in items:
        if _MACHINE_TESTS in item.path.parents:
            item.add_marker(pytest.mark.vm)
            if group := _group(item):
                item.add_marker(pytest.mark.xdist_group(group))
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: ["chain", "", *LAST].index(_group(item)))


def _group(item: pytest.Item) -> str:
    if _MACHINE_TESTS not in item.path.parents or "golden" not in getattr(item, "fixturenames", ()):
        return ""
    return item.path.name if item.path.name in LAST else "chain"


@dataclass(frozen=True)
class Golden:
    """The command line as a user has it, for one project and one state directory."""

    file: Path
    state: Path

    @property
    def store(self) -> Path:
        return self.state / "sandbox"

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "GOLDEN_FILE": str(self.file),
            "GOLDEN_STATE": str(self.state),
            "GOLDEN_PROGRESS": "plain",
        }

    def __call__(self, *words: str | Path, expect: int = 0) -> Ended:
        with self.started(*words) as process:
            stdout, stderr = process.communicate(timeout=1800)
        # Shown by pytest if the test fails.
        print(f"$ golden {' '.join(map(str, words))}\n{stdout}{stderr}")
        assert process.returncode == expect, f"golden {words} ended with {process.returncode}:\n{stdout}{stderr}"
        return Ended(process.returncode, stdout, stderr)

    def started(self, *words: str | Path) -> subprocess.Popen[str]:
        return started(*words, environment=self.environment)

    def with_images(self, folder: Path, definitions: str) -> Golden:
        """The same project and store with more in its golden.toml."""
        folder.mkdir()
        for name in ("sandbox.iso", "updates", "keys"):
            (folder / name).symlink_to(self.file.parent / name)
        file = folder / "golden.toml"
        file.write_text(self.file.read_text() + definitions)
        return replace(self, file=file)


@pytest.fixture(scope="session")
def shared_path() -> Iterator[Path]:
    """Open to libvirt's QEMU, which runs as another user; pytest's own directories are not."""
    with tempfile.TemporaryDirectory(prefix="golden-test-", dir="/var/tmp") as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield path


@pytest.fixture(scope="session")
def bare(shared_path: Path) -> Golden:
    """A project with its DVD; nothing is built."""
    folder = Path(os.environ.get("GOLDEN_TEST_SANDBOX") or "/var/tmp/golden-test-sandbox")
    golden = Golden(file=folder / "golden.toml", state=shared_path / "state")
    # Workers of one run share the DVD.
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        golden("sandbox", "create", folder)
    return golden


@pytest.fixture(scope="session")
def golden(bare: Golden, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    """The whole tree is built; of several workers by one, and the others have a copy of what it built."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        bare("build")
        return bare
    made = tmp_path_factory.getbasetemp().parent / "chain"
    with made.with_name("chain.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if made.exists():
            shutil.copytree(made, bare.state, dirs_exist_ok=True, symlinks=True)
        else:
            bare("build")
            shutil.copytree(bare.state, made, symlinks=True)
    return bare


@pytest.fixture(scope="session")
def channel(golden: Golden) -> Iterator[str]:
    """Everything is packaged and published, and served at this address."""
    golden("package")
    golden("publish", "--channel", "candidate")
    with golden.started("repo", "serve", "--port", "0") as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        threading.Thread(target=server.communicate, daemon=True).start()
        yield line.split(" at ")[1].split(";")[0]
        server.terminate()
        assert server.wait(timeout=20) == 0


@pytest.fixture(scope="session")
def installed(golden: Golden, channel: str, shared_path: Path) -> Path:
    """The root of a machine on which dnf installed the bootstrapped image; the way a user does it."""
    root, repos = shared_path / "root", shared_path / "yum.repos.d"
    repos.mkdir()
    golden("repo", "client-config", "--url", channel, "-o", repos / "golden.repo")
    dnf = ["dnf", "-y", f"--installroot={root}", "--releasever=9", f"--setopt=reposdir={repos}"]
    dnf += [f"--setopt=cachedir={shared_path / 'dnf-cache'}", "install", "golden-sandbox-bootstrapped"]
    subprocess.run(dnf, check=True)
    return root


@pytest.fixture
def store_is_untouched(golden: Golden) -> Iterator[None]:
    """The images before the test are the images after it, and nothing is under way."""
    before = _state_of(golden)
    yield
    assert _state_of(golden) == before


def _state_of(golden: Golden) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in (golden.store / "images").iterdir()}


@pytest.fixture
def open_folder(shared_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A place for one test below the shared path; not made yet."""
    path = shared_path / f"test-{abs(hash(request.node.nodeid))}"
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def clones_cleared(golden: Golden) -> Iterator[None]:
    """No clone is left, whatever the test did."""
    yield
    for clone in golden("clone", "list", "--json").json:
        golden("clone", "destroy", clone["name"])


def what_is_left(golden: Golden) -> list[str]:
    """Domains, processes, mounts and half-made builds that should not be there any more."""
    listing = subprocess.run(["virsh", "list", "--all", "--name"], capture_output=True, text=True, check=True)
    prefix = domain_prefix(Store(golden.state, golden.store.name).id)
    left = [f"domain {name}" for name in listing.stdout.split() if name.startswith(prefix)]
    with libvirt.connect() as connection:
        left += [f"pool {pool.name}" for pool in connection.pools_below(golden.state)]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(golden.store / "work") in command:
            left.append(f"process {command}")
    left += [f"mount {line}" for line in Path("/proc/mounts").read_text().splitlines() if str(golden.state) in line]
    left += [f"work {path}" for path in golden.store.glob("work/*")]
    left += [f"file {path}" for path in golden.store.glob("images/.*")]
    return left

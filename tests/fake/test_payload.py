"""What a test does on its machine: a sparrowfile and pytest, with an ssh that reaches no further than a folder."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from builder.harness import payload
from builder.harness.declaration import Test
from builder.harness.guest import Address, Guest
from builder.harness.payload import Context, Failed
from builder.tools.sparrowdo import command
from tests import sparrowdo_stand_in as stand_in
from tests.fake.conftest import Fake
from tests.fake.test_sparrowdo import SCP, SSH

TOP = Path(__file__).parents[2]


class Bench:
    """A test's folder, and one machine for it."""

    def __init__(self, top: Path) -> None:
        self.folder = top / "it"
        self.guest = top / "guest"
        for name in ("it", "guest/bin", "logs", "collect"):
            (top / name).mkdir(parents=True)
        (top / "key").touch()
        console = top / "console.log"
        console.write_text("login: \n")
        address = Address(name="main", clone="main-1", image="demo@1", port=2200, key=top / "key", console=console)
        self.guests = {"main": Guest(address)}

    def watch(self) -> None:
        """Nothing happens to the machine."""

    def run(self, test: Test, *, limit_s: float = 60) -> None:
        place = self.folder.parent
        context = Context(
            test=test,
            run=1,
            deadline=time.monotonic() + limit_s,
            logs=place / "logs",
            collect=place / "collect",
            boot_limit_s=1,
        )
        payload.carry_out(context, self.guests, self.watch)

    def why(self, test: Test, *, limit_s: float = 60) -> Failed:
        with pytest.raises(Failed) as caught:
            self.run(test, limit_s=limit_s)
        return caught.value


@pytest.fixture
def bench(tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path / "bench")
    made.guest.with_name("guest.answers").write_text("")
    raku = made.guest / "bin" / "raku"
    raku.write_text(stand_in.RAKU)
    raku.chmod(0o755)
    fake("ssh", SSH.format(guest=made.guest))
    fake("scp", SCP.format(guest=made.guest))
    stand_in.install(tmp_path / "bin")
    monkeypatch.setattr(command, "WAITS_S", (0.0, 0.0, 0.0))
    monkeypatch.setenv("PYTHONPATH", str(TOP))
    return made


def sparrow(bench: Bench, text: str) -> Test:
    (bench.folder / "ci.raku").write_text(text)
    return Test(name="net/it", folder=bench.folder, payload="sparrowfile", file="ci.raku")


def test_a_sparrowfile_with_its_tasks(bench: Bench) -> None:
    (bench.folder / "tasks").mkdir()
    (bench.folder / "tasks" / "a.bash").touch()
    bench.run(sparrow(bench, 'bash "ls > $HOME/seen";\n'))
    assert "tasks" in (bench.guest / "seen").read_text().split()
    assert "sparrowdo" in (bench.folder.parent / "logs" / "sparrowdo.log").read_text()


def test_a_sparrowfile_that_fails(bench: Bench) -> None:
    failure = bench.why(sparrow(bench, "exit 42;\n"))
    assert failure.cause == "test"
    assert failure.why.startswith("ci.raku on main: ")
    assert "42" in failure.why


def test_a_sparrowfile_at_its_limit(bench: Bench) -> None:
    failure = bench.why(sparrow(bench, 'bash "sleep 30";\n'), limit_s=3)
    assert failure.cause == "limit"


def test_pytest_has_the_machine_and_the_environment(bench: Bench) -> None:
    (bench.folder / "test_x.py").write_text(
        "import os\n"
        "def test_it(golden_clone):\n"
        "    assert golden_clone.address.port == 2200\n"
        "    assert (os.environ['GOLDEN_TEST'], os.environ['MODE']) == ('net/it', 'fast')\n"
    )
    test = Test(name="net/it", folder=bench.folder, payload="pytest", file="test_x.py", environment={"MODE": "fast"})
    bench.run(test)
    assert (bench.folder.parent / "logs" / "junit.xml").exists()
    assert [path.name for path in bench.folder.iterdir()] == ["test_x.py"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("def test_it():\n    assert 1 == 2\n", "test_it: assert 1 == 2"),
        ("import nothing_of_this_name\n", "No module named 'nothing_of_this_name'"),
        ("", "pytest: exit 5: it found no test"),
    ],
)
def test_a_failure_of_pytest_is_told_in_a_line(bench: Bench, text: str, why: str) -> None:
    (bench.folder / "test_x.py").write_text(text)
    test = Test(name="net/it", folder=bench.folder, payload="pytest", file="test_x.py")
    failure = bench.why(test)
    assert why in failure.why
    assert "\n" not in failure.why


def test_pytest_at_the_limit(bench: Bench) -> None:
    (bench.folder / "test_x.py").write_text("import time\ndef test_it():\n    time.sleep(60)\n")
    test = Test(name="it", folder=bench.folder, payload="pytest", file="test_x.py")
    failure = bench.why(test, limit_s=4)
    assert failure.cause == "limit"
    assert "pytest was still running at the test's limit of 600 s" in failure.why

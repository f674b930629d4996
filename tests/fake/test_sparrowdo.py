"""Every way in which a run of Sparrowdo is known to end, and golden's answer to it.

The stand-in for Sparrowdo is started by the real `run`; its ssh, and golden's own, reach a folder that stands for the
guest, where each test says what a remote command does.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.errors import ConfigError, GoldenError, HostError, ToolError, VerifyError
from builder.steps import Sparrowdo
from builder.tools import ssh
from builder.tools.free_port import free_port
from builder.tools.sparrowdo import bootstrap, command
from tests import sparrowdo_stand_in as stand_in
from tests.fake.conftest import Fake, Family

# The command is what comes after the host; a test's own answers come first.
SSH = r"""
while [ $# -gt 0 ]; do case "$1" in *127.0.0.1) shift; break ;; *) shift ;; esac; done
[ "$1" != -- ] || shift
cd '{guest}'; export HOME='{guest}' PATH='{guest}/bin':"$PATH"
line=$*
. '{guest}.answers'
case "$line" in *"sudo --login"*) cp '{guest}.raku' bin/raku; echo "start bootstrap"; exit 0 ;; esac
eval "$(echo "$line" | sed 's/^bash --login /bash /')"
"""
SCP = r"""
set -- "$@" ''
sources=
while [ $# -gt 2 ]; do
    case "$1" in -o|-P|-i|-F) shift ;; -*) ;; *) sources="$sources $1" ;; esac
    shift
done
for target in "$1"; do
    to='{guest}'/"${{target#*:}}"
    case "$to" in */) mkdir -p "$to" ;; *) mkdir -p "${{to%/*}}" ;; esac
    cp -r $sources "$to"
done
"""
SUDO = """\
while true; do case "$1" in -n|--login) shift ;; env) shift ;; *=*) export "$1"; shift ;; *) break ;; esac; done
exec "$@"
"""


# What golden asks of a machine to see whether it lets somebody in.
LOGIN = "true"


class Guest:
    """A folder, and what commands that match do there instead of being run."""

    def __init__(self, folder: Path, project: Path) -> None:
        self.folder = folder
        self.project = project
        self.log = folder.with_name("sparrowdo.log")
        self._answers = folder.with_name(f"{folder.name}.answers")
        self._answers.write_text("")
        (folder / "bin").mkdir(parents=True)

    def answer(self, pattern: str, body: str) -> None:
        with self._answers.open("a") as stream:
            stream.write(f'case "$line" in {pattern})\n{body}\n;; esac\n')

    def do(self, watch: Callable[[], None] = lambda: None, **fields: Any) -> dict[str, str]:
        return bootstrap.carry_out(
            Sparrowdo.model_validate(fields),
            ssh.Target(port=free_port(), key=self.project / "key"),
            project=self.project,
            time_factor=1,
            log=self.log,
            watch=watch,
            note=lambda text: self.log.with_suffix(".notes").open("a").write(f"{text}\n"),  # type: ignore[func-returns-value]
        )

    @property
    def notes(self) -> list[str]:
        return self.log.with_suffix(".notes").read_text().splitlines()

    def fails(self, kind: type[GoldenError] = ToolError, **fields: Any) -> GoldenError:
        with pytest.raises(kind) as caught:
            self.do(**fields)
        return caught.value


@pytest.fixture
def guest(tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Guest:
    made = Guest(tmp_path / "guest", tmp_path / "project")
    made.project.mkdir()
    made.folder.with_name("guest.raku").write_text(stand_in.RAKU)
    made.folder.with_name("guest.raku").chmod(0o755)
    fake("ssh", SSH.format(guest=made.folder))
    fake("scp", SCP.format(guest=made.folder))
    stand_in.install(tmp_path / "bin")
    sudo = made.folder / "bin" / "sudo"
    sudo.write_text(f"#!/bin/sh\n{SUDO}")
    sudo.chmod(0o755)
    monkeypatch.setattr(command, "WAITS_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(command, "SETTLE_S", 0.3)
    return made


def test_the_whole_step(guest: Guest) -> None:
    """Bootstrap, a sparrowfile with its tasks, tags and secrets, the smoke run; nothing is left behind."""
    folder = guest.project / "sparrow"
    (folder / "tasks" / "hello").mkdir(parents=True)
    (folder / "tasks" / "hello" / "task.bash").write_text("echo hello\n")
    (folder / "beside").write_text("not taken along\n")
    (folder / "ci.raku").write_text('bash "ls > $HOME/seen; echo $TOKEN $SP6_TAGS >> $HOME/seen";\nexit 0;\n')
    (guest.project / "secrets.env").write_text("TOKEN=t0p\n")
    found = guest.do(
        sparrowfiles=["sparrow/ci.raku"], secrets="secrets.env", tags={"os": "el9", "quick": ""}, is_sudo=False
    )
    assert found == {"raku": "2022.12", "sparrow6": "0.0.94"}
    assert (guest.folder / "seen").read_text().splitlines() == [
        "bootstrap.sh",
        "sparrowfile",
        "sparrowrun.sh",
        "tasks",
        "t0p os=el9,quick",
    ]
    assert guest.notes == ["looking at the guest", "the bootstrap", "sparrow/ci.raku", "the smoke sparrowfile"]
    assert not (guest.folder / ".sparrowdo" / "env").exists()
    assert "t0p" not in guest.log.read_text()


SPAWNED = [
    # what the guest does, in which command; the error's headline; phase, status in the guest, tries
    (
        '*"rm -rf .sparrowdo"*',
        "exit 255",
        "could not bootstrap Sparrowdo in the guest: ssh does not get into the guest",
        ("connect", "exit 255 of ssh", "4"),
    ),
    (
        "*bootstrap.sh*",
        "echo '===> Searching for: OpenSSL'; echo 'No candidates found matching identity: OpenSSL'; exit 255",
        "could not bootstrap Sparrowdo in the guest: zef finds no module of that name: its index is empty, or it has "
        "no network",
        ("bootstrap", "exit 255 in the guest", "4"),
    ),
    (
        "*bootstrap.sh*",
        "exit 7",
        "could not bootstrap Sparrowdo in the guest: the bootstrap ended with 7 in the guest",
        ("bootstrap", "exit 7 in the guest", None),
    ),
    (
        "*bootstrap.sh*",
        "exit 4",
        "could not bootstrap Sparrowdo in the guest: wget got nothing from the network",
        ("bootstrap", "exit 4 in the guest", None),
    ),
    (
        "*bootstrap.sh*",
        "echo 'Error: no match for argument'; exit 1",
        "could not bootstrap Sparrowdo in the guest: a package manager in the guest failed",
        ("bootstrap", "exit 1 in the guest", None),
    ),
    (
        "*bootstrap.sh*",
        "echo 'Error: Failed to download metadata for repo'; exit 1",
        "could not bootstrap Sparrowdo in the guest: the guest's package manager cannot read its repositories",
        ("bootstrap", "exit 1 in the guest", "4"),
    ),
    (
        "*bootstrap.sh*",
        r"printf 'Your OS (almalinux) is not supported\r\n'; exit 1",
        "could not bootstrap Sparrowdo in the guest: Sparrowdo's bootstrap does not support this operating system",
        ("bootstrap", "exit 1 in the guest", None),
    ),
    (
        "*sparrowrun.sh*",
        "echo 'line 9: raku: command not found' >&2; exit 127",
        "could not run the smoke sparrowfile in the guest: the guest is not bootstrapped: there is no Sparrow6 in it",
        ("tasks", "exit 127 in the guest", None),
    ),
    (
        "*sparrowrun.sh*",
        r"printf '\033[31m===\033[0mSORRY!\033[31m===\033[0m\nCould not find Sparrow6::Task::Repository in:\n'; exit 1",
        "could not run the smoke sparrowfile in the guest: the guest is not bootstrapped: there is no Sparrow6 in it",
        ("tasks", "exit 1 in the guest", None),
    ),
    (
        "*sparrowrun.sh*",
        r"printf '\033[31m===SORRY!===\033[0m Error while compiling sparrowfile\r\nConnection reset\r\n'; exit 1",
        "could not run the smoke sparrowfile in the guest: Raku code does not compile",
        ("tasks", "exit 1 in the guest", None),
    ),
    (
        "*sparrowrun.sh*",
        "echo 'unknown plugin bash'; exit 1",
        "could not run the smoke sparrowfile in the guest: "
        "a plugin is neither in the guest's cache nor in a repository",
        ("tasks", "exit 1 in the guest", None),
    ),
    (
        "*sparrowrun.sh*",
        "echo '[task check] stdout match <x> False'; echo 'TASK CHECK FAIL'; exit 2",
        "could not run the smoke sparrowfile in the guest: the check of a task failed",
        ("tasks", "exit 2 in the guest", None),
    ),
    (
        "*sparrowrun.sh*",
        "exit 101",
        "could not run the smoke sparrowfile in the guest: a hook of a task failed",
        ("tasks", "exit 101 in the guest", None),
    ),
    (
        "*sparrowrun.sh*",
        "echo 'cat: nothing: No such file or directory'; echo 'task exit status: 1'; echo 'task bash FAILED'; exit 1",
        "could not run the smoke sparrowfile in the guest: the sparrowfile ended with 1",
        ("tasks", "exit 1 in the guest", None),
    ),
    (
        "*sparrowrun.sh*",
        "exit 255",
        "could not run the smoke sparrowfile in the guest: "
        "the connection to the guest broke, or the sparrowfile itself ended with 255",
        ("tasks", "exit 255 in the guest", None),
    ),
    (
        "*sparrowrun.sh*",
        "exit 42",
        "could not run the smoke sparrowfile in the guest: the sparrowfile ended with 42",
        ("tasks", "exit 42 in the guest", None),
    ),
]


@pytest.mark.parametrize(("pattern", "body", "what", "rows"), SPAWNED, ids=[row[2].split(": ")[-1] for row in SPAWNED])
def test_a_failed_run_says_phase_cause_and_what_to_do(
    guest: Guest, pattern: str, body: str, what: str, rows: tuple[str, str, str | None]
) -> None:
    guest.answer(pattern, body)
    error = guest.fails()
    found = dict(error.details)
    assert error.what == what
    assert (found["phase"], found["end"], found.get("tries")) == rows
    assert error.try_next
    assert error.log == guest.log
    assert "\x1b" not in found["output"] and "\r" not in found["output"]


def test_a_passing_failure_passes(guest: Guest) -> None:
    count = guest.folder / "count"
    guest.answer(
        "*bootstrap.sh*", f"echo >> {count}; [ $(wc -l < {count}) -ge 3 ] || {{ echo 'Could not get lock'; exit 1; }}"
    )
    guest.do()
    assert [line for line in guest.notes if "another try" in line] == [
        "the bootstrap: another package manager is at work in the guest; another try in 0 s"
    ] * 2


def test_no_more_tries_than_the_step_says(guest: Guest) -> None:
    guest.answer("*bootstrap.sh*", "echo 'Could not resolve host: example.org'; exit 6")
    error = guest.fails(retries=0)
    assert error.what.endswith("a name was not resolved in the guest")
    assert "tries" not in dict(error.details)


@pytest.mark.parametrize(
    "reason",
    [
        "ssh: connect to host 127.0.0.1 port 22: Connection refused",
        "root@127.0.0.1: Permission denied (publickey).",
        "root@127.0.0.1: Permission denied (publickey,password).",  # what an unknown user gets, too
        "Connection timed out during banner exchange",
    ],
)
def test_why_ssh_does_not_get_in_is_told_before_sparrowdo_hides_it(guest: Guest, reason: str) -> None:
    guest.answer(LOGIN, f"echo '{reason}' >&2; exit 255")
    error = guest.fails()
    assert error.what == "the guest does not let 'root' in over SSH"
    assert dict(error.details)["ssh says"] == reason
    assert not guest.log.exists()  # Sparrowdo was never started


def test_the_reason_of_a_failed_connection_is_asked_of_ssh(guest: Guest) -> None:
    guest.answer('*"rm -rf .sparrowdo"*', f"touch {guest.folder}/gone; exit 255")
    guest.answer(LOGIN, f"[ ! -e {guest.folder}/gone ] || {{ echo 'No route to host' >&2; exit 255; }}")
    assert dict(guest.fails().details)["ssh says"] == "No route to host"


def test_sudo_with_a_password_is_refused_before_anything_hangs(guest: Guest) -> None:
    guest.answer('*"sudo -n true"*', "echo 'sudo: a password is required' >&2; exit 1")
    error = guest.fails(user="tester")
    assert error.what == ("sudo in the guest wants a password of 'tester', and Sparrowdo would wait for it for ever")
    assert "tester ALL=(ALL) NOPASSWD: ALL" in str(error.try_next)
    assert "sudo: a password is required" in dict(error.details)["output"]


def test_a_guest_without_sudo(guest: Guest) -> None:
    guest.answer('*"command -v sudo"*', "exit 127")
    error = guest.fails()
    assert error.what == "there is no sudo in the guest, by which Sparrowdo bootstraps"
    assert error.try_next == '{ install = ["sudo"] } in a step before'


def test_a_question_for_a_password_ends_the_run_with_all_its_processes(guest: Guest, family: Family) -> None:
    """Where only Sparrowdo's own sudo asks. It would hang there until the deadline."""
    guest.answer("*bootstrap.sh*", f"{family.join}\nprintf '[sudo] password for tester: '; sleep 1000")
    begin = time.monotonic()
    error = guest.fails()
    assert time.monotonic() - begin < 500
    assert error.what == (
        "could not bootstrap Sparrowdo in the guest: "
        "sudo in the guest asks for a password, which nobody is there to type"
    )
    assert family.has_ended()


@pytest.mark.parametrize(("script", "phase"), [("bootstrap.sh", "bootstrap"), ("sparrowrun.sh", "tasks")])
def test_a_run_that_hangs_is_ended_with_all_its_processes(
    guest: Guest, family: Family, script: str, phase: str
) -> None:
    """What a dead guest looks like if nobody watches it."""
    guest.answer(f"*{script}*", f"{family.join}\necho installing; sleep 1000")
    error = guest.fails(timeout_s=8, bootstrap=phase == "bootstrap")
    assert "it was still running after" in error.what
    assert dict(error.details)["phase"] == phase
    assert dict(error.details)["output"] == "installing"
    assert family.has_ended()


def test_a_guest_that_dies_ends_the_run(guest: Guest, family: Family) -> None:
    guest.answer("*bootstrap.sh*", f"{family.join}\nsleep 1000")

    def watch() -> None:
        if guest.log.exists() and "--bootstrap" in guest.log.read_text() and family.has_started(0):
            raise ToolError("the guest died: it went off")

    with pytest.raises(ToolError, match="the guest died: it went off"):
        guest.do(watch)
    assert family.has_ended()


def test_a_guest_that_takes_its_connections_with_it_is_told_by_its_death(guest: Guest) -> None:
    """ssh may end before anybody has looked at the guest."""
    guest.answer("*bootstrap.sh*", f"touch {guest.folder}/dead; exit 255")
    dead = guest.folder / "dead"

    def watch() -> None:
        """Looks seldom: not before 0.2 s have passed, which is after the run ended."""
        if dead.exists() and "exit code: 255" in guest.log.read_text() and time.time() - dead.stat().st_mtime > 0.2:
            raise ToolError("the guest died: it went off")

    with pytest.raises(ToolError, match="the guest died: it went off"):
        guest.do(watch)


def test_an_unknown_option_is_not_tried_again(guest: Guest, fake: Fake) -> None:
    fake("sparrowdo", 'echo "Usage:" >&2; echo x >> "$0.count"; exit 2')
    error = guest.fails()
    assert error.what.endswith("this Sparrowdo does not know the options that golden gives it")
    assert len((guest.folder.parent / "bin" / "sparrowdo.count").read_text().splitlines()) == 1


def test_exit_0_without_the_final_words_is_no_bootstrap(guest: Guest, fake: Fake) -> None:
    fake("sparrowdo", "echo 'queue build for [worker_01] on [127.0.0.1] id = x'")
    error = guest.fails(VerifyError)
    assert error.what == ("could not bootstrap Sparrowdo in the guest: it ended well, and never said its final words")
    assert "queue build" in dict(error.details)["output"]


def test_exit_0_of_another_sparrowfile_is_no_success(guest: Guest, tmp_path: Path) -> None:
    """What two runs in one folder do to each other."""
    other = tmp_path / "other.raku"
    other.write_text('say "golden: smoke of somebody else";\n')
    guest.answer("*sparrowrun.sh*", f"cp {other} .sparrowdo/env/default/.sparrowdo/sparrowfile")
    error = guest.fails(VerifyError)
    assert error.what == (
        "could not run the smoke sparrowfile: Sparrowdo ended well, and it was not this sparrowfile that ran to its end"
    )


def test_a_smoke_run_without_its_words_is_no_success(guest: Guest) -> None:
    """Something that is no Raku says every last line, and nothing else."""
    (guest.folder.with_name("guest.raku")).write_text("#!/bin/sh\nsed -n 's/^END.*q.\\(.*\\)\\]; };.*/\\1/p' \"$2\"\n")
    error = guest.fails(VerifyError)
    assert error.what == ("the guest is not bootstrapped: Sparrowdo ended well, and its smoke sparrowfile did not run")


def test_other_versions_than_the_step_says(guest: Guest) -> None:
    error = guest.fails(VerifyError, versions={"raku": "2022.12", "sparrow6": "0.0.95"})
    assert error.details == [("sparrow6", "0.0.94, and the step says 0.0.95")]


def test_a_name_that_is_not_resolved(guest: Guest) -> None:
    guest.answer("*getent*", "echo 'golden: mirror.example.org is not resolved' >&2; exit 1")
    assert guest.fails(resolves=["mirror.example.org"]).what == "the guest cannot resolve 'mirror.example.org'"


def test_cloud_init_is_waited_for(guest: Guest, fake: Fake) -> None:
    fake("cloud-init", f'echo "$@" > {guest.folder}/asked; echo "status: error"; exit 1')
    error = guest.fails()
    assert error.what == "cloud-init does not come to its end in the guest"
    assert (guest.folder / "asked").read_text() == "status --wait\n"


def test_each_run_has_an_empty_folder_of_its_own(guest: Guest, fake: Fake) -> None:
    """Whatever is in the folder that golden was started in; the user's own environment does not count either."""
    real = shutil.which("sparrowdo")
    fake("sparrowdo.real", f'exec "{real}.py" "$@"')
    (guest.folder.parent / "bin" / "sparrowdo").rename(guest.folder.parent / "bin" / "sparrowdo.py")
    seen = guest.folder / "runs"
    fake("sparrowdo", f'echo "$PWD $(ls -A | wc -l) ${{SPARROWDO_ENV_FILE-unset}}" >> {seen}; exec sparrowdo.py "$@"')
    guest.do()
    folders = [line.split() for line in seen.read_text().splitlines()]
    assert [words[1:] for words in folders] == [["0", "unset"]] * 2
    assert len({words[0] for words in folders}) == 2
    assert not any(Path(words[0]).exists() for words in folders)


def test_a_mirror_is_brought_and_taken_out_again(guest: Guest) -> None:
    mirror = guest.project / "mirror"
    mirror.mkdir()
    error = guest.fails(ConfigError, zef="mirror")
    assert error.what == f"'{mirror}' is no mirror for zef: there is no distribution in it"
    (mirror / "Some-Module").mkdir()
    (mirror / "Some-Module" / "META6.json").write_text('{"name": "Some::Module"}')
    commands = guest.folder / "commands"
    guest.answer("*golden-zef*", f'printf "%s\\n" "$line" >> {commands}; exit 0')
    guest.answer("*bootstrap.sh*", f"echo bootstrap >> {commands}; tar -xOf {guest.folder}/var/tmp/golden-zef.tar")
    guest.do(zef="mirror")
    before, after = commands.read_text().split("bootstrap\n")
    assert "cp /var/tmp/golden-zef/config.json /root/.config/zef/config.json" in before
    assert "rm -rf /var/tmp/golden-zef /root/.config/zef/config.json" in after
    assert '"path": "0"' in guest.log.read_text()


def test_without_the_program_it_is_said_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError) as caught:
        bootstrap.check(Sparrowdo(), project=tmp_path)
    assert caught.value.what == "could not run Sparrowdo: the program 'sparrowdo' is not on this machine"
    assert "zef install --/test Sparrowdo" in str(caught.value.try_next)


def test_secrets_that_are_not_there(guest: Guest) -> None:
    with pytest.raises(ConfigError) as caught:
        bootstrap.check(Sparrowdo(secrets="secrets.env"), project=guest.project)
    assert caught.value.what == f"the secrets of the step 'sparrowdo' are not there: {guest.project}/secrets.env"


def test_a_place_that_cannot_be_handed_over(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = guest.project / "a folder"
    odd.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(odd))
    error = guest.fails(HostError)
    assert error.what.endswith("cannot be handed to Sparrowdo, which quotes nothing")

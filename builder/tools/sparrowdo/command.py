"""One run of Sparrowdo: its arguments, a private folder for it, its end.

Sparrowdo works in the folder that it is started in: it removes `.sparrowdo` there, runs a stray `sparrowfile`, takes a
file that is named like the host for a list of hosts, and two runs in one folder run each other's sparrowfiles and end
with 0. So each run has a folder of its own, with nothing in it but what is to go along.
"""

from __future__ import annotations

import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import Field

from builder import run, trees
from builder.errors import ConfigError, HostError, ToolError, VerifyError
from builder.model import Frozen
from builder.steps import HARNESS
from builder.tools import ssh
from builder.tools.sparrowdo import failures
from builder.tools.sparrowdo.failures import Failure

PROGRAM = "sparrowdo"

# What goes unquoted into a shell line of Sparrowdo's.
_PLAIN = re.compile(r"[A-Za-z0-9_./@:-]+")

# Seconds before the second, third and fourth try; a guest that has just booted settles within the first two.
WAITS_S: tuple[float, ...] = (10.0, 30.0, 60.0)

# How long a guest that broke its connections gets to be seen dead, in seconds; `watch` then says so.
SETTLE_S = 3.0

_WORDS = "Congratulations!"

# Comments and empty lines, and the language's version.
_LANGUAGE = re.compile(r"(?:\s*#[^\n]*\n)*\s*use\s+v6[\w.*]*\s*;")
_TAIL_BYTES = 4096

# Of the user's environment: they would put other files, or none, into the guest.
_UNSET = ("SPARROWDO_ENV_FILE", "SP6_CARTON_OFF")

# What golden's own line begins with in a log, before what Sparrowdo says.
FIRST_WORDS = f"$ env -u {_UNSET[0]} ".encode()


class Job(Frozen):
    """What one run is to do: the bootstrap, if there is no text, or a sparrowfile.

    title: for people. text: the sparrowfile's. project, folder: the project's folder and, in it, the one whose tasks,
    files, … go along, None for none. repository: "public", an http URL, an absolute folder, or None to look for no
    plugin anywhere. tags, is_sudo: as in the step. secrets: file of variables.
    """

    title: str
    text: str | None = None
    project: Path | None = None
    folder: str | None = None
    repository: str | None = None
    tags: dict[str, str] = Field(default_factory=dict)
    secrets: Path | None = None
    is_sudo: bool = False

    @property
    def calls(self) -> failures.Phase:
        return "bootstrap" if self.text is None else "tasks"


class Ended(Frozen):
    """How a run, with all its tries, ended. failure: None if it did what it should. output: of the last try."""

    failure: Failure | None
    output: str
    tries: int
    argv: tuple[str | Path, ...]


def program() -> Path:
    """Where sparrowdo is. Raises HostError with how to install it."""
    found = shutil.which(PROGRAM)
    if found is None:
        raise HostError(
            "could not run Sparrowdo: the program 'sparrowdo' is not on this machine",
            try_next="install Rakudo and zef, then: zef install --/test Sparrowdo, and put its folder on PATH",
        )
    return Path(found)


def argv(job: Job, target: ssh.Target, *, place: Path) -> list[str | Path]:
    """The command. place: the private folder that `write` filled; it stands in for every path of the user's."""
    words: list[str | Path] = ["env"]
    for name in _UNSET:
        words += ["-u", name]
    words += ["-C", place / "run", PROGRAM]
    words += [f"--host={target.host}", f"--ssh_port={target.port}", f"--ssh_user={target.user}"]
    words.append(f"--ssh_private_key={place / 'key'}")
    if job.text is None:
        return [*words, "--bootstrap"]
    if not job.is_sudo:
        words.append("--no_sudo")
    if job.repository is None:
        words.append("--no_index_update")
    elif "://" in job.repository:
        words.append(f"--repo={job.repository}")
    elif job.repository != "public":
        words.append(f"--sync={place / 'repository'}")
    if job.tags:
        words.append("--tags=" + ",".join(f"{name}={text}" if text else name for name, text in job.tags.items()))
    if job.secrets is not None:
        words.append(f"--secretsfile={place / 'secrets.env'}")
    return [*words, f"--sparrowfile={place / 'sparrowfile.raku'}"]


def write(job: Job, target: ssh.Target, *, place: Path, nonce: str = "") -> None:
    """Fill `place`: `run/` to run in, and beside it what the arguments name. nonce: said when the sparrowfile ends."""
    (place / "run").mkdir(parents=True)
    (place / "key").symlink_to(target.key.absolute())
    if job.text is not None:
        (place / "sparrowfile.raku").write_text(_with_nonce(job.text, nonce), encoding="utf-8")
    if job.secrets is not None:
        _copy_secrets(job.secrets, place / "secrets.env")
    if job.repository is not None and job.repository.startswith("/"):
        shutil.copytree(job.repository, place / "repository", symlinks=True)
    if job.project is not None and job.folder is not None:
        for name in HARNESS:
            source = str(Path(job.folder) / name)
            if (job.project / source).exists():
                _copy(job.project, source, place / "run" / name)


def carry_out(
    job: Job,
    target: ssh.Target,
    *,
    retries: int,
    deadline: float,
    log: Path,
    watch: Callable[[], None],
    note: Callable[[str], None],
    is_test: bool = False,
) -> Ended:
    """Run `job`, and again after a failure that may pass. deadline: of time.monotonic(), for all tries and waits.

    watch: called several times a second; what it raises ends the run. is_test: once its tasks have begun it is never
    run again. Raises what `watch` raises, and VerifyError for a run that ended well without having done its work.
    """
    for number in range(retries + 1):
        ended = _try(job, target, tries=number + 1, deadline=deadline, log=log, watch=watch)
        failure = ended.failure
        if failure is not None and failure.status == 255:
            _wait(SETTLE_S, watch)
        is_final = failure is None or not failure.is_passing or (is_test and failure.phase == "tasks")
        wait_s = WAITS_S[min(number, len(WAITS_S) - 1)]
        if is_final or number == retries or time.monotonic() + wait_s >= deadline:
            return ended
        note(f"{job.title}: {failure.cause if failure else ''}; another try in {wait_s:.0f} s")
        _wait(wait_s, watch)
    raise AssertionError("a run has at least one try")


def error(job: Job, ended: Ended, target: ssh.Target, *, why: str, log: Path | None) -> ToolError:
    """A failed run in the user's words. why: what could not be done. ssh is asked for reasons that Sparrowdo hides."""
    failure = ended.failure
    if failure is None:
        raise AssertionError(f"{job.title} did not fail")
    details = [("phase", failure.phase), ("command", run.printable(ended.argv))]
    if failure.status is not None:
        details.append(("end", f"exit {failure.status} {'of ssh' if failure.phase == 'connect' else 'in the guest'}"))
    if ended.tries > 1:
        details.append(("tries", str(ended.tries)))
    if failure.phase == "connect":
        details.append(("ssh says", ssh.why_no_login(target) or "nothing: it gets in now"))
    lines = [line for line in ended.output.splitlines() if line.strip()]
    details.append(("output", "\n".join(lines[-run.TAIL_LINES :]) or "(none)"))
    return ToolError(f"could not {why}: {failure.cause}", details=details, log=log, try_next=failure.try_next)


class _Asked(Exception):
    """sudo asked for a password."""


def _try(job: Job, target: ssh.Target, *, tries: int, deadline: float, log: Path, watch: Callable[[], None]) -> Ended:
    with tempfile.TemporaryDirectory(prefix="golden-sparrowdo-") as directory:
        place, nonce = Path(directory).resolve(), secrets.token_hex(8)
        _need_plain(str(place), target.host, target.user)
        write(job, target, place=place, nonce=nonce)
        words = argv(job, target, place=place)
        begin = log.stat().st_size if log.exists() else 0
        timeout_s = max(deadline - time.monotonic(), 1.0)

        def look() -> None:
            watch()
            if failures.PROMPT.search(_tail(log, begin)):
                raise _Asked

        failure: Failure | None = None
        try:
            status = run.run(words, why=f"run {job.title}", timeout_s=timeout_s, log=log, ok=range(256), watch=look)
            output = _said(log, begin)
            if status:
                failure = failures.explain(output, status=status, calls=job.calls)
        except _Asked:
            output, failure = _said(log, begin), failures.asked(job.calls)
        except ToolError as late:
            if not dict(late.details).get("end", "").startswith("ended by golden"):
                raise
            output, failure = _said(log, begin), failures.late(job.calls, timeout_s)
        if failure is None:
            _need_done(job, output, nonce, log=log)
        return Ended(failure=failure, output=output, tries=tries, argv=tuple(words))


def _need_plain(*texts: str) -> None:
    for text in texts:
        if not _PLAIN.fullmatch(text):
            raise HostError(
                f"'{text}' cannot be handed to Sparrowdo, which quotes nothing", try_next="TMPDIR=/tmp golden …"
            )


def _need_done(job: Job, output: str, nonce: str, *, log: Path) -> None:
    if job.text is None and _WORDS not in output:
        raise VerifyError(
            "could not bootstrap Sparrowdo in the guest: it ended well, and never said its final words",
            details=[("expected", _WORDS), ("output", "\n".join(output.splitlines()[-run.TAIL_LINES :]) or "(none)")],
            log=log,
            try_next="look at the log; an image is made of a whole bootstrap only",
        )
    if job.text is not None and nonce not in output:
        raise VerifyError(
            f"could not run {job.title}: Sparrowdo ended well, and it was not this sparrowfile that ran to its end",
            details=[("expected", _mark(nonce)), ("output", "\n".join(output.splitlines()[-run.TAIL_LINES :]))],
            log=log,
            try_next="look at the log; nothing else may write to the folder that Sparrowdo runs in",
        )


def _mark(nonce: str) -> str:
    return f"golden: sparrowfile {nonce} ended"


def _with_nonce(text: str, nonce: str) -> str:
    """The sparrowfile, which also says at its end that it was this one. An END block runs at `exit 0`, too.

    In front of all, as a last statement needs no semicolon; but after `use v6`, which has to be the first. On the same
    line, so that messages name the right ones, unless that is Pod, which begins one.
    """
    version = _LANGUAGE.match(text)
    head = version[0] if version else ""
    rest = text[len(head) :]
    return f"{head}END {{ say q[{_mark(nonce)}]; }};" + ("\n" if rest.startswith("=") else " ") + rest


def _copy_secrets(source: Path, target: Path) -> None:
    try:
        text = source.read_bytes()
    except OSError as error:
        raise ConfigError(f"the secrets in {source} cannot be read: {error.strerror}") from error
    target.touch(mode=0o600)
    target.write_bytes(text)


def _copy(project: Path, source: str, target: Path) -> None:
    """What counts in the content key, and nothing more."""
    for entry in trees.entries(project, source):
        to = target / entry.relative if entry.relative else target
        if entry.kind == "folder":
            to.mkdir()
        elif entry.kind == "link":
            to.symlink_to(entry.target)
        else:
            shutil.copy(entry.path, to)


def _said(log: Path, begin: int) -> str:
    """What was said since byte `begin`, without golden's own line with the command."""
    text = failures.plain(log.read_bytes()[begin:])
    return text.partition("\n")[2] if text.startswith("$ ") else text


def _tail(log: Path, begin: int) -> str:
    with log.open("rb") as stream:
        stream.seek(max(begin, log.stat().st_size - _TAIL_BYTES))
        return stream.read().decode(errors="replace")


def _wait(seconds: float, watch: Callable[[], None]) -> None:
    end = time.monotonic() + seconds
    while (left_s := end - time.monotonic()) > 0:
        watch()
        time.sleep(min(0.2, left_s))
    watch()

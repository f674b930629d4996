"""The step `sparrowdo`: checked, bootstrapped, filled, proven by a run like a test's, cleaned."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from builder.errors import ConfigError, VerifyError
from builder.steps import Sparrowdo
from builder.tools import ssh
from builder.tools.sparrowdo import command, guest
from builder.tools.sparrowdo.command import Ended, Job

# For each question and small script of golden's own: a login and what it does. Seconds with KVM.
_QUESTION_S = 120.0

# Says what runs the sparrowfiles: what a test will find, by the way that a test will go. Sparrow6 is asked for by its
# distribution: where Sparrow6::DSL is loaded, as it is here, $Sparrow6::VERSION is undefined (tried with 0.0.94).
_SMOKE = """\
my $found = $*REPO.resolve(CompUnit::DependencySpecification.new(:short-name<Sparrow6>)).distribution;
my $sparrow6 = $found.meta<ver version>.first(*.defined);
say "golden: smoke {nonce} raku=" ~ $*RAKU.compiler.version ~ " sparrow6=" ~ $sparrow6 ~ " .";
"""
_VERSION = r"v?([A-Za-z0-9.+~_]+)"

_FETCH = """\
use Sparrow6::Task::Repository;
Sparrow6::Task::Repository::Api.new.plugin-install($_, %()) for <{names}>;
"""


def check(step: Sparrowdo, *, project: Path) -> None:
    """Raises HostError without the program, ConfigError without the secrets; before anything is started."""
    command.program()
    if step.secrets is not None and not (project / step.secrets).is_file():
        raise ConfigError(
            f"the secrets of the step 'sparrowdo' are not there: {project / step.secrets}",
            try_next="write them, one NAME=value in a line; they go into no image and no log of golden's",
        )
    for path in step.sparrowfiles:
        if not (project / path).is_file():
            raise ConfigError(f"the sparrowfile '{path}' is no file of the project")


BOOTSTRAP = Job(title="the bootstrap")


def jobs(step: Sparrowdo, *, project: Path) -> Iterator[Job]:
    """The runs of the step between its bootstrap and its smoke run, in their order."""
    folder = step.repository_folder
    repository = str((project / folder).resolve()) if folder else step.repository
    if step.plugins:
        # As the tests will run, since each user has a cache of their own.
        text = _FETCH.format(names=" ".join(step.plugins))
        yield Job(title=f"the download of {', '.join(step.plugins)}", text=text, repository=repository)
    for path in step.sparrowfiles:
        yield Job(
            title=path,
            text=(project / path).read_text(encoding="utf-8"),
            project=project,
            folder=str(Path(path).parent),
            repository=repository,
            tags=step.tags,
            secrets=project / step.secrets if step.secrets else None,
            is_sudo=step.is_sudo,
        )


def smoke_job(nonce: str) -> Job:
    """A sparrowfile that says `nonce`, run as tests run: as the user, with no sudo, with what is in the guest."""
    return Job(title="the smoke sparrowfile", text=_SMOKE.replace("{nonce}", nonce))


def carry_out(
    step: Sparrowdo,
    root: ssh.Target,
    *,
    project: Path,
    time_factor: float,
    log: Path,
    watch: Callable[[], None],
    note: Callable[[str], None],
) -> dict[str, str]:
    """Do the step on a running guest; returns the versions of "raku" and "sparrow6" that are in it now.

    root: the way in for golden itself. time_factor: what time limits are multiplied by. Raises ToolError, or
    VerifyError for work that was said to be done and is not. The guest is then worth nothing.
    """
    user = root.model_copy(update={"user": step.user})
    deadline, question_s = time.monotonic() + step.timeout_s * time_factor, _QUESTION_S * time_factor
    note("looking at the guest")
    names = [*step.resolves, *_hosts(step)]
    needs_sudo = step.bootstrap or (step.is_sudo and bool(step.sparrowfiles))
    guest.check(user, needs_sudo=needs_sudo, names=names, timeout_s=question_s, log=log, watch=watch)

    def done(job: Job) -> Ended:
        note(job.title)
        ended = command.carry_out(job, user, retries=step.retries, deadline=deadline, log=log, watch=watch, note=note)
        if ended.failure is not None:
            why = "bootstrap Sparrowdo in the guest" if job.text is None else f"run {job.title} in the guest"
            raise command.error(job, ended, user, why=why, log=log)
        return ended

    folder = project / step.zef if step.zef else None
    with guest.zef_mirror(root, folder, timeout_s=question_s, log=log):
        if step.bootstrap:
            done(BOOTSTRAP)
        if step.modules:
            left_s = max(deadline - time.monotonic(), 1.0)
            guest.install_modules(root, step.modules, timeout_s=left_s, log=log)
    for job in jobs(step, project=project):
        done(job)
    nonce = secrets.token_hex(8)
    versions = read_smoke(done(smoke_job(nonce)).output, nonce, log=log)
    need_versions(step.versions, versions)
    guest.clean(root, user, timeout_s=question_s, log=log)
    return versions


def read_smoke(output: str, nonce: str, *, log: Path | None) -> dict[str, str]:
    """The versions that a smoke run said. Raises VerifyError if it did not say them, or was another's."""
    found = re.search(rf"golden: smoke {nonce} raku={_VERSION} sparrow6={_VERSION} \.", output)
    if found is None:
        raise VerifyError(
            "the guest is not bootstrapped: Sparrowdo ended well, and its smoke sparrowfile did not run",
            details=[("output", "\n".join(output.splitlines()[-20:]) or "(none)")],
            log=log,
        )
    return {"raku": found[1], "sparrow6": found[2]}


def need_versions(wanted: dict[str, str], found: dict[str, str]) -> None:
    """Raises VerifyError if the bootstrap brought other versions than the recipe says."""
    wrong = [
        (name, f"{found.get(name)}, and the step says {version}")
        for name, version in wanted.items()
        if found.get(name) != version
    ]
    if wrong:
        raise VerifyError(
            "the bootstrap brought other versions than 'versions' in the step says",
            details=wrong,
            try_next="change 'versions', or give a mirror that has them, zef = \"FOLDER\"",
        )


def _hosts(step: Sparrowdo) -> list[str]:
    host = urlsplit(step.repository).hostname if step.repository and "://" in step.repository else None
    return [host] if host else []

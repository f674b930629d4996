"""dnf into a root of its own, apart from this machine's packages, repositories and plugins.

By hand, on a machine whose dnf knows the channel, `dnf install golden-rocky9-base`; into another root, with the .repo
file of `golden repo client-config`:
    dnf --config=FILE.repo --setopt=reposdir=/dev/null --installroot=ROOT --releasever=9 install golden-rocky9-base
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from builder.run import query, run


def argv(*words: str, root: Path, repo_file: Path, cache: Path) -> list[str | Path]:
    """A dnf command line, such as `argv("install", "golden-rocky9-base", …)`, that knows nothing of this machine.

    repo_file: the repositories; dnf takes it as its main configuration, which may hold repositories too.
    """
    return [
        "dnf",
        "-y",
        f"--config={repo_file}",
        "--setopt=reposdir=/dev/null",
        f"--installroot={root}",
        # Nothing in golden's repositories depends on it, but dnf looks for it in the root, which may be empty.
        "--releasever=9",
        "--setopt=plugins=0",
        f"--setopt=cachedir={cache}",
        "--setopt=varsdir=/dev/null",
        *words,
    ]


def install_into_root(
    packages: Sequence[str], *, root: Path, repo_file: Path, cache: Path, log: Path, timeout_s: float = 1800
) -> None:
    """Install packages from the repositories of `repo_file` into `root`, which may be empty. Needs root's rights.

    cache: downloads are kept there until the transaction is done. timeout_s: seconds.
    Raises HostError if dnf is missing, ToolError if it fails.
    Source: dnf(8), "--installroot".
    """
    root.mkdir(parents=True, exist_ok=True)
    run(
        argv("install", *packages, root=root, repo_file=repo_file, cache=cache),
        why=f"install {', '.join(packages)} into {root}",
        timeout_s=timeout_s,
        log=log,
    )


def newest(pattern: str, *, repo_file: Path | None, cache: Path, timeout_s: float = 120) -> dict[str, str]:
    """Name -> version of the newest of each package that matches, as the repositories have it.

    repo_file: the repositories; None for those of this machine. Raises HostError without dnf, ToolError if they do
    not answer. Source: dnf(8), "repoquery"; dnf5 ends no line by itself.
    """
    where: list[str | Path] = []
    if repo_file is not None:
        # -y: the key that the file names is taken into the cache, which is thrown away, and nowhere else.
        where = ["-y", f"--config={repo_file}", "--setopt=reposdir=/dev/null", "--setopt=plugins=0"]
        where += [f"--setopt=cachedir={cache}", "--setopt=varsdir=/dev/null"]
    words = ["repoquery", "--quiet", "--latest-limit=1", "--queryformat=%{name} %{version}\n", pattern]
    answer = query(["dnf", *where, *words], why="ask which images the channel has", timeout_s=timeout_s)
    return dict(line.split() for line in answer.splitlines() if len(line.split()) == 2)

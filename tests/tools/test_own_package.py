"""golden as a wheel and as an RPM of its own, by the real pip, rpmbuild and dnf, without a network.

Python itself and the libraries are those of this test run: where the RPM is installed, a stand-in says that they are
there, in the versions that they have here, and dnf decides whether that is enough.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import click
import pytest

from builder import __version__
from builder.cli import golden
from builder.errors import ToolError
from builder.run import query
from builder.tools import dnf

TOP = Path(__file__).parents[2]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

STAND_IN = """\
Name: python-of-this-machine
Version: 1
Release: 1
Summary: Stand-in: says that Python and its libraries are there
License: none
BuildArch: noarch
{provides}
%description
Nothing.
%files
"""


def ask(script: Path, *words: str | Path, modules: Path, cwd: Path, **env: str) -> str:
    """What golden's own script answers, with golden's modules from nowhere but `modules`."""
    argv: list[str | Path] = [sys.executable, script, *words]
    return query(argv, why="run golden", env={**os.environ, "PYTHONPATH": str(modules), **env}, cwd=cwd, timeout_s=120)


def where_golden_is(modules: Path, *, cwd: Path) -> Path:
    argv = [sys.executable, "-c", "import builder; print(builder.__file__)"]
    answer = query(argv, why="ask for golden", env={**os.environ, "PYTHONPATH": str(modules)}, cwd=cwd)
    return Path(answer.strip())


def assert_golden_works(script: Path, *, modules: Path, cwd: Path) -> None:
    """It is the one below `modules`, and has there what it renders and ships with repositories."""
    assert where_golden_is(modules, cwd=cwd).is_relative_to(modules)
    assert ask(script, "--version", modules=modules, cwd=cwd) == f"golden, version {__version__}\n"
    assert "golden sandbox create" in ask(script, "--help", modules=modules, cwd=cwd)
    for folder in ("kickstarts", "spec-templates", "repo"):
        assert files_of(modules / "builder/share" / folder) == files_of(TOP / folder)


def assert_files_are_found(script: Path, *, modules: Path, cwd: Path) -> None:
    ask(script, "init", "demo", modules=modules, cwd=cwd)
    project = cwd / "demo"
    assert "[image." in (project / "golden.toml").read_text(encoding="utf-8")
    known = json.loads(ask(script, "distributions", "--json", modules=modules, cwd=project))
    assert "rocky9" in {it["name"] for it in known}
    # Written out of a template that lies beside the spec templates.
    config = ask(script, "repo", "client-config", "--url", "http://127.0.0.1:8710", modules=modules, cwd=project)
    assert "http://127.0.0.1:8710/candidate/mirrorlist" in config


def files_of(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_a_wheel_installs_and_golden_runs_from_it(tmp_path: Path) -> None:
    offline = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    pip = [sys.executable, "-m", "pip"]
    built = [*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", tmp_path, TOP]
    query(built, why="build the wheel", timeout_s=300)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"golden-{__version__}-py3-none-any.whl"
    modules = tmp_path / "modules"
    query([*pip, "install", *offline, "--target", modules, wheel], why="install the wheel", timeout_s=300)
    assert files_of(modules / "builder") >= files_of(TOP / "builder")
    assert_golden_works(modules / "bin/golden", modules=modules, cwd=tmp_path)
    assert_files_are_found(modules / "bin/golden", modules=modules, cwd=tmp_path)


def test_golden_is_an_rpm_that_dnf_installs_with_man_pages_and_completions(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    log = query(
        [TOP / "packaging/build", repository],
        why="build golden's RPM",
        timeout_s=600,
        env={**os.environ, "PYTHON": sys.executable},
    )
    assert "Wrote:" in log
    (rpm,) = repository.glob("*.rpm")
    assert rpm.name.startswith(f"golden-{__version__}-1") and rpm.name.endswith(".noarch.rpm")
    needed = query(["rpm", "-qp", "--requires", rpm], why="ask for requirements")
    assert f"python{PYTHON}dist(pydantic) >= 2.6" in needed
    assert "rpmlib(LargeFiles)" not in needed
    build_stand_in(repository, folder=tmp_path)
    query(["createrepo_c", "--quiet", repository], why="make a repository")

    root = tmp_path / "root"
    repo_file = tmp_path / "local.repo"
    repo_file.write_text(f"[local]\nname=local\nbaseurl=file://{repository}\ngpgcheck=0\n")
    dnf.install_into_root(["golden"], root=root, repo_file=repo_file, cache=tmp_path / "cache", log=tmp_path / "log")
    assert query(["rpm", f"--root={root}", "-V", "golden"], why="verify what was installed") == ""
    (modules,) = root.glob("usr/lib/python*/site-packages")
    script = root / "usr/bin/golden"
    assert script.read_text(encoding="utf-8").startswith("#!/usr/bin/python3")
    assert_golden_works(script, modules=modules, cwd=tmp_path)

    share = root / "usr/share"
    page = query(["man", "--local-file", *share.glob("man/man1/golden-build.1*")], why="read a man page")
    assert "golden build [OPTIONS] [IMAGE]..." in page
    assert "golden build --rebuild" not in page and "--refresh" in page
    assert (share / "fish/vendor_completions.d/golden.fish").stat().st_size
    assert (share / "zsh/site-functions/_golden").read_text(encoding="utf-8").startswith("#compdef golden")
    assert completed(
        share / "bash-completion/completions/golden", "golden", "clone", "cr", modules=modules, root=root
    ) == ["create"]


def test_without_a_python_it_is_said_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ToolError) as caught:
        query([TOP / "packaging/build", tmp_path], why="build", env={**os.environ, "PYTHON": "/nowhere/python"})
    said = "golden: there is no /nowhere/python; ./ci/test tests/unit makes it, or set PYTHON"
    assert said in dict(caught.value.details)["output"]


def test_every_command_has_a_man_page_that_groff_takes_without_a_warning(tmp_path: Path) -> None:
    query([sys.executable, TOP / "packaging/manual.py", tmp_path], why="write the man pages")
    pages = sorted((tmp_path / "man/man1").iterdir())
    assert {page.name for page in pages} == {
        f"{'-'.join(path)}.1" for path, command in commands(golden, "golden") if not command.hidden
    }
    said = query(["sh", "-c", 'groff -man -ww -z -Kutf8 -Tutf8 "$@" 2>&1', "groff", *pages], why="format the man pages")
    assert said == ""


def commands(command: click.Command, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    for name, child in command.commands.items() if isinstance(command, click.Group) else ():
        yield from commands(child, *path, name)


def build_stand_in(repository: Path, *, folder: Path) -> None:
    """An RPM that provides Python, and each library that this Python has, as rpm's generator would name it."""
    provides = ["/usr/bin/python3", f"/usr/bin/python{PYTHON}", f"python(abi) = {PYTHON}"]
    for library in metadata.distributions():
        name = re.sub(r"[-_.]+", "-", library.name).lower()
        extras = ["", *(f"[{extra}]" for extra in library.metadata.get_all("Provides-Extra") or ())]
        provides += [f"python{PYTHON}dist({name}{extra}) = {library.version}" for extra in extras]
    spec = folder / "stand-in.spec"
    spec.write_text(STAND_IN.format(provides="\n".join(f"Provides: {line}" for line in sorted(set(provides)))))
    query(
        ["rpmbuild", "-bb", "--define", f"_topdir {folder}/topdir", "--define", f"_rpmdir {repository}", spec],
        why="build the stand-in for Python",
    )


def completed(script: Path, *words: str, modules: Path, root: Path) -> list[str]:
    """What bash offers after `words` when Tab is pressed, with golden's own script sourced."""
    bash = shutil.which("bash")
    assert bash is not None
    folder = root.parent / "bin"
    folder.mkdir()
    command = folder / "golden"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {root}/usr/bin/golden "$@"\n')
    command.chmod(0o755)
    ask_for = f"""
        source {script}
        COMP_WORDS=({" ".join(words)}) COMP_CWORD={len(words) - 1}
        _golden_completion golden
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(modules)}
    return query([bash, "-c", ask_for], why="complete a command line", env=env).split()

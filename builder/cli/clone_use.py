"""`golden clone …` with clones that are there: log in, copy, run, look, go back."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import click

from builder import clones, run
from builder.cli.clone_options import (
    capacity,
    capacity_options,
    one_name,
    parse_seconds,
    some_names,
)
from builder.cli.completion import complete_exec, complete_name, complete_place, complete_snapshot
from builder.cli.session import Session, examples, json_option, key_option, pass_session, print_json, print_table
from builder.clones import snapshots
from builder.errors import ConfigError, HostError
from builder.tools import libvirt, ssh
from builder.units import format_bytes

_EXEC_TIMEOUT_S = 24 * 3600.0
_CLOCK_TIMEOUT_S = 60.0
_JOURNAL_TIMEOUT_S = 600.0

# Where libvirt keeps QEMU's own words. Source: libvirt's documentation, "logging".
_QEMU_LOGS = (Path("/var/log/libvirt/qemu"), Path.home() / ".cache/libvirt/qemu/log")


@contextmanager
def _running(session: Session, name: str) -> Iterator[tuple[clones.Lease, libvirt.Connection]]:
    lease = clones.find(session.state, name)
    with libvirt.connect(lease.uri) as connection:
        if not clones.is_running(lease, connection):
            raise HostError(
                f"the clone '{lease.name}' is off",
                try_next=f"golden clone start {name}; golden clone console {name} --log, to see why it went off",
            )
        yield lease, connection


def _target(session: Session, name: str, key: Path | None) -> ssh.Target:
    with _running(session, name) as (lease, connection):
        return clones.target(lease, connection=connection, key=key or lease.key or session.key)


@click.command(
    name="ssh",
    epilog=examples(
        "golden clone ssh web1",
        "golden clone ssh web1 -- uname -a",
        "golden clone ssh web1 -- 'journalctl -b | tail'    # one word: a line for the guest's shell",
    ),
)
@one_name
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@key_option
@pass_session
def ssh_(session: Session, name: str, command: tuple[str, ...], key: Path | None) -> None:
    """Log in to a clone, or run a command there and end with its exit status."""
    target = _target(session, name, key)
    run.become(ssh.command(target, *_words(command)), why=f"log in to {name}")


def _words(command: tuple[str, ...]) -> tuple[str, ...]:
    return ("sh", "-c", *command) if len(command) == 1 else command


@click.command(
    name="exec",
    epilog=examples(
        "golden clone exec web1 -- systemctl is-active nginx",
        "golden clone exec web1 web2 --json -- uname -r | jq -r '.[].stdout'",
        "golden clone exec web1 --timeout '5 min' -- 'dnf -y install tree && tree /etc'",
    ),
)
@click.argument(
    "words",
    nargs=-1,
    required=True,
    metavar="NAME... -- COMMAND...",
    type=click.UNPROCESSED,
    shell_complete=complete_exec,
)
@click.option(
    "--timeout", "timeout_s", callback=parse_seconds, metavar="DURATION", help="For each clone.  [default: a day]"
)
@key_option
@json_option
@pass_session
def exec_(session: Session, words: tuple[str, ...], timeout_s: float, key: Path | None, as_json: bool) -> None:
    """Run a command on one or several clones at once, and end with the first status that is not 0.

    Without a terminal, and with each clone's output by itself; for programs.
    """
    names, command = _split(words, known=clones.names(session.state))
    targets = {name: _target(session, name, key) for name in names}

    def ask(name: str) -> run.Answer:
        argv = ssh.command(targets[name], *_words(command))
        return run.ask(argv, why=f"run a command on {name}", timeout_s=timeout_s or _EXEC_TIMEOUT_S)

    with ThreadPoolExecutor(max_workers=len(names)) as pool:
        answers = dict(zip(names, pool.map(ask, names), strict=True))
    if as_json:
        print_json(
            [
                {"name": name, "status": it.status, "stdout": it.stdout, "stderr": it.stderr}
                for name, it in answers.items()
            ]
        )
    for name, it in answers.items() if not as_json else ():
        head = f"{name}: " if len(names) > 1 else ""
        for text, stream in ((it.stdout, sys.stdout), (it.stderr, sys.stderr)):
            stream.writelines(f"{head}{line}" for line in text.splitlines(keepends=True))
        if it.status is None:
            click.echo(f"golden: {name}: still running after {timeout_s or _EXEC_TIMEOUT_S:.0f} s; ended", err=True)
    # 124 is timeout(1)'s word for a limit.
    sys.exit(next((124 if it.status is None else it.status for it in answers.values() if it.status != 0), 0))


def _split(words: tuple[str, ...], *, known: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """Names, then the command. click swallows the `--` between them, unless options stand before it."""
    if "--" in words:
        at = words.index("--")
        names, command = list(words[:at]), words[at + 1 :]
    else:
        count = next((n for n, word in enumerate(words) if word not in known), len(words))
        names, command = list(words[: max(1, count)]), words[max(1, count) :]
    if not names or not command:
        raise ConfigError("a clone and a command are needed", try_next="golden clone exec NAME -- COMMAND")
    return names, command


@click.command(
    epilog=examples(
        "golden clone cp report.conf web1:/etc/",
        "golden clone cp web1:/var/log/nginx ./logs    # folders, too",
        "golden clone cp web1:/root/core . --json | jq .status",
    )
)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...", shell_complete=complete_place)
@click.argument("destination", shell_complete=complete_place)
@key_option
@json_option
@pass_session
def cp(session: Session, sources: tuple[str, ...], destination: str, key: Path | None, as_json: bool) -> None:
    """Copy files and folders into a clone, or out of one. NAME:PATH is a path in the clone."""
    known = clones.names(session.state)
    split = [_place(word, known) for word in (*sources, destination)]
    *from_, (to_name, to_path) = split
    inside = {name for name, _ in from_}
    if to_name is not None and inside == {None}:
        argv = ssh.copy_command(_target(session, to_name, key), [p for _, p in from_], to_path, is_out=False)
    elif to_name is None and len(inside) == 1 and (name := next(iter(inside))) is not None:
        argv = ssh.copy_command(_target(session, name, key), [p for _, p in from_], to_path, is_out=True)
    else:
        raise ConfigError(
            "files are copied into one clone or out of one: NAME:PATH on one side only",
            try_next="golden clone cp FILE NAME:PATH, or golden clone cp NAME:PATH FILE",
        )
    if not as_json:
        run.become(argv, why="copy files")
    answer = run.ask(argv, why="copy files", timeout_s=_EXEC_TIMEOUT_S)
    print_json({"sources": list(sources), "destination": destination, "status": answer.status, "stderr": answer.stderr})
    sys.exit(124 if answer.status is None else answer.status)


def _place(word: str, known: list[str]) -> tuple[str | None, str]:
    """The clone that a path is in, None for this host. A path with a colon is a host's if it has a slash before it."""
    name, colon, path = word.partition(":")
    if not colon or "/" in name:
        return None, word
    if name not in known and Path(word).exists():
        return None, f"./{word}"
    return name, path


@click.command(
    epilog=examples(
        "golden clone console web1          # leave with Ctrl-]",
        "golden clone console web1 --log | less -R",
        "golden clone console web1 --log --json | jq -r .text",
    )
)
@one_name
@click.option("--log", is_flag=True, help="Print what the console has said so far.")
@json_option
@pass_session
def console(session: Session, name: str, log: bool, as_json: bool) -> None:
    """Open a clone's serial console, or print its log."""
    lease = clones.find(session.state, name)
    if log:
        _print(name, clones.console_log(session.state, name), as_json=as_json)
        return
    _need_an_end(as_json, "a terminal", try_next=f"golden clone console {name} --log --json")
    with _running(session, name):
        pass
    run.become(["virsh", "-c", lease.uri, "console", lease.domain_name], why=f"open the console of {name}")


def _print(name: str, path: Path, *, as_json: bool) -> None:
    content = path.read_bytes() if path.exists() else b""
    if as_json:
        print_json({"name": name, "file": str(path), "text": content.decode(errors="replace")})
        return
    sys.stdout.buffer.write(content)


def _need_an_end(as_json: bool, what: str, *, try_next: str) -> None:
    if as_json:
        raise ConfigError(f"{what} has no end, and so there is no JSON of it", try_next=try_next)


@click.command(
    epilog=examples(
        "golden clone logs web1              # the console's, from the first line",
        "golden clone logs web1 --follow",
        "golden clone logs web1 --journal    # the guest's own, over SSH",
        "golden clone logs web1 --qemu       # why QEMU ended",
        "golden clone logs web1 --json | jq -r .text",
    )
)
@one_name
@click.option("--follow", is_flag=True, help="Go on printing what comes.")
@click.option("--journal", is_flag=True, help="The guest's journal of this boot, over SSH.")
@click.option("--qemu", is_flag=True, help="What QEMU itself said.")
@key_option
@json_option
@pass_session
def logs(session: Session, name: str, follow: bool, journal: bool, qemu: bool, key: Path | None, as_json: bool) -> None:
    """Print a clone's logs: its console's, its journal, or QEMU's."""
    lease = clones.find(session.state, name)
    if follow:
        _need_an_end(as_json, "a log that is followed", try_next="leave --follow or --json out")
    if journal:
        words = ["journalctl", "--boot", "--no-pager", *(["--follow"] if follow else [])]
        argv, why = ssh.command(_target(session, name, key), *words), f"read the journal of {name}"
        if not as_json:
            run.become(argv, why=why)
        print_json({"name": name, "file": None, "text": run.query(argv, why=why, timeout_s=_JOURNAL_TIMEOUT_S)})
        return
    path = clones.console_log(session.state, name)
    if qemu:
        found = [folder / f"{lease.domain_name}.log" for folder in _QEMU_LOGS]
        path = next((file for file in found if file.exists()), found[0])
    if follow:
        run.become(["tail", "-n", "+1", "-F", path], why=f"follow the log of {name}")
    _print(name, path, as_json=as_json)


@click.command(
    epilog=examples(
        "golden clone snapshot web1 before-upgrade",
        "golden clone snapshot web1                    # list them",
        "golden clone revert web1 before-upgrade",
    )
)
@one_name
@click.argument("snapshot_name", metavar="[SNAPSHOT]", required=False, shell_complete=complete_snapshot)
@json_option
@pass_session
def snapshot(session: Session, name: str, snapshot_name: str | None, as_json: bool) -> None:
    """Keep a clone as it is now, with its memory if it is on; or list what is kept of it."""
    lease = clones.find(session.state, name)
    if snapshot_name is None:
        found = snapshots.snapshots(session.state, name)
    else:
        with libvirt.connect(lease.uri) as connection:
            found = [
                snapshots.take(
                    name, snapshot_name, state=session.state, connection=connection, reporter=session.reporter
                )
            ]
    if as_json:
        print_json([it.model_dump() for it in found])
        return
    print_table(
        ["SNAPSHOT", "MEMORY", "SIZE", "MADE"],
        [[it.name, "yes" if it.has_memory else "no", format_bytes(it.size_bytes), it.made] for it in found],
        empty=f"no snapshots of {name}",
    )


@click.command(epilog=examples("golden clone revert web1 before-upgrade"))
@one_name
@click.argument("snapshot_name", metavar="SNAPSHOT", shell_complete=complete_snapshot)
@capacity_options
@json_option
@pass_session
def revert(session: Session, name: str, snapshot_name: str, host_mib: int | None, wait_s: float, as_json: bool) -> None:
    """Make a clone what it was. What it has become since is lost; its clock is set, if it can be logged in to."""
    lease = clones.find(session.state, name)
    with libvirt.connect(lease.uri) as connection:
        lease, is_on = snapshots.revert(
            name,
            snapshot_name,
            state=session.state,
            connection=connection,
            reporter=session.reporter,
            capacity=capacity(host_mib, wait_s),
        )
        if is_on and lease.key:
            target = clones.target(lease, connection=connection)
            answer = run.ask(
                ssh.command(target, "date", "-u", "-s", f"@{time.time():.3f}"),
                why="set its clock",
                timeout_s=_CLOCK_TIMEOUT_S,
            )
            if answer.status != 0:
                session.reporter.note(f"the clock of {name} stands where it stood: {answer.stderr.strip()}")
    if as_json:
        print_json({"name": name, "snapshot": snapshot_name, "state": "running" if is_on else "off"})
        return
    click.echo(f"{name}: as in {snapshot_name}, {'running' if is_on else 'off'}")


@click.command(epilog=examples("golden clone check", "golden clone check web1 --full"))
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_name)
@click.option("--full", is_flag=True, help="Read all image files; else only their size, time and inode are looked at.")
@json_option
@pass_session
def check(session: Session, names: tuple[str, ...], full: bool, as_json: bool) -> None:
    """Look whether the image files below clones are what they were; all clones unless some are named."""
    leases = [clones.find(session.state, name) for name in names or clones.names(session.state)]
    for lease in leases:
        with session.reporter.step(f"check the images below {lease.name}"):
            clones.check(lease.pins, what=f"the clone '{lease.name}'", is_full=full)
    if as_json:
        print_json([{"name": lease.name, "files": [str(pin.path) for pin in lease.pins]} for lease in leases])
        return
    click.echo(f"{len(leases)} clones stand on whole images" if leases else "no clones")


@click.command(epilog=examples("golden clone repair web1"))
@some_names
@json_option
@pass_session
def repair(session: Session, names: tuple[str, ...], as_json: bool) -> None:
    """Give clones back image files that are gone or changed, from where the image is installed now."""
    repaired = {
        name: [str(path) for path in clones.repair(clones.find(session.state, name), state=session.state)]
        for name in names
    }
    if as_json:
        print_json(repaired)
        return
    for name, files in repaired.items():
        click.echo(f"{name}: {', '.join(files) if files else 'nothing to repair'}")

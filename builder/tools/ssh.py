"""OpenSSH to golden's own machines: wait until one answers, run scripts there, make keys."""

from __future__ import annotations

import contextlib
import shlex
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from builder import run, transient
from builder.errors import ConfigError, ToolError
from builder.model import Frozen

_POLL_S = 0.2

# One try at the banner: short at first, as a connection made while the guest has no address yet wakes up late, if at
# all; then longer, as the first sshd of a guest under TCG takes seconds to start, and each try costs it a process.
_BANNER_FIRST_S, _BANNER_LAST_S, _BANNER_GROWTH = 2.0, 10.0, 1.5

# The whole of a login, once there is a banner: key exchange under TCG beside other machines takes seconds.
_LOGIN_S = 60

# The same for one that is known to be up: what is lost if it is not.
_LOGIN_AT_ONCE_S = 30.0

# No user's configuration and no known hosts: the machine behind a forwarded port is another one each time.
OPTIONS = (
    "BatchMode=yes",
    "IdentitiesOnly=yes",
    "StrictHostKeyChecking=no",
    "UserKnownHostsFile=/dev/null",
    f"ConnectTimeout={_LOGIN_S}",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=8",
    "LogLevel=ERROR",
    # Half of a login is spent on it by a guest without an accelerator, to keep what was said from those who come in
    # decades. Left out by name, so that the host's policy for the others holds.
    "KexAlgorithms=-sntrup761*",
)

# A socket's path may have 108 bytes.
_SHORT = Path("/tmp")
_SOCKET = "login"
_LOGOUT_S = 10.0

# A key may be refused for a moment, while the guest is still putting it in place. Not asked at once again: an sshd lets
# nobody in from an address that failed too often. Source: sshd_config(5) of OpenSSH 9.8 and later, PerSourcePenalties:
# 5 s for a refused key, 1 s for a look at the banner, and 15 s are enough to be turned away for as long.
_REFUSED_GRACE_S = 10.0
_REFUSED_POLL_S = 3.0

# What a connection that is turned away hears is a line. Source: sshd.c of OpenSSH 9.8, "Not allowed", "Exceeded".
_TURNED_AWAY = "sshd turns connections away"
_LINE = 80


class Target(Frozen):
    """Where a machine's sshd is, seen from here. key: the private key's file. shared: the socket of a `Login`."""

    port: int
    key: Path
    host: str = "127.0.0.1"
    user: str = "root"
    shared: Path | None = None


class Login:
    """A login that other commands can go along with, by its `target`; if it is over, they log in by themselves.

    Half a second less for each where the guest has no accelerator. For golden's own errands: a script of the user's
    gets a login of its own, which knows of new groups and limits. Source: ssh_config(5), ControlMaster.
    """

    def __init__(self, target: Target, folder: Path) -> None:
        self.target = target.model_copy(update={"shared": folder / _SOCKET})
        self.has_answered = False
        self._log = folder / "log"

    def begin(self, *, timeout_s: float) -> None:
        """Log in, once more if there was a login, and run a command, as only that is an answer. Raises ToolError."""
        self.end()
        with contextlib.suppress(FileNotFoundError):
            self._log.unlink()
        # The first command goes with the login itself: another ssh for it would cost a start of that.
        argv = [*_head("ssh", "-p", self.target), "-M", "-o", "ControlPersist=yes", *_tail(self.target), "--", "true"]
        run.run(argv, why="log in to the machine", timeout_s=timeout_s, log=self._log)
        self.has_answered = True

    def begin_early(self) -> None:
        """Log in to a machine that has just been said to be up; that it failed is seen by who waits for an answer."""
        with contextlib.suppress(ToolError):
            self.begin(timeout_s=_LOGIN_AT_ONCE_S)

    def end(self) -> None:
        self.has_answered = False
        if self.target.shared is not None:
            _hang_up(self.target.shared.parent)


def _hang_up(folder: Path) -> None:
    socket = folder / _SOCKET
    if socket.exists():
        argv: run.Argv = ["ssh", "-F", "/dev/null", "-o", f"ControlPath={socket}", "-O", "exit", "golden"]
        run.ask(argv, why="log out of the machine", timeout_s=_LOGOUT_S)
        socket.unlink(missing_ok=True)


@contextlib.contextmanager
def shared_login(target: Target) -> Iterator[Login]:
    """A login to `target` that has not begun; it is over after the block."""
    with transient.folder("golden-ssh", parent=_SHORT, end=_hang_up) as folder:
        yield Login(target, folder)


def identity(key: Path) -> list[str | Path]:
    """The words that name a private key. `-i FILE`, as people write it, unless ssh would take that for another one."""
    return ["-i", key] if quoted(key) == str(key) else ["-o", f'IdentityFile="{quoted(key)}"']


def quoted(key: Path) -> str:
    """A key's path as ssh's configuration has it between quotation marks: `%` begins a token there, `\\` quotes.

    Raises ConfigError on `${`, which nothing quotes. Source: ssh_config(5), IdentityFile, TOKENS; readconf.c; tried.
    """
    text = str(key)
    if "${" in text or not text.isprintable():
        raise ConfigError(
            f"ssh cannot be told of a key with this path: {text!r}",
            try_next="have the project and its key in a folder without '${' and line breaks in its name",
        )
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


def command(target: Target, *remote: str, tty: bool = False) -> list[str | Path]:
    """The argv for `remote`, a command and its words, or for a login if there is none.

    No user's configuration and no known hosts: the machine behind a forwarded port is another one each time, and
    was made here. The words are quoted, as sshd hands one line to the user's shell.
    """
    argv = [*_head("ssh", "-p", target), *(["-t"] if tty else []), *_tail(target)]
    return [*argv, "--", shlex.join(remote)] if remote else argv


def _head(program: str, port: str, target: Target) -> list[str | Path]:
    options = OPTIONS if target.shared is None else (*OPTIONS, f"ControlPath={target.shared}")
    words = (word for option in options for word in ("-o", option))
    return [program, "-F", "/dev/null", port, str(target.port), *identity(target.key), *words]


def _tail(target: Target) -> list[str | Path]:
    return ["-l", target.user, target.host]


def copy_command(
    target: Target, sources: Sequence[str | Path], destination: str | Path, *, is_out: bool = False
) -> list[str | Path]:
    """The argv that copies files and folders, with times and modes, into the guest or, is_out, out. Source: scp(1)."""

    def there(path: str | Path) -> str:
        return f"{target.user}@{target.host}:{path}"

    argv = [*_head("scp", "-P", target), "-r", "-p", "--"]
    return [*argv, *map(there, sources), destination] if is_out else [*argv, *sources, there(destination)]


def why_no_login(target: Target, *, timeout_s: float = 2 * _LOGIN_S) -> str | None:
    """What ssh says when a command cannot be run there, or None if it can."""
    try:
        run.query(command(target, "true"), why="log in to the machine", timeout_s=timeout_s)
    except ToolError as error:
        return _reason(error)
    return None


def run_script(
    target: Target,
    script: str,
    *,
    why: str,
    timeout_s: float,
    log: Path,
    watch: Callable[[], None] | None = None,
) -> None:
    """Run `script` by the guest's sh; it ends at the first command that fails. Output goes to `log`.

    timeout_s: seconds for the whole script. watch: as in `run.run`. Raises ToolError.
    """
    run.run(command(target, "sh", "-euc", script), why=why, timeout_s=timeout_s, log=log, watch=watch)


def wait_until_answers(
    target: Target,
    *,
    timeout_s: float,
    is_alive: Callable[[], bool],
    note: Callable[[str], None],
    but_not_boot: str | None = None,
    is_up: bool = False,
    login: Login | None = None,
) -> float:
    """Poll until a command runs on the machine; returns the seconds that it took.

    but_not_boot: an answer from the boot of this id does not count: the machine has not gone down yet. is_up: its sshd
    was just said to listen; so the first try is a login. login: to `target`; it has begun afterwards, or
    did so before.
    is_alive: whether the machine is on; once it is not, waiting ends. note: told why there is no answer yet.
    Raises ToolError with the last reason when the machine is gone, the key stays refused, or after timeout_s.
    """
    if login is None:
        with shared_login(target) as own:
            return wait_until_answers(
                target,
                timeout_s=timeout_s,
                is_alive=is_alive,
                note=note,
                but_not_boot=but_not_boot,
                is_up=is_up,
                login=own,
            )
    begin = time.monotonic()
    banner_s, refused_since, reason, refusal = _BANNER_FIRST_S, None, "not tried yet", ""
    login_s = _LOGIN_AT_ONCE_S if is_up else 2.0 * _LOGIN_S
    while True:
        now = time.monotonic()
        if not is_alive():
            raise _no_answer(target, "the machine went off", reason)
        if now - begin >= timeout_s:
            raise _no_answer(target, f"no answer within {timeout_s:.0f} s", reason)
        left_s = timeout_s - (now - begin)
        new_reason = None if is_up else _no_banner(target, limit_s=min(banner_s, left_s), is_alive=is_alive)
        banner_s = min(_BANNER_LAST_S, banner_s * _BANNER_GROWTH)
        if new_reason is None:
            new_reason = _no_command(login, limit_s=min(login_s, left_s), but_not_boot=but_not_boot, is_up=is_up)
            if new_reason is None:
                return time.monotonic() - begin
        is_up, login_s = False, 2.0 * _LOGIN_S
        reason = new_reason
        note(reason)
        is_refused = "Permission denied" in reason
        if is_refused:
            refused_since, refusal = refused_since or time.monotonic(), reason
        elif not reason.startswith(_TURNED_AWAY):
            refused_since = None
        if refused_since is not None and time.monotonic() - refused_since >= _REFUSED_GRACE_S:
            raise _no_answer(target, f"the key {target.key} is refused", refusal)
        time.sleep(_REFUSED_POLL_S if is_refused else _POLL_S)


def make_key(path: Path, *, comment: str, kind: str = "ed25519") -> None:
    """A new key pair without a passphrase: `path` (0600) and `path`.pub. The private key appears last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    public, part_public = (file.with_name(f"{file.name}.pub") for file in (path, part))
    try:
        # ssh-keygen asks before it overwrites.
        part.unlink(missing_ok=True)
        run.query(
            ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", comment, "-f", part],
            why=f"make the SSH key {path}",
        )
        part_public.rename(public)
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
        part_public.unlink(missing_ok=True)


def _no_banner(target: Target, *, limit_s: float, is_alive: Callable[[], bool]) -> str | None:
    """Why there is no sshd at the port, or None if one says its name.

    Asked without ssh, which would wait a whole login's time: QEMU takes connections long before the guest does.
    """
    deadline = time.monotonic() + limit_s
    try:
        with socket.create_connection((target.host, target.port), timeout=max(limit_s, _POLL_S)) as connection:
            connection.settimeout(_POLL_S)
            while time.monotonic() < deadline and is_alive():
                with contextlib.suppress(TimeoutError):
                    return _why_no_name(connection.recv(_LINE))
            return "connected, but no sshd says its name: the guest has no network yet"
    except ConnectionRefusedError:
        return f"port {target.port} is closed"
    except OSError as error:
        return f"no connection to port {target.port}: {error.strerror or error}"


def _why_no_name(said: bytes) -> str | None:
    """said: the first bytes of a connection. None if an sshd says its name."""
    if not said:
        return "the connection is closed: sshd is not up yet"
    line = said.split(b"\r\n")[0].decode(errors="replace")
    return None if line.startswith("SSH-") else f"{_TURNED_AWAY}: {line}"


def boot_id(target: Target, *, timeout_s: float = 2 * _LOGIN_S) -> str:
    """What tells one boot of a machine from the next. Raises ToolError. Source: random(4), "boot_id"."""
    answer = run.query(
        command(target, "cat", "/proc/sys/kernel/random/boot_id"), why="log in to the machine", timeout_s=timeout_s
    )
    return answer.strip()


def _no_command(login: Login, *, limit_s: float, but_not_boot: str | None, is_up: bool) -> str | None:
    """Why a command does not run there, or None if one does. is_up: a login that has answered already will do."""
    try:
        if not (is_up and login.has_answered):
            login.begin(timeout_s=limit_s)
        if but_not_boot is not None and boot_id(login.target, timeout_s=limit_s) == but_not_boot:
            return "the machine has not gone down yet"
    except ToolError as error:
        return _reason(error)
    return None


def _reason(error: ToolError) -> str:
    found = dict(error.details)
    last = found["output"].splitlines()[-1]
    return found["end"] if last == "(none)" else last


def _no_answer(target: Target, what: str, reason: str) -> ToolError:
    return ToolError(
        f"the machine at port {target.port} cannot be reached over SSH: {what}", details=[("last seen", reason)]
    )

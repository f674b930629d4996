"""Accounts, keys, services, time, language, and the kickstart's scripts, in the installed system."""

from __future__ import annotations

import contextlib
import os
import warnings
from pathlib import Path

from .console import InstallError, phase, say, stopped
from .plan import Account, Plan, Script
from .storage import Made, write_fstab
from .system import SYSROOT, TAIL_LINES, attempt, call


def configure(plan: Plan, *, made: list[Made]) -> None:
    """Everything between the packages and `%post`."""
    phase("Performing post-installation setup tasks")
    write_fstab(made)
    call(["ldconfig", "-r", str(SYSROOT)])
    _write("etc/machine-id", "")
    _write("etc/hostname", f"{plan.hostname}\n" if plan.hostname else "")
    _write("etc/locale.conf", f"LANG={plan.language or 'C.UTF-8'}\n")
    _write("etc/vconsole.conf", f"KEYMAP={plan.keyboard or 'us'}\n")
    _set_timezone(plan)
    phase("Configuring users")
    if plan.root is not None:
        _set_password(plan.root)
    for user in plan.users:
        add_user(user)
    for name, key in plan.keys:
        add_key(name, key)
    for verb, names in (("enable", plan.enabled), ("disable", plan.disabled)):
        for name in names:
            call(["systemctl", f"--root={SYSROOT}", verb, name])
    mark_updated()


def _write(name: str, text: str) -> None:
    (SYSROOT / name).write_text(text)


def _set_timezone(plan: Plan) -> None:
    zone = f"usr/share/zoneinfo/{plan.timezone}"
    if not (SYSROOT / zone).is_file():
        raise stopped(f"The timezone {plan.timezone} is not in this distribution's tzdata")
    link = SYSROOT / "etc/localtime"
    link.unlink(missing_ok=True)
    link.symlink_to(f"../{zone}")
    _write("etc/adjtime", f"0.0 0 0.0\n0\n{'UTC' if plan.is_utc else 'LOCAL'}\n")


def add_user(user: Account) -> None:
    for group in user.groups:
        call(["groupadd", "-f", group], root=SYSROOT)
    argv = ["useradd", "--create-home", "--shell", user.shell]
    for option, value in (
        ("--groups", ",".join(user.groups)),
        ("--home-dir", user.home),
        ("--comment", user.comment),
        ("--uid", "" if user.uid is None else str(user.uid)),
    ):
        if value:
            argv += [option, value]
    call([*argv, user.name], root=SYSROOT)
    _set_password(user)


def _set_password(account: Account) -> None:
    if account.password is not None:
        hashed = account.password if account.is_crypted else _hash(account.password)
        call(["usermod", "--password", hashed, account.name], root=SYSROOT)
    if account.is_locked or account.password is None:
        call(["usermod", "--lock", account.name], root=SYSROOT)


def _hash(password: str) -> str:
    with warnings.catch_warnings():
        # Deprecated since Python 3.11, gone in 3.13; the installer carries Debian's 3.11.
        warnings.simplefilter("ignore", DeprecationWarning)
        import crypt
    return crypt.crypt(password, crypt.mksalt(crypt.METHOD_SHA512))


def add_key(name: str, key: str) -> None:
    rows = [row.split(":") for row in (SYSROOT / "etc/passwd").read_text().splitlines()]
    row = next((row for row in rows if row[0] == name), None)
    if row is None:
        raise stopped(f"sshkey: there is no user '{name}'")
    uid, gid, home = int(row[2]), int(row[3]), SYSROOT / row[5].lstrip("/")
    folder = home / ".ssh"
    folder.mkdir(mode=0o700, exist_ok=True)
    file = folder / "authorized_keys"
    with file.open("a") as stream:
        stream.write(f"{key}\n")
    file.chmod(0o600)
    for path in (folder, file):
        os.chown(path, uid, gid)


def mark_updated() -> None:
    """Tell systemd that /etc and /var fit to /usr, or each clone's first boot does work for nothing.

    Source: systemd-update-done.service(8).
    """
    stamp = (SYSROOT / "usr").stat().st_mtime_ns
    for name in ("etc/.updated", "var/.updated"):
        path = SYSROOT / name
        path.touch()
        os.utime(path, ns=(stamp, stamp))


def run_scripts(plan: Plan, phase_name: str) -> None:
    """Run the scripts of one phase in order. Raises InstallError when one fails that must not."""
    scripts = plan.scripts_of(phase_name)
    if scripts:
        phase(f"Running {'post-installation' if phase_name == 'post' else phase_name} scripts")
    for script in scripts:
        _run_script(script)


def _run_script(script: Script) -> None:
    root = SYSROOT if script.in_chroot else None
    inside = Path("/tmp") / f"ks-script-{script.line}"
    file = inside if root is None else root / inside.relative_to("/")
    file.write_text(script.text)
    file.chmod(0o700)
    try:
        log = Path(script.log) if script.log else None
        status, output = attempt([script.interpreter, str(inside)], root=root, log=log)
    finally:
        with contextlib.suppress(FileNotFoundError):
            file.unlink()
    if status != 0:
        end = "\n".join(output.splitlines()[-TAIL_LINES:])
        if script.error_on_fail:
            raise InstallError(
                f"There was an error running the kickstart script at line {script.line}.  This is a fatal error and "
                f"installation will be aborted.  The details of this error are:\n\n{end}\nexit status {status}"
            )
        # Not in Anaconda's words ("Error code 1 running …"): it says this in its log alone, not on the console.
        say(f"stand-in: the script at line {script.line} ended with {status}, and may; its last lines:\n{end}")

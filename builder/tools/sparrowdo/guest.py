"""The guest as golden's own ssh sees it, before and after Sparrowdo was there."""

from __future__ import annotations

import contextlib
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from builder import run
from builder.errors import ToolError
from builder.tools import ssh
from builder.tools.sparrowdo import mirror

# cloud-init ends with 2 for what it got over. Source: cloud-init, "CLI commands", status.
_CLOUD_INIT = """\
command -v cloud-init > /dev/null || exit 0
cloud-init status --wait || [ $? = 2 ]
"""

# A resolver that has just started may need a moment.
_RESOLVES = """\
for try in 1 2 3 4 5 6 7 8 9 10; do
    getent ahosts "$1" > /dev/null && exit 0
    sleep 2
done
echo "golden: $1 is not resolved" >&2
exit 1
"""

# Where the mirror is while zef needs it, and the configuration by which root's zef looks there and nowhere else.
_MIRROR = "/var/tmp/golden-zef"
_CONFIG = "/root/.config/zef/config.json"

# One archive on the way: a file each, over sftp, takes minutes where the guest is emulated (measured, 1900 files).
_BEGIN_MIRROR = f"""\
mkdir {_MIRROR}
tar -x -C {_MIRROR} -f {_MIRROR}.tar
rm {_MIRROR}.tar
mkdir -p {Path(_CONFIG).parent}
[ ! -e {_CONFIG} ] || mv {_CONFIG} {_CONFIG}.golden
cp {_MIRROR}/config.json {_CONFIG}
"""
_END_MIRROR = f"""\
rm -rf {_MIRROR} {_CONFIG}
[ ! -e {_CONFIG}.golden ] || mv {_CONFIG}.golden {_CONFIG}
rmdir {Path(_CONFIG).parent} /root/.config 2> /dev/null || :
"""

# As Sparrowdo's own scripts find Raku: its tarball, modules of the user's, else what the guest has on PATH.
_PATH = """\
PATH=$HOME/.raku/bin:/opt/rakudo/bin:/opt/rakudo/share/perl6/site/bin:$PATH
for script in /opt/sparrowdo/rakudo/*/scripts/set-env.sh; do
    [ ! -e "$script" ] || eval "$($script --quiet)"
done
"""

_CLEAN_USER = "rm -rf ~/.sparrowdo/env ~/.sparrow6/tmp"
_CLEAN_ROOT = """\
rm -rf /root/.sparrowdo/env /root/.sparrow6/tmp /root/.zef
[ ! -d /opt/sparrowdo ] || find /opt/sparrowdo -name '*.tar.gz' -delete
"""


def check(
    target: ssh.Target,
    *,
    needs_sudo: bool,
    names: Sequence[str],
    timeout_s: float,
    log: Path,
    watch: Callable[[], None],
) -> None:
    """Whether Sparrowdo can work there: it hides ssh's reasons, and waits for ever where sudo wants a password.

    names: of hosts that have to be resolved. timeout_s: seconds for each question. Raises ToolError.
    """
    if reason := ssh.why_no_login(target):
        raise ToolError(
            f"the guest does not let '{target.user}' in over SSH",
            details=[("ssh says", reason)],
            try_next=f'{{ sshkeys = ["keys/id_ed25519.pub"], user = "{target.user}" }} in a step before',
        )
    _ask(
        target,
        _CLOUD_INIT,
        what="cloud-init does not come to its end in the guest",
        try_next="golden clone create NAME --image PARENT, and there: cloud-init status --long",
        timeout_s=timeout_s,
        log=log,
        watch=watch,
    )
    if needs_sudo:
        _ask(
            target,
            "command -v sudo",
            what="there is no sudo in the guest, by which Sparrowdo bootstraps",
            try_next='{ install = ["sudo"] } in a step before',
            timeout_s=timeout_s,
            log=log,
            watch=watch,
        )
        _ask(
            target,
            "sudo -n true",
            what=f"sudo in the guest wants a password of '{target.user}', and Sparrowdo would wait for it for ever",
            try_next=f"put '{target.user} ALL=(ALL) NOPASSWD: ALL' into /etc/sudoers.d, with write = {{…}}, before",
            timeout_s=timeout_s,
            log=log,
            watch=watch,
        )
    for name in names:
        _ask(
            target,
            _RESOLVES,
            name,
            what=f"the guest cannot resolve '{name}'",
            try_next="look at the network of this host, and at /etc/resolv.conf in the guest",
            timeout_s=timeout_s,
            log=log,
            watch=watch,
        )


@contextlib.contextmanager
def zef_mirror(root: ssh.Target, folder: Path | None, *, timeout_s: float, log: Path) -> Iterator[None]:
    """root's zef takes everything from `folder` while the block runs; afterwards nothing of it is in the guest.

    folder: of Raku distributions, None for no mirror. Raises ConfigError for one that is none.
    """
    if folder is None:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="golden-zef-") as directory:
        made = Path(directory) / "mirror"
        mirror.write(folder, made, mirror=_MIRROR)
        archive = made.with_suffix(".tar")
        with tarfile.open(archive, "w") as stream:
            stream.add(made, arcname=".")
        run.run(
            ssh.copy_command(root, [archive], f"{_MIRROR}.tar"),
            why="bring the mirror for zef into the guest",
            timeout_s=timeout_s,
            log=log,
        )
    _script(root, _BEGIN_MIRROR, why="let zef use the mirror", timeout_s=timeout_s, log=log)
    # Not after a failure: the overlay goes, and with it all that is in it.
    yield
    _script(root, _END_MIRROR, why="take the mirror out of the guest", timeout_s=timeout_s, log=log)


def install_modules(root: ssh.Target, names: Sequence[str], *, timeout_s: float, log: Path) -> None:
    """Raku modules for all users of the guest, without their tests, as Sparrowdo's bootstrap installs its own."""
    _script(
        root,
        f'{_PATH}exec zef install --/test "$@"',
        *names,
        why=f"install the Raku modules {', '.join(names)}",
        timeout_s=timeout_s,
        log=log,
    )


def clean(root: ssh.Target, user: ssh.Target, *, timeout_s: float, log: Path) -> None:
    """What Sparrowdo and zef leave behind that no test has a use for."""
    _script(user, _CLEAN_USER, why="clean up after Sparrowdo", timeout_s=timeout_s, log=log)
    _script(root, _CLEAN_ROOT, why="clean up after Sparrowdo", timeout_s=timeout_s, log=log)


def _script(target: ssh.Target, script: str, *words: str, why: str, timeout_s: float, log: Path) -> None:
    run.run(
        ssh.command(target, "sh", "-euc", script, "golden", *words),
        why=f"{why} in the guest",
        timeout_s=timeout_s,
        log=log,
    )


def _ask(
    target: ssh.Target,
    script: str,
    *words: str,
    what: str,
    try_next: str,
    timeout_s: float,
    log: Path,
    watch: Callable[[], None],
) -> None:
    try:
        run.run(
            ssh.command(target, "sh", "-euc", script, "golden", *words),
            why="look at the guest",
            timeout_s=timeout_s,
            log=log,
            watch=watch,
        )
    except ToolError as error:
        found = dict(error.details)
        if "output" not in found:
            raise
        raise ToolError(
            what, details=[(label, found[label]) for label in ("end", "output")], log=log, try_next=try_next
        ) from error

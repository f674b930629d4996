"""Package repositories that a running guest has for the time of a build: dnf's files for them are in memory alone.

They come beside the guest's own, which steps may have set up on purpose; where both have the same package, it is taken
from golden's, and so comes out of the host's cache. Source: dnf.conf(5), "reposdir", "cost".
"""

from __future__ import annotations

from collections.abc import Sequence

from builder.media import Repository

# dnf 4 and 5 read it, hardly anything puts files there.
_FOLDER = "/etc/distro.repos.d"

# Below 1000, which a repository has that says nothing.
_COST = 100

# Seconds in which nothing may come: a little more than the host's cache gives the mirror for one file, as nobody is to
# give up before it does. Source: dnf.conf(5), "timeout"; builder/tools/package_cache.py.
PATIENCE_S = 4000

# For the seal: what is in memory went with the guest, the folder stayed.
FORGET = f"""\
if [ -d {_FOLDER} ] && ! rpm -qf --quiet {_FOLDER}; then rmdir --ignore-fail-on-non-empty {_FOLDER}; fi
"""


def text(repositories: Sequence[Repository]) -> str:
    """dnf's file for them. No proxy: they are on this host. Their packages are checked no more than offline."""
    return "\n".join(
        f"[golden-{repository.name}]\n"
        f"name=golden's {repository.name}, while the image is built\n"
        f"baseurl={repository.location}\n"
        f"cost={_COST}\ngpgcheck=0\nrepo_gpgcheck=0\nproxy=\ntimeout={PATIENCE_S}\nskip_if_unavailable=1\n"
        for repository in repositories
    )


def lend(repositories: Sequence[Repository]) -> str:
    """A script for the guest, the end of one. repositories: at addresses that it reaches.

    A guest that cannot have them does without.
    """
    if not repositories:
        return ""
    return f"""\
mkdir -p {_FOLDER}
if [ -n "$(ls -A {_FOLDER})" ]; then
    echo "golden: {_FOLDER} has files of its own; dnf downloads by itself, not through the host's cache"
    exit 0
fi
mount -t tmpfs -o mode=0755,size=1m golden {_FOLDER} || exit 0
cat > {_FOLDER}/golden.repo <<'END'
{text(repositories)}END
"""

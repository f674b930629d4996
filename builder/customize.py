"""Parent -> overlay, offline: what the recipe's offline steps run in the guest's file system.

One small function for each kind of step. Exit codes are claims: each script looks at what it has done. Files that
a step needs travel on the input disk, as `parcels` packs them.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from builder.media import Repository
from builder.steps import (
    ARTIFACTS,
    Artifact,
    Artifacts,
    Copy,
    Groups,
    Install,
    Modules,
    Remove,
    Repos,
    RootPassword,
    Run,
    Selinux,
    Services,
    SshKeys,
    Step,
    Upgrade,
    Write,
    name_of,
)
from builder.tools import input_disk, lent_repositories, scratch_disk
from builder.tools.guestfs import Operation

CACHE_END = "cache-end"
_CACHE_BEGIN = Operation(name="cache-begin", script=scratch_disk.MOUNT, timeout_s=30)
_CACHE_END = Operation(name=CACHE_END, script=scratch_disk.UNMOUNT, timeout_s=30)


def operations(steps: Sequence[tuple[int, Step]], *, repositories: Sequence[Repository]) -> list[Operation]:
    """One operation per offline step, dnf's cache kept off the guest's disk from the first to the last.

    steps: with their number in the recipe. repositories: at addresses that the appliance reaches.
    """
    found = [operation(number, step, repositories) for number, step in steps]
    return [_CACHE_BEGIN, *found, _CACHE_END] if found else []


def operation(number: int, step: Step, repositories: Sequence[Repository]) -> Operation:
    """One step by itself, with dnf's cache where the guest has it."""
    name = name_of(number, step)
    match step:
        case Upgrade():
            script = f"{dnf_command(repositories)} upgrade\n"
        case Install(packages=packages):
            script = f"{dnf_command(repositories)} install {shlex.join(packages)}\n{_check_installed(packages)}"
        case Remove(packages=packages):
            script = _remove(packages)
        case Groups(groups=groups):
            script = _groups(groups, dnf_command(repositories))
        case Modules():
            script = _modules(step, dnf_command(repositories))
        case Copy() | Write():
            script = _check_owner(step.owner) + input_disk.find() + input_disk.unpack(name)
        case Repos():
            script = input_disk.find() + input_disk.unpack(name) if step.is_kept else ":\n"
        case Run(script=None):
            script = "".join(f"{command}\n" for command in step.commands)
        case Run():
            script = _script(name)
        case Services():
            script = _services(step)
        case Selinux():
            script = _selinux(step)
        case SshKeys(user=user):
            script = _ssh_keys(name, user)
        case Artifacts(packages=artifacts):
            script = _install_artifacts(artifacts, repositories)
        case RootPassword(hash=secret):
            script = f"chpasswd --encrypted <<'END'\nroot:{secret.get_secret_value()}\nEND\n"
        case _:
            raise TypeError(f"{step.kind} is no offline step")
    return Operation(name=name, script=script, timeout_s=step.timeout_s, is_written_out=True)


# --- packages


def dnf_command(repositories: Sequence[Repository]) -> str:
    """dnf with the distribution's repositories for this build only; the guest's own where golden.toml names none."""
    words = ["dnf", "-y"]
    if any(not repository.is_extra for repository in repositories):
        words += ["--disablerepo=*", "--enablerepo=golden-*"]
    if repositories:
        # A package comes out of this host's cache once that has all of it, which takes as long as the mirror does.
        words += ["--setopt=golden-*.gpgcheck=0", f"--setopt=golden-*.timeout={lent_repositories.PATIENCE_S}"]
    for repository in repositories:
        words.append(f"--repofrompath=golden-{repository.name},{repository.location}")
    return shlex.join(words)


def _check_installed(packages: Sequence[str]) -> str:
    """Exit codes are claims: dnf ends with 0 when it skips what it cannot install (`strict=0` in its configuration)."""
    names = shlex.join(package for package in packages if not set(package) & set("@*?["))
    return f"""\
for package in {names}; do
    rpm -q --quiet -- "$package" || rpm -q --quiet --whatprovides -- "$package" || {{
        echo "golden: dnf ended well, and '$package' is not installed" >&2
        exit 1
    }}
done
"""


def _remove(packages: Sequence[str]) -> str:
    """No repository is asked: what is removed is on the disk."""
    return f"""\
dnf -y remove {shlex.join(packages)}
for package in {shlex.join(packages)}; do
    left=$(rpm -qa -- "$package")
    [ -z "$left" ] || {{
        echo "golden: dnf ended well, and '$package' is still installed:" $left >&2
        exit 1
    }}
done
"""


def _groups(groups: Sequence[str], dnf: str) -> str:
    """dnf5 shows ids by itself and environments apart; dnf4 shows both, and ids only when asked."""
    ids = [group.lstrip("@^") for group in groups]
    return f"""\
{dnf} group install {shlex.join(groups)}
case "$(readlink -f "$(command -v dnf)")" in
    *dnf5) installed=$({dnf} -q group list --installed --hidden; {dnf} -q environment list --installed) ;;
    *) installed=$({dnf} -q group list --installed --hidden --ids) ;;
esac
for group in {shlex.join(ids)}; do
    printf '%s\\n' "$installed" | grep -Fqw -- "$group" || {{
        echo "golden: dnf ended well, and the group '$group' is not installed" >&2
        exit 1
    }}
done
"""


def _modules(step: Modules, dnf: str) -> str:
    """`module list` ends with an error when no stream has the state asked for. Source: dnf(8), "module list"."""
    lines = []
    for verb, names, state in (
        ("disable", step.disable, "disabled"),
        ("enable", step.enable, "enabled"),
        ("install", step.install, "installed"),
    ):
        if names:
            lines.append(f"{dnf} module {verb} {shlex.join(names)}\n")
        for name in names:
            claim = shlex.quote(f"golden: dnf ended well, and the module '{name}' is not {state}")
            lines.append(
                f"{dnf} -q module list --{state} {shlex.quote(name)} >/dev/null || {{ echo {claim} >&2; exit 1; }}\n"
            )
    return "".join(lines)


# --- files


def _check_owner(owner: str) -> str:
    """tar takes number 0 for a name that the guest does not know, and says nothing."""
    user, _, group = owner.partition(":")
    lines = []
    for database, name, what in (("passwd", user, "user"), ("group", group, "group")):
        if not name.isdigit():
            lines.append(
                f"getent {database} {shlex.quote(name)} >/dev/null || "
                f"{{ echo \"golden: there is no {what} '{name}' in the guest\" >&2; exit 1; }}\n"
            )
    return "".join(lines)


def _script(parcel: str) -> str:
    """A script of the project's; its first line says what runs it, /bin/sh if none does."""
    return f"""\
{input_disk.find()}folder=$(mktemp -d)
{input_disk.extract(parcel, '"$folder"')}cd /
"$folder/script"
rm -rf "$folder"
"""


def _ssh_keys(parcel: str, user: str) -> str:
    return f"""\
user={shlex.quote(user)}
home=$(getent passwd "$user" | cut -d: -f6)
[ -n "$home" ] || {{ echo "golden: there is no user '$user' in the guest" >&2; exit 1; }}
{input_disk.find()}folder=$(mktemp -d)
{input_disk.extract(parcel, '"$folder"')}keys=$home/.ssh/authorized_keys
mkdir -p "$home/.ssh"
touch "$keys"
# A file without a newline at its end would join its last key with the first of ours.
[ -z "$(tail -c 1 "$keys")" ] || echo >> "$keys"
while IFS= read -r key; do
    grep -qxF -- "$key" "$keys" || printf '%s\\n' "$key" >> "$keys"
done < "$folder/keys"
chmod 700 "$home/.ssh"
chmod 600 "$keys"
chown "$user:" "$home/.ssh" "$keys"
rm -rf "$folder"
"""


# --- the system


def _services(step: Services) -> str:
    lines = []
    for verb, units, good in (
        ("enable", step.enable, "enabled|alias"),
        ("disable", step.disable, "disabled|indirect|masked"),
        ("mask", step.mask, "masked"),
    ):
        if units:
            lines.append(f"""\
systemctl {verb} -- {shlex.join(units)}
for unit in {shlex.join(units)}; do
    state=$(systemctl is-enabled -- "$unit" || true)
    case $state in
        {good}) ;;
        *) echo "golden: 'systemctl {verb}' ended well, and '$unit' is '$state'" >&2; exit 1 ;;
    esac
done
""")
    return "".join(lines)


def _selinux(step: Selinux) -> str:
    """Booleans go into the policy store: in the appliance no policy is loaded that could be changed (`-N`)."""
    lines = [
        """\
if [ ! -f /etc/selinux/config ]; then
    echo "golden: the guest has no SELinux; nothing to set"
    exit 0
fi
"""
    ]
    if step.mode:
        lines.append(f"""\
sed -i 's/^SELINUX=.*/SELINUX={step.mode}/' /etc/selinux/config
grep -qx 'SELINUX={step.mode}' /etc/selinux/config || {{
    echo "golden: /etc/selinux/config has no line SELINUX= to set" >&2
    exit 1
}}
""")
    for name, state in step.booleans.items():
        value = int(state)
        lines.append(f"""\
setsebool -P -N {name}={value} || semanage boolean -N --modify --{"on" if state else "off"} {name}
grep -qsx '{name}={value}' /var/lib/selinux/*/active/booleans.local || {{
    echo "golden: the boolean '{name}' is not {value} in the guest's policy store" >&2
    exit 1
}}
""")
    return "".join(lines)


def _install_artifacts(artifacts: Sequence[Artifact], repositories: Sequence[Repository]) -> str:
    """Install exactly these packages, whatever other versions of them there are, and look whether that happened.

    Their repository comes before all others, and before the modules of EL8, which would hide packages of the same
    names. A package of the same name and version as one in the guest, yet another one, has to be put in its place
    by a reinstallation. Source: dnf.conf(5), "priority", "module_hotfixes".
    """
    names = shlex.join(artifact.nevra for artifact in artifacts)
    wanted = "\n".join(f"{artifact.nvra} {artifact.header} {artifact.nevra}" for artifact in artifacts)
    first = f"--setopt=golden-{ARTIFACTS}.priority=1 --setopt=golden-{ARTIFACTS}.module_hotfixes=1"
    dnf = f"{dnf_command(repositories)} {first}"
    return f"""\
cat > /var/tmp/golden-wanted <<'END'
{wanted}
END
others() {{
    while read -r nvra header nevra; do
        [ "$(rpm -q --qf '%{{SHA256HEADER}}' -- "$nvra")" = "$header" ] || echo "$nevra"
    done < /var/tmp/golden-wanted
}}
{dnf} install {names}
again=$(others)
[ -z "$again" ] || {dnf} reinstall $again
again=$(others)
[ -z "$again" ] || {{
    echo "golden: dnf ended well, and these are not the packages that were given:" $again >&2
    exit 1
}}
rm /var/tmp/golden-wanted
"""

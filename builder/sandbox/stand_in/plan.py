"""Kickstart text -> what to do. Pure: nothing here touches the machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pykickstart import constants
from pykickstart.errors import KickstartError, KickstartParseError
from pykickstart.parser import KickstartParser
from pykickstart.version import makeVersion

from .console import problem, stopped
from .disks import Group, Partition, storage

# What this stand-in does.
OBEYED = frozenset(
    {
        *("autopart", "bootloader", "clearpart", "ignoredisk", "part", "partition", "reqpart", "zerombr"),
        *("logvol", "volgroup"),
        *("keyboard", "lang", "network", "timezone"),
        *("rootpw", "services", "sshkey", "user"),
        *("halt", "poweroff", "reboot", "shutdown"),
        *("cmdline", "graphical", "text"),
        "repo",
    }
)

# What a kickstart may say, and why it means nothing here.
MEANINGLESS = {
    "cdrom": "the DVD is the only source",
    "eula": "there is no licence agreement to click away",
    "firewall": "the sandbox has no firewall",
    "firstboot": "the sandbox has no initial setup",
    "logging": "everything goes to the console",
    "selinux": "the sandbox has no SELinux",
    "skipx": "the sandbox has no X server",
    "timesource": "the sandbox has no NTP client",
}

_PHASES = {
    constants.KS_SCRIPT_PRE: "pre",
    constants.KS_SCRIPT_PREINSTALL: "pre-install",
    constants.KS_SCRIPT_POST: "post",
    constants.KS_SCRIPT_ONERROR: "onerror",
    constants.KS_SCRIPT_TRACEBACK: "traceback",
}


@dataclass(frozen=True)
class Account:
    """password: crypted, or None for none. A locked account can be entered with a key alone."""

    name: str
    password: str | None
    is_crypted: bool = True
    is_locked: bool = False
    groups: tuple[str, ...] = ()
    shell: str = "/bin/bash"
    home: str = ""
    comment: str = ""
    uid: int | None = None


@dataclass(frozen=True)
class Script:
    """line: where the section begins in the kickstart."""

    phase: str
    text: str
    line: int
    interpreter: str = "/bin/sh"
    in_chroot: bool = True
    error_on_fail: bool = False
    log: str = ""


@dataclass(frozen=True)
class Packages:
    names: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    ignore_missing: bool = False
    exclude_docs: bool = False
    weak_dependencies: bool = True
    is_given: bool = False


@dataclass(frozen=True)
class Plan:
    """Everything the kickstart asks for. `remarks`: command -> why it means nothing here."""

    partitions: tuple[Partition, ...] = ()
    groups: tuple[Group, ...] = ()
    disks: tuple[str, ...] = ()
    disk_label: str = ""
    has_boot_loader: bool = False
    kernel_arguments: str = ""
    boot_timeout_s: int = 5
    root: Account | None = None
    users: tuple[Account, ...] = ()
    keys: tuple[tuple[str, str], ...] = ()
    enabled: tuple[str, ...] = ()
    disabled: tuple[str, ...] = ()
    timezone: str = ""
    is_utc: bool = True
    language: str = ""
    keyboard: str = ""
    hostname: str = ""
    repositories: tuple[tuple[str, str], ...] = ()
    packages: Packages = field(default_factory=Packages)
    scripts: tuple[Script, ...] = ()
    ending: str = ""
    can_ask: bool = True
    remarks: tuple[tuple[str, str], ...] = ()

    def scripts_of(self, phase: str) -> list[Script]:
        return [script for script in self.scripts if script.phase == phase]

    @property
    def mount_points(self) -> list[str]:
        volumes = [volume.wish for group in self.groups for volume in group.volumes]
        return [part.mount_point for part in (*self.partitions, *volumes)]


def parse(text: str) -> Any:
    """The RHEL 9 handler, filled. Raises InstallError with the line, in Anaconda's words."""
    parser = KickstartParser(makeVersion("RHEL9"))
    try:
        parser.readKickstartFromString(text)
    except KickstartParseError as error:
        raise problem(error.lineno, error.message) from error
    except KickstartError as error:
        raise stopped(f"the kickstart cannot be read: {error}") from error
    return parser.handler


def make(handler: Any) -> Plan:
    """The plan. Raises InstallError for a command or option that this stand-in does not obey."""
    seen = {name: command for name, command in handler.commands.items() if command is not None and command.seen}
    for name, command in sorted(seen.items(), key=lambda item: item[1].lineno):
        if name not in OBEYED and name not in MEANINGLESS:
            raise problem(command.lineno, f"'{name}' is not obeyed by this stand-in for Anaconda")
    network = _network(handler)
    partitions, groups = storage(handler)
    return Plan(
        partitions=tuple(partitions),
        groups=tuple(groups),
        disks=tuple(handler.ignoredisk.onlyuse or handler.clearpart.drives or ()),
        disk_label=handler.clearpart.disklabel or "",
        has_boot_loader=handler.bootloader.location != "none",
        kernel_arguments=handler.bootloader.appendLine or "",
        boot_timeout_s=5 if handler.bootloader.timeout is None else handler.bootloader.timeout,
        root=_root(handler),
        users=tuple(_user(user) for user in handler.user.userList),
        keys=tuple((key.username, key.key) for key in handler.sshkey.sshUserList),
        enabled=tuple(handler.services.enabled),
        disabled=tuple(handler.services.disabled),
        timezone=handler.timezone.timezone or "",
        is_utc=bool(handler.timezone.isUtc),
        language=handler.lang.lang or "",
        keyboard=handler.keyboard.vc_keymap or handler.keyboard._keyboard or "",
        hostname=network,
        repositories=tuple((repo.name, repo.baseurl) for repo in _repositories(handler)),
        packages=_packages(handler.packages),
        scripts=tuple(_script(script) for script in handler.scripts),
        ending=_ending(handler),
        can_ask=handler.displaymode.displayMode != constants.DISPLAY_MODE_CMDLINE,
        remarks=tuple((name, MEANINGLESS[name]) for name in seen if name in MEANINGLESS),
    )


def missing(plan: Plan) -> list[str]:
    """What Anaconda would ask for, in the words of its text hub."""
    spokes = {
        "Time settings": bool(plan.timezone),
        "Software selection": plan.packages.is_given,
        "Installation Destination": "/" in plan.mount_points,
        "Root password": plan.root is not None or bool(plan.users),
    }
    return [name for name, is_set in spokes.items() if not is_set]


def _root(handler: Any) -> Account | None:
    root = handler.rootpw
    if not root.seen:
        return None
    return Account("root", root.password or None, is_crypted=bool(root.isCrypted), is_locked=bool(root.lock))


def _user(user: Any) -> Account:
    return Account(
        name=user.name,
        password=user.password or None,
        is_crypted=bool(user.isCrypted),
        is_locked=bool(user.lock),
        # "wheel(10)" is allowed; the number matters only for groups that do not exist.
        groups=tuple(group.split("(")[0].strip() for group in user.groups),
        shell=user.shell or "/bin/bash",
        home=user.homedir or "",
        comment=user.gecos or "",
        uid=user.uid,
    )


def _network(handler: Any) -> str:
    """The host name. Every interface of the sandbox asks DHCP; anything else is refused."""
    for data in handler.network.network:
        if data.bootProto != constants.BOOTPROTO_DHCP or data.vlanid or data.bondslaves or data.bridgeslaves:
            raise problem(data.lineno, "a network other than DHCP is not obeyed by this stand-in for Anaconda")
    return next((data.hostname for data in handler.network.network if data.hostname), "")


def _repositories(handler: Any) -> list[Any]:
    for repo in handler.repo.repoList:
        if not repo.baseurl:
            raise problem(
                repo.lineno, f"repo '{repo.name}' without --baseurl is not obeyed by this stand-in for Anaconda"
            )
    return list(handler.repo.repoList)


def _packages(packages: Any) -> Packages:
    excluded_groups = [group.name for group in packages.excludedGroupList]
    if excluded_groups:
        raise stopped(f"excluding the group '{excluded_groups[0]}' is not obeyed by this stand-in for Anaconda")
    groups = [group.name for group in packages.groupList]
    if not packages.nocore and "core" not in groups:
        groups.insert(0, "core")
    return Packages(
        names=tuple(sorted(packages.packageList)),
        groups=tuple(groups),
        excluded=tuple(sorted(packages.excludedList)),
        ignore_missing=packages.handleMissing == constants.KS_MISSING_IGNORE,
        exclude_docs=bool(packages.excludeDocs),
        weak_dependencies=not packages.excludeWeakdeps,
        is_given=bool(packages.seen),
    )


def _script(script: Any) -> Script:
    return Script(
        phase=_PHASES[script.type],
        text=script.script,
        line=script.lineno,
        interpreter=script.interp,
        in_chroot=bool(script.inChroot) and script.type == constants.KS_SCRIPT_POST,
        error_on_fail=bool(script.errorOnFail),
        log=script.logfile or "",
    )


def _ending(handler: Any) -> str:
    if not handler.reboot.seen and not any(
        handler.commands[name].seen for name in ("poweroff", "halt", "shutdown") if name in handler.commands
    ):
        return ""
    actions = {
        constants.KS_REBOOT: "reboot",
        constants.KS_SHUTDOWN: "poweroff",
        constants.KS_WAIT: "halt",
    }
    return actions.get(handler.reboot.action, "")

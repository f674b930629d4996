"""The packages, by dnf's own library, from the DVD and the kickstart's repositories."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from . import volumes
from .console import InstallError, phase, say
from .plan import Packages, Plan
from .system import SYSROOT

DVD = Path("/run/install/repo")


def install(plan: Plan) -> None:
    """Install what `%packages` names. Raises InstallError as Anaconda's dnf payload would."""
    phase("Starting package installation process")
    dnf = importlib.import_module("dnf")
    with dnf.Base(_configuration(dnf, plan.packages)) as base:
        _add_repositories(base, plan)
        base.fill_sack(load_system_repo=False)
        base.read_comps()
        _request(dnf, base, plan.packages)
        if plan.groups:
            base.install(volumes.PACKAGE)
        try:
            base.resolve()
        except dnf.exceptions.DepsolveError as error:
            raise _payload_error(str(error)) from error
        phase(f"Preparing transaction from installation source: {len(base.transaction.install_set)} packages")
        try:
            base.download_packages(list(base.transaction.install_set))
            base.do_transaction(display=_progress(dnf))
        except dnf.exceptions.Error as error:
            raise _payload_error(str(error)) from error


def _payload_error(text: str) -> InstallError:
    return InstallError(
        "The following error occurred while installing the payload. "
        f"This is a fatal error and installation will be aborted.\n\n{text}"
    )


def _configuration(dnf: Any, packages: Packages) -> Any:
    conf = dnf.conf.Conf()
    conf.installroot = str(SYSROOT)
    conf.cachedir = "/tmp/dnf"
    conf.persistdir = str(SYSROOT / "var/lib/dnf")
    conf.logdir = "/tmp"
    conf.gpgcheck = False
    conf.plugins = False
    conf.install_weak_deps = packages.weak_dependencies
    conf.substitutions["releasever"] = "9"
    conf.excludepkgs = list(packages.excluded)
    if packages.exclude_docs:
        conf.tsflags = ["nodocs"]
    return conf


def _add_repositories(base: Any, plan: Plan) -> None:
    base.repos.add_new_repo("anaconda", base.conf, baseurl=[f"file://{DVD}"])
    for name, url in plan.repositories:
        base.repos.add_new_repo(name, base.conf, baseurl=[url])


def _request(dnf: Any, base: Any, packages: Packages) -> None:
    absent = []
    for name in packages.groups:
        group = base.comps.group_by_pattern(name)
        if group is None:
            absent.append(f"@{name}")
        else:
            base.group_install(group.id, ("mandatory", "default"), exclude=list(packages.excluded))
    for name in packages.names:
        try:
            base.install(name)
        except dnf.exceptions.MarkingError:
            absent.append(name)
    if absent and not packages.ignore_missing:
        raise _payload_error(f"Problems in request:\nmissing packages: {', '.join(absent)}")
    if absent:
        say(f"Some packages are missing and ignored: {', '.join(absent)}")


def _progress(dnf: Any) -> Any:
    """A line for each package as it begins, which is what a reader of the console can show."""

    class Progress(dnf.callback.TransactionProgress):  # type: ignore[misc]
        last = ""

        def progress(self, package: Any, action: Any, ti_done: int, ti_total: int, ts_done: int, ts_total: int) -> None:
            if action == dnf.transaction.PKG_INSTALL and str(package) != self.last:
                self.last = str(package)
                phase(f"Installing {package.name}.{package.arch} ({ts_done}/{ts_total})")

        def error(self, message: str) -> None:
            say(f"Error while installing: {message}")

    return Progress()

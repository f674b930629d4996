"""Does a clone of an image hold what its definition promises? Run by pytest-testinfra over ssh.

One test for each promise in promises.json beside this file. By hand, while a clone of the image runs:
  pytest --hosts=ssh://root@127.0.0.1:PORT --ssh-identity-file=KEY golden_promises.py
"""

from __future__ import annotations

import functools
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

PROMISES: dict[str, Any] = json.loads(Path(__file__).with_name("promises.json").read_text(encoding="utf-8"))


def each(name: str, *, of: str) -> pytest.MarkDecorator:
    """One test for each promise of a kind; none where there are none."""
    return pytest.mark.parametrize(name, list(PROMISES[of]), ids=str)


@functools.cache
def facts(host: Any) -> dict[str, str]:
    """What systemd says of the boot, asked once."""
    lines = host.check_output("systemctl show default.target -p ActiveState,ActiveEnterTimestampMonotonic").splitlines()
    return dict(line.split("=", 1) for line in lines)


# --- the boot


def test_default_target_is_reached(host: Any) -> None:
    # `--wait` returns when the boot is over, whatever came of it.
    host.run(f"timeout {PROMISES['boot_limit_s']} systemctl is-system-running --wait")
    found = facts(host)
    jobs = host.run("systemctl list-jobs --no-legend").stdout.strip()
    assert found["ActiveState"] == "active", f"default.target is {found['ActiveState']}; still to do: {jobs}"


def test_boot_is_within_its_budget(host: Any, record_testsuite_property: Any) -> None:
    seconds = int(facts(host)["ActiveEnterTimestampMonotonic"]) / 1_000_000
    record_testsuite_property("boot_s", f"{seconds:.2f}")
    budget_s = PROMISES["boot_within_s"]
    assert seconds > 0, "default.target was not reached"
    assert budget_s is None or seconds <= budget_s, f"booted in {seconds:.1f} s; the budget is {budget_s:.0f} s"


def test_no_unit_failed(host: Any) -> None:
    failed = host.check_output("systemctl list-units --failed --plain --no-legend --no-pager").split("\n")
    names = [line.split()[0] for line in failed if line.strip()]
    assert not names, f"failed: {', '.join(names)}"


# --- what the definition declares


@each("package", of="packages")
def test_package_is_installed(host: Any, package: str) -> None:
    quoted = shlex.quote(package)
    found = host.run(f"rpm -q -- {quoted} || rpm -q --whatprovides -- {quoted}")
    assert found.rc == 0, found.stdout.strip()


@each("package", of="absent")
def test_package_is_absent(host: Any, package: str) -> None:
    found = host.run(f"rpm -q -- {shlex.quote(package)}")
    assert found.rc != 0, f"{found.stdout.strip()} is installed"


@each("unit", of="services")
def test_service_runs_and_is_enabled(host: Any, unit: str) -> None:
    quoted = shlex.quote(unit)
    found = host.run(f"systemctl is-active -- {quoted}; systemctl is-enabled -- {quoted}").stdout.split()
    # `static` and its kin cannot be enabled: another unit wants them.
    assert found[:1] == ["active"], f"{unit} is {' '.join(found) or 'unknown'}"
    assert found[1:] != ["disabled"], f"{unit} runs, and is disabled"


@each("unit", of="enabled")
def test_unit_is_enabled(host: Any, unit: str) -> None:
    found = host.run(f"systemctl is-enabled -- {shlex.quote(unit)}").stdout.strip()
    assert found in ("enabled", "alias", "enabled-runtime"), f"{unit} is {found or 'unknown'}"


@each("unit", of="disabled")
def test_unit_is_disabled(host: Any, unit: str) -> None:
    found = host.run(f"systemctl is-enabled -- {shlex.quote(unit)}").stdout.strip()
    assert found in ("disabled", "indirect", "masked", ""), f"{unit} is {found}"


@each("unit", of="masked")
def test_unit_is_masked(host: Any, unit: str) -> None:
    found = host.run(f"systemctl is-enabled -- {shlex.quote(unit)}").stdout.strip()
    assert found == "masked", f"{unit} is {found or 'unknown'}"


@each("path", of="files")
def test_file_is_there(host: Any, path: str) -> None:
    wanted = PROMISES["files"][path]
    quoted = shlex.quote(path)
    found = host.run(f"stat -c '%a %U:%G' -- {quoted}")
    assert found.rc == 0, f"{path} is not there"
    mode, owner = found.stdout.split()
    if wanted["mode"] is not None:
        assert int(mode, 8) == wanted["mode"], f"{path} has mode {mode}, not {wanted['mode']:o}"
    if wanted["owner"] is not None:
        assert owner.split(":")[: wanted["owner"].count(":") + 1] == wanted["owner"].split(":"), f"{path} is of {owner}"
    if wanted["contains"] is not None:
        rc = host.run(f"grep -qF -e {shlex.quote(wanted['contains'])} -- {quoted}").rc
        assert rc == 0, f"{path} does not contain {wanted['contains']!r}"


@each("command", of="commands")
def test_command_succeeds(host: Any, command: str) -> None:
    found = host.run(command)
    said = (found.stderr.strip() or found.stdout.strip()).splitlines()[-5:]
    assert found.rc == 0, "\n".join([f"exit {found.rc}", *said])


# --- what every image promises


def test_selinux_is_as_declared(host: Any) -> None:
    found = host.run("[ -d /etc/selinux ] && command -v getenforce >/dev/null && getenforce").stdout.strip().lower()
    wanted = PROMISES["selinux"]
    if not found and not PROMISES["selinux_is_own"]:
        # The mode is the distribution's default, and no word of golden.toml's: a guest without SELinux neither keeps
        # nor breaks a promise, which a verdict shows as skipped.
        pytest.skip("the guest has no SELinux")
    assert found or wanted == "disabled", f"the guest has no SELinux; golden.toml says that it is {wanted}"
    assert found in (wanted, ""), f"SELinux is {found}, not {wanted}"
    assert host.run("[ -e /.autorelabel ]").rc != 0, "/.autorelabel is there: the next boot would relabel all files"


def test_address_is_from_dhcp(host: Any) -> None:
    routes = host.check_output("ip -4 route show default")
    assert "proto dhcp" in routes, f"the default route is not from DHCP: {routes.strip() or 'there is none'}"


def test_machine_id_is_its_own(host: Any) -> None:
    """Made at the clone's first boot: the image's own file is older than the image."""
    machine_id, made = host.check_output("cat /etc/machine-id; stat -c %Y /etc/machine-id").split()
    assert len(machine_id) == 32, f"/etc/machine-id is {machine_id!r}"
    assert int(made) >= PROMISES["built_at"], "/etc/machine-id is the image's: every clone would have the same"


def test_host_keys_are_its_own(host: Any) -> None:
    found = host.check_output("stat -c '%Y %n' /etc/ssh/ssh_host_*_key").splitlines()
    old = [name for made, name in (line.split() for line in found) if int(made) < PROMISES["built_at"]]
    assert not old, f"the image's, and so every clone's: {', '.join(old)}"

"""Does a running clone hold what its image promises? Tests generated from the promises, and budgets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Literal

from builder.errors import ConfigError
from builder.model import Build, Project
from builder.promises import Promises
from builder.tools import ssh, testinfra
from builder.units import MIB, format_bytes
from builder.verdicts import Check, Verdict

_TESTS = Path(__file__).with_name("guest_tests") / f"{testinfra.GENERATED}.py"
_TIMEOUT_S = 900

# Growth below this is noise: a package list more or a busy host, whatever it is in percent.
_SIZE_NOISE_BYTES = 16 * MIB
_BOOT_NOISE_S = 5.0


def check(project: Project, promises: Promises) -> None:
    """Raises HostError if the tests cannot run on this machine, ConfigError if the project lacks one of its own."""
    testinfra.need()
    gone = [path for path in promises.tests if not (project.folder / path).exists()]
    if gone:
        raise ConfigError(f"there is no {', '.join(gone)} beside {project.file.name}, which `verify` names as tests")


def write_tests(promises: Promises, build: Build, *, work: Path, boot_limit_s: float, time_factor: float) -> Path:
    """The generated tests: one file that is the same for all images, and beside it what this one promises."""
    work.mkdir(parents=True, exist_ok=True)
    budget_s = promises.boot_within_s
    asked = promises.model_dump(mode="json") | {
        "built_at": int(datetime.fromisoformat(build.finished).timestamp()),
        "boot_limit_s": round(boot_limit_s),
        "boot_within_s": budget_s * time_factor if budget_s is not None else None,
    }
    (work / "promises.json").write_text(json.dumps(asked, indent=1) + "\n", encoding="utf-8")
    return Path(shutil.copy(_TESTS, work / _TESTS.name))


def inspect(
    target: ssh.Target,
    promises: Promises,
    build: Build,
    *,
    project: Path,
    work: Path,
    boot_limit_s: float,
    time_factor: float,
    watch: Callable[[], None],
) -> tuple[list[Check], float | None]:
    """Run all tests against a clone of `build` that answers: what they found, and the seconds that it booted in.

    work: where the tests, their log and junit.xml stay. boot_limit_s: how long a boot under way is waited for.
    time_factor: what the budget for the boot is multiplied by. Raises ToolError if pytest could not run them.
    """
    generated = write_tests(promises, build, work=work, boot_limit_s=boot_limit_s, time_factor=time_factor)
    checks, properties = testinfra.check(
        target,
        [generated, *(project / path for path in promises.tests)],
        work=work,
        project=project,
        why=f"test a clone of {build.stem}",
        timeout_s=_TIMEOUT_S * time_factor,
        watch=watch,
    )
    boot_s = float(properties.get("boot_s", 0))
    return checks, boot_s or None


def budgets(
    promises: Promises,
    build: Build,
    *,
    boot_s: float | None,
    accelerator: Literal["kvm", "tcg"],
    last_good: tuple[Build, Verdict] | None,
) -> list[Check]:
    """What the build may not outgrow: its own limit, and by how much it may exceed the last good build. Pure.

    Boot times are compared only between machines of the same kind.
    """
    found = []
    if (limit := promises.size_below_bytes) is not None:
        says = f"it has {format_bytes(build.size_bytes)}"
        found.append(_budget(f"size is below {format_bytes(limit)}", build.size_bytes < limit, says))
    growth = promises.growth_percent
    if growth is None or last_good is None:
        return found
    before, verdict = last_good
    most_bytes = max(before.size_bytes * (100 + growth) / 100, before.size_bytes + _SIZE_NOISE_BYTES)
    says = f"{format_bytes(before.size_bytes)} in {before.version}, now {format_bytes(build.size_bytes)}"
    found.append(_budget(f"size grew by at most {growth}%", build.size_bytes <= most_bytes, says))
    if boot_s is not None and verdict.boot_s is not None and verdict.accelerator == accelerator:
        most_s = max(verdict.boot_s * (100 + growth) / 100, verdict.boot_s + _BOOT_NOISE_S)
        says = f"{verdict.boot_s:.1f} s in {before.version}, now {boot_s:.1f} s"
        found.append(_budget(f"boot time grew by at most {growth}%", boot_s <= most_s, says))
    return found


def _budget(name: str, is_kept: bool, says: str) -> Check:
    return Check(name=f"budget: {name}", result="passed" if is_kept else "failed", message="" if is_kept else says)

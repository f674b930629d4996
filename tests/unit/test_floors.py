"""Imports go down, never up, never sideways; one door to outside programs, one to libvirt."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

BUILDER = Path(__file__).parents[2] / "builder"

FLOORS: dict[str, int] = {
    **dict.fromkeys(
        [
            "__init__",
            "errors",
            "model",
            "media",
            "units",
            "toml_lines",
            "packages",
            "frozen",
            "steps",
            "checksums",
            "password",
            "private",
            "input_changes",
            "publication",
            "promises",
            "causes",
            "bisection",
            "admission",
            "faults",
            "locks",
            "transient",
            "interrupts",
        ],
        0,
    ),
    **dict.fromkeys(
        [
            "catalogue",
            "config",
            "store",
            "templates",
            "progress",
            "digests",
            "sources",
            "config_steps",
            "config_values",
            "config_problems",
            "config_distributions",
            "config_images",
            "config_matrix",
            "config_messages",
            "trees",
            "package_changes",
            "checks",
            "checkpoints",
            "config_publication",
            "config_verify",
            "verdicts",
            "nights",
            "private_keys",
            "last_seen",
        ],
        1,
    ),
    "run": 2,
    "tools": 3,
    **dict.fromkeys(
        [
            "install",
            "customize",
            "parcels",
            "provision",
            "seal",
            "package",
            "channels",
            "clones",
            "preflight",
            "sandbox",
            "cache",
            "importing",
            "artifacts",
            "export",
            "starter",
            "rewind",
            "verify",
            "guest_tests",
            "report",
        ],
        4,
    ),
    **dict.fromkeys(
        [
            "inputs",
            "layer",
            "plan",
            "pipeline",
            "workshop",
            "construction",
            "dry_run",
            "bases",
            "flatten",
            "derived",
            "reproduce",
            "verification",
            "culprits",
            "night",
            "night_steps",
            "night_publication",
            "mirrors",
            "sparrowfiles",
            "decision",
            "supply",
            "resuming",
            "soundness",
            "harness",
        ],
        5,
    ),
    **dict.fromkeys(["cli", "__main__", "pytest_golden"], 6),
}

# On these floors modules build on each other; on floor 4 they do not know each other.
TOGETHER = {0, 1, 3, 5, 6}


def room(path: Path) -> str:
    return path.relative_to(BUILDER).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The rooms of golden that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[0] == "builder":
                found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.split(".")[1] for alias in node.names if (name := alias.name).startswith("builder.")}
    return {name for name in found if name in FLOORS}


MODULES = sorted(BUILDER.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(BUILDER)))
def test_imports_go_down(path: Path) -> None:
    mine = room(path)
    floor = FLOORS[mine]
    for name in imported(path) - {mine}:
        below = FLOORS[name] < floor
        beside = FLOORS[name] == floor and floor in TOGETHER
        assert below or beside, f"{mine} (floor {floor}) imports {name} (floor {FLOORS[name]})"


@pytest.mark.parametrize(("library", "door"), [("subprocess", "run.py"), ("libvirt", "tools/libvirt.py")])
def test_one_door(library: str, door: str) -> None:
    users = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if any(name.split(".")[0] == library for name in names):
                users.add(str(path.relative_to(BUILDER)))
    # The sandbox's stand-in for Anaconda runs in the installer, where golden is not; it has a door of its own.
    assert {user for user in users if not user.startswith("sandbox/stand_in/")} == {door}


def test_every_module_has_a_floor() -> None:
    assert {room(path) for path in MODULES} <= set(FLOORS)


def test_no_shell_of_the_host_is_given_a_line() -> None:
    """run.py takes lists of words, and nobody goes around it."""
    ways = {"popen", "getoutput", "getstatusoutput", "create_subprocess_shell"}
    found = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            # The stand-in for Anaconda asks which login shell a user gets.
            if isinstance(node, ast.keyword) and node.arg == "shell" and "stand_in" not in path.parts:
                found.add((path.name, "shell="))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.attr not in ways and (node.value.id, node.attr) != ("os", "system"):
                    continue
                found.add((path.name, f"{node.value.id}.{node.attr}"))
    assert found == set()

"""A build made once more of the same inputs, apart from the store, and compared with what it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from builder.decision import Decision
from builder.derived import derive
from builder.errors import ConfigError, VerifyError
from builder.model import Build, Frozen, Project
from builder.packages import Change, compare
from builder.pipeline import Pipeline
from builder.progress import Reporter
from builder.store import Store
from builder.tools.libvirt import Connection
from builder.workshop import Host


class Difference(Frozen):
    """One input that is not what it was. then, now: as inputs are kept, a digest or text; None where there was none."""

    input: str
    then: str | None
    now: str | None


class Recipe(Frozen):
    """How a build was made, and whether the same would be made now.

    stands_on: the build under it, which is taken as it is. key: content key. commands: those that ran.
    """

    build: str
    key: str
    stands_on: str | None
    inputs: dict[str, str]
    changed: tuple[Difference, ...]
    commands: tuple[str, ...]
    tools: dict[str, str]


class Reproduced(Frozen):
    """Two builds of one recipe. changes: packages that differ; the bytes always do, by times and identities."""

    build: str
    again: str
    packages: int
    changes: tuple[Change, ...]
    seconds: float


def recipe(project: Project, store: Store, build: Build) -> Recipe:
    """Starts nothing. Raises ConfigError if golden.toml has the image no more, VerifyError if a parent is gone."""
    _need_definition(project, build)
    parents = store.chain(build)[1:]
    whole, standing = _as_it_was(project, store, build)
    planned = next(
        step for step in Decision(whole, store, [build.image], standing=standing).plan() if step.image == build.image
    )
    names = dict.fromkeys((*build.inputs, *planned.inputs))
    return Recipe(
        build=build.stem,
        key=build.key,
        stands_on=parents[0].stem if parents else None,
        inputs=build.inputs,
        changed=tuple(
            Difference(input=name, then=build.inputs.get(name), now=planned.inputs.get(name))
            for name in names
            if build.inputs.get(name) != planned.inputs.get(name)
        ),
        commands=build.commands,
        tools=build.tools,
    )


def run(
    project: Project,
    store: Store,
    build: Build,
    *,
    host: Host,
    connection: Connection,
    reporter: Reporter,
    note: Callable[[str], None],
) -> Reproduced:
    """Build it again beside the store, which stays as it is, and compare the packages inside.

    Raises ConfigError if an input is not what it was; VerifyError if other packages came out: the new build is kept
    then, and named. What the pipeline raises goes up, its folder kept, too.
    """
    found = recipe(project, store, build)
    if found.changed:
        raise ConfigError(
            f"'{build.stem}' cannot be made again: {', '.join(it.input for it in found.changed)} changed since",
            try_next=f"golden reproduce {build.image}@{build.version}  shows what it was; bring that back first",
        )
    again = Store(store.state, f"{store.root.name}/reproduced")
    shutil.rmtree(again.root, ignore_errors=True)
    parents = store.chain(build)[1:]
    again.root.mkdir(parents=True)
    again.adopt(store.qcow2(link) for link in parents)
    whole, standing = _as_it_was(project, again, build, parents=parents)
    made = Pipeline(whole, again, host=host, reporter=reporter, standing=standing).build(
        [build.image], rebuild=[build.image], connection=connection
    )[-1]
    lists = [it.package_list(one).read_text(encoding="utf-8").split() for it, one in ((store, build), (again, made))]
    changes = compare(*lists)
    if changes:
        raise VerifyError(
            f"'{build.stem}' came out with other packages",
            details=[(it.name, f"{it.before or 'none'} -> {it.after or 'none'}") for it in changes]
            + [("kept", str(again.qcow2(made)))],
        )
    note(f"removing {again.root}")
    shutil.rmtree(again.root)
    return Reproduced(
        build=build.stem,
        again=made.stem,
        packages=made.packages,
        changes=tuple(changes),
        seconds=sum(timing.seconds for timing in made.times),
    )


def _as_it_was(
    project: Project, store: Store, build: Build, *, parents: list[Build] | None = None
) -> tuple[Project, dict[str, Build]]:
    """The project with the build's parents as they were built, and those to be taken as they stand."""
    parents = store.chain(build)[1:] if parents is None else parents
    if not parents:
        return project, {}
    derived = derive(project, store, project.images[build.image], source=parents[0])
    return derived.project, derived.standing


def _need_definition(project: Project, build: Build) -> None:
    if build.flattened is not None:
        raise ConfigError(
            f"'{build.stem}' is the flat form of '{build.flattened.stem}'",
            try_next=f"golden reproduce {build.flattened.image}@{build.flattened.version}",
        )
    image = project.images.get(build.image)
    if image is None:
        raise ConfigError(f"{project.file} does not define '{build.image}' any more; bring its definition back first")
    parent = build.parent.image if build.parent else None
    if image.parent != parent:
        raise ConfigError(
            f"'{build.image}' stands on {image.parent or 'nothing'} now; "
            f"{build.version} was made on {parent or 'nothing'}"
        )

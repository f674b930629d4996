"""Builds to verdicts, as `golden verify` and `golden build --verify` have them."""

from __future__ import annotations

from collections.abc import Sequence

from builder import verification, verify
from builder.cli.session import Session
from builder.errors import VerifyError
from builder.model import Build
from builder.promises import promises
from builder.tools import libvirt
from builder.verdicts import Verdict


def verify_builds(session: Session, builds: Sequence[Build], *, again: bool) -> list[tuple[Build, Verdict]]:
    """Each build with its verdict, one that still holds or a new one. Starts nothing if all of them hold."""
    project, store = session.project, session.store
    for build in builds:
        verify.check(project, promises(project, build.image))
    found = {build.stem: None if again else verification.standing(project, store, build) for build in builds}
    for build in builds:
        if (verdict := found[build.stem]) is not None:
            session.reporter.note(f"{build.stem}: verified at {verdict.at}; nothing changed since")
    if None in found.values():
        with libvirt.connect() as connection:
            bench = verification.Bench(
                project=project,
                store=store,
                connection=connection,
                accelerator=session.accelerator(),
                reporter=session.reporter,
            )
            for build in builds:
                found[build.stem] = found[build.stem] or verification.verify_build(bench, build)
    return [(build, verdict) for build in builds if (verdict := found[build.stem]) is not None]


def need_passed(session: Session, found: Sequence[tuple[Build, Verdict]]) -> None:
    """Raises VerifyError naming every build that is not what it promises."""
    errors = [verification.failure(session.store, build, verdict) for build, verdict in found if not verdict.passed]
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise VerifyError(
            f"{len(errors)} of {len(found)} builds are not what they promise",
            details=[row for error in errors for row in [("image", error.what), *error.details]],
            try_next=errors[0].try_next,
        )

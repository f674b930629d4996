"""`golden resume` and `golden shell`: on from where a build failed, and a look at it there."""

from __future__ import annotations

import contextlib

import click
from click.shell_completion import CompletionItem

from builder import checkpoints, preflight, rewind, run
from builder.checkpoints import Trail
from builder.cli.build import build_summary, chosen
from builder.cli.session import Session, examples, json_option, pass_session, print_json, print_table
from builder.config import load
from builder.errors import ConfigError, GoldenError
from builder.model import Image
from builder.pipeline import Pipeline
from builder.steps import name_of
from builder.store import Store, default_state
from builder.tools import libvirt, ssh
from builder.units import format_bytes
from builder.workshop import Host


def _complete_failed(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    found = context.find_root().params
    try:
        project = load(found["file"])
    except GoldenError:
        return []
    store = Store(found.get("state") or default_state(), project.name)
    names = [trail.record.image for trail in checkpoints.left(store)]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@click.command(
    epilog=examples(
        "golden resume                      # every image whose build failed",
        "golden resume rocky9-web-installed",
        "golden resume --dry-run            # say from where it would go on",
    )
)
@click.argument("images", nargs=-1, metavar="[IMAGE]...", shell_complete=_complete_failed)
@click.option("--beside-others", is_flag=True, hidden=True, help="As a step of golden nightly, which holds the lock.")
@click.option("--dry-run", is_flag=True, help="Say what would be gone on from; start nothing.")
@json_option
@pass_session
def resume(session: Session, images: tuple[str, ...], beside_others: bool, dry_run: bool, as_json: bool) -> None:
    """Go on with builds that failed, each from its last good checkpoint.

    Steps that were done are not done again. Where the recipe changed, golden goes on from the last checkpoint before
    the change; where there is none, or the parent is another one by now, it says so and builds anew.
    """
    trails = {trail.record.image: trail for trail in checkpoints.left(session.store)}
    wanted = chosen(session.project, images) if images else [name for name in trails if name in session.project.images]
    if not wanted:
        raise ConfigError("no failed build has left a checkpoint", try_next="golden build")
    if dry_run:
        _print_states(session, {name: trails[name] for name in wanted if name in trails}, as_json=as_json)
        return
    host = Host(uri=libvirt.default_uri(), accelerator=session.accelerator())
    pipeline = Pipeline(session.project, session.store, host=host, reporter=session.reporter)
    with libvirt.connect(host.uri) as connection:
        builds = pipeline.build(wanted, resume=wanted, connection=connection, is_step=beside_others)
    made = [build for build in builds if build.image in wanted]
    if as_json:
        print_json([build_summary(session, build) for build in made])
        return
    rows = [[build.image, build.version, format_bytes(build.size_bytes)] for build in made]
    print_table(["IMAGE", "VERSION", "SIZE"], rows, empty="nothing to build")


@click.command(
    epilog=examples(
        "golden shell rocky9-web-installed                 # the state before the step that failed",
        "golden shell rocky9-web-installed --at 2          # before step 2; also 2-shell, or seal",
        "golden shell rocky9-web-installed -- rpm -qa      # one command, and its exit status",
    )
)
@click.argument("image", shell_complete=_complete_failed)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--at", metavar="STEP", help="The state before this step.  [default: the one that failed]")
@pass_session
def shell(session: Session, image: str, command: tuple[str, ...], at: str | None) -> None:
    """Log in to a throw-away machine in the state that a failed build had before a step, or run a command there.

    Whatever is done there, the checkpoint stays as it is. The machine is gone when the login ends.
    """
    chosen(session.project, [image])
    trail = checkpoints.left_of(session.store, image)
    if trail is None:
        raise ConfigError(
            f"no failed build of '{image}' has left a checkpoint",
            try_next=f"golden clone create NAME --image {image}, for a machine of what is built",
        )
    definition = session.project.images[image]
    checkpoint = rewind.state_before(definition, trail, at)
    session.reporter.note(f"{image}: {_state(definition, checkpoint.after if checkpoint else None)}")
    accelerator = session.accelerator()
    with libvirt.connect() as connection:
        preflight.need_reach(session.store.root, connection)
        with contextlib.ExitStack() as stack:
            with session.reporter.step(f"boot {image}") as step:
                target = stack.enter_context(
                    rewind.opened(
                        trail,
                        checkpoint,
                        store=session.store,
                        distribution=session.project.distribution_of(image),
                        key=session.project.ssh_key,
                        connection=connection,
                        is_kvm=accelerator.kind == "kvm",
                        time_factor=accelerator.time_factor,
                        note=step.note,
                    )
                )
            words = ("sh", "-c", *command) if len(command) == 1 else command
            status = run.attached(ssh.command(target, *words), why=f"log in to {image}")
    raise click.exceptions.Exit(status)


def _print_states(session: Session, trails: dict[str, Trail], *, as_json: bool) -> None:
    rows = []
    for name, trail in trails.items():
        image = session.project.images[name]
        after = trail.last.after if trail.last else None
        rows.append([name, trail.record.version, _state(image, after)])
    if as_json:
        print_json([dict(zip(("image", "version", "state"), row, strict=True)) for row in rows])
        return
    print_table(["IMAGE", "VERSION", "STATE"], rows, empty="no failed build has left a checkpoint")


def _state(image: Image, after: int | None) -> str:
    if after is None:
        return "as the parent is"
    if not 0 < after <= len(image.steps):
        return "as it was installed"
    return f"after step {name_of(after, image.steps[after - 1])}"

"""`golden clone pool`: clones of an image that run already, and wait for somebody to take them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

import click

from builder import clones
from builder.cli.clone_options import (
    capacity,
    capacity_options,
    cpus_option,
    memory_option,
)
from builder.cli.clone_source import reaching, source_of
from builder.cli.completion import complete_clonable
from builder.cli.session import (
    Session,
    examples,
    images_option,
    json_option,
    key_option,
    pass_session,
    print_json,
    print_table,
)
from builder.clones import pools, ready
from builder.clones.pools import Filled, Pool
from builder.errors import ConfigError, GoldenError
from builder.tools import libvirt

_KEEP_POLL_S = 5.0


@click.command(
    name="pool",
    epilog=examples(
        "golden clone pool rocky9-web-installed --ready 4    # make them; from now on so many are to be ready",
        "golden clone create --from-pool --image rocky9-web-installed",
        "golden clone pool                                   # which pools there are",
        "golden clone pool rocky9-web-installed --ready 0    # give it up",
        "golden clone pool --keep                            # a service that keeps all pools full",
    ),
)
@click.argument("image", required=False, metavar="[IMAGE[@VERSION]]", shell_complete=complete_clonable)
@click.option(
    "--ready", "count", type=click.IntRange(min=0), metavar="N", help="So many are to be ready; 0 gives it up."
)
@click.option("--prefer", type=click.Choice(["chain", "flat"]), help="As in golden clone create.")
@images_option
@memory_option
@cpus_option
@key_option
@click.option(
    "--cold", "is_cold", is_flag=True, help="Boot them; else the image's memory is saved once, and they go on."
)
@click.option("--no-wait", is_flag=True, help="A clone is ready as soon as it is on; else when it answers on SSH.")
@click.option("--keep", is_flag=True, help="Keep all pools full until interrupted.")
@click.option("--refill", hidden=True, is_flag=True, help="Fill a pool that somebody has taken from.")
@click.option("--dry-run", is_flag=True, help="Only say what would be made and removed.")
@capacity_options
@json_option
@pass_session
def pool_(
    session: Session,
    image: str | None,
    count: int | None,
    prefer: Literal["chain", "flat"] | None,
    installed: Path,
    memory_mib: int | None,
    cpus: int | None,
    key: Path | None,
    is_cold: bool,
    no_wait: bool,
    keep: bool,
    refill: bool,
    dry_run: bool,
    host_mib: int | None,
    wait_s: float,
    as_json: bool,
) -> None:
    """Keep clones of an image ready: they run, answer, and wait to be taken by golden clone create --from-pool.

    Whoever takes one has the pool refilled in the background. Where memory is needed, clones that wait give way.
    Without an image it lists the pools.
    """
    limit = capacity(host_mib, wait_s)
    if keep:
        if image is not None:
            raise ConfigError("--keep is for all pools", try_next="golden clone pool --keep")
        _keep(session, limit)
    if image is None:
        _list(session, as_json=as_json)
        return
    if count is not None and count > 0:
        pool = _declared(
            session, image, count, prefer, installed, (memory_mib, cpus), key, is_cold=is_cold, no_wait=no_wait
        )
    else:
        pool = pools.find_pool(session.state, image).model_copy(update={} if count is None else {"ready": 0})
    if count is not None and not dry_run:
        pools.declare(pool, state=session.state)
    with libvirt.connect() as connection:
        filled = pools.fill(
            pool.name,
            state=session.state,
            connection=connection,
            reporter=session.reporter,
            time_factor=session.accelerator().time_factor,
            capacity=limit,
            planned=pool if dry_run else None,
            is_patient=not refill,
        )
    if filled is not None and not refill:
        _print(filled, pool, is_dry=dry_run, as_json=as_json)


def _declared(
    session: Session,
    image: str,
    count: int,
    prefer: Literal["chain", "flat"] | None,
    installed: Path,
    size: tuple[int | None, int | None],
    key: Path | None,
    *,
    is_cold: bool,
    no_wait: bool,
) -> Pool:
    """The pool as the flags have it."""
    key = key or session.key
    if key is None and not no_wait:
        raise ConfigError("waiting for SSH needs a key, and there is no project that has one", try_next="--key FILE")
    source = source_of(session, image, prefer, installed)
    with reaching(session, source):
        pass
    return Pool(
        image=source.build.image,
        version=source.build.version if "@" in image else None,
        images=installed.absolute(),
        project=session.project.name if session.has_project else None,
        ready=count,
        memory_mib=size[0],
        cpus=size[1],
        accelerator=session.accelerator().kind_for(source.build.arch),
        key=key,
        is_cold=is_cold,
        is_waited=not no_wait,
    )


def _keep(session: Session, limit: clones.Capacity) -> None:
    """Look at all pools again and again, each time by a connection of its own: libvirt may be restarted meanwhile."""
    factor = session.accelerator().time_factor
    while True:
        for pool in pools.pools(session.state):
            try:
                with libvirt.connect() as connection:
                    pools.fill(
                        pool.name,
                        state=session.state,
                        connection=connection,
                        reporter=session.reporter,
                        time_factor=factor,
                        capacity=limit,
                        is_patient=False,
                    )
            except GoldenError as error:
                session.reporter.note(f"the pool of {pool.name} is not full: {error.what}")
        time.sleep(_KEEP_POLL_S)


def _list(session: Session, *, as_json: bool) -> None:
    found = [
        pool.model_dump(mode="json", exclude={"format"})
        | {"name": pool.name, "waiting": [lease.name for lease in ready.waiting(session.state, pool.name)]}
        for pool in pools.pools(session.state)
    ]
    if as_json:
        print_json(found)
        return
    rows = [[it["name"], f"{len(it['waiting'])} of {it['ready']}", ", ".join(it["waiting"])] for it in found]
    print_table(["POOL", "READY", "CLONES"], rows, empty="no pools")


def _print(filled: Filled, pool: Pool, *, is_dry: bool, as_json: bool) -> None:
    if as_json:
        print_json(filled.model_dump(mode="json") | {"wanted": pool.ready})
        return
    for name, reason in filled.removed:
        click.echo(f"{name}: {'would be removed' if is_dry else 'removed'}: {reason}")
    for name in filled.made:
        click.echo("one would be made" if is_dry else f"{name}: ready")
    click.echo(f"{pool.name}: {filled.ready} of {pool.ready} ready{f'; {filled.short}' if filled.short else ''}")

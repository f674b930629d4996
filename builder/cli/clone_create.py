"""`golden clone create` and `warm`: from an image to machines."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import click

from builder import clones, run
from builder.cli.clone_options import (
    capacity,
    capacity_options,
    cpus_option,
    memory_option,
    owner,
    parse_forwards,
    parse_nics,
    parse_sizes,
)
from builder.cli.clone_source import reaching, source_of
from builder.cli.completion import complete_clonable
from builder.cli.session import Session, examples, images_option, json_option, key_option, pass_session, print_json
from builder.clones import first_start, pools, ready, warm
from builder.errors import ConfigError
from builder.model import Firmware
from builder.tools import libvirt, ssh
from builder.tools.domain import Forward, Nic
from builder.units import format_bytes, format_seconds


@click.command(
    epilog=examples(
        "golden clone create web1 --image rocky9-bootstrapped",
        "golden clone create web2 --image rocky9-bootstrapped@20261121.1 --memory '4 GiB' --cpus 4",
        "golden clone create --image rocky9-bootstrapped --count 70 --no-start     # rocky9-bootstrapped-1, -2, …",
        "golden clone create db1 db2 --image rocky9-db --disk '10 GiB' --forward 15432:5432 --wait-memory '10 min'",
        "golden clone create r1 --image rocky9-base --network user --network bridge=virbr0",
        "golden clone create n1 n2 --image rocky9-base --network user --network lan=mine    # and each other",
        "golden clone create --image rocky9-bootstrapped --from-pool    # of golden clone pool",
        "golden clone create web4 --image rocky9-bootstrapped --prefer flat",
        "golden clone create web3 --image rocky9-bootstrapped --key ~/.ssh/ci --json | jq -r .ssh",
    )
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--image", required=True, metavar="IMAGE[@VERSION]", shell_complete=complete_clonable, help="What to clone."
)
@click.option("--count", type=click.IntRange(min=1), help="So many; they are numbered, after the NAME or the image.")
@click.option(
    "--prefer",
    type=click.Choice(["chain", "flat"]),
    help="Which form, where the image is there in both.  [default: prefer in [project] of golden.toml, or chain]",
)
@images_option
@memory_option
@cpus_option
@click.option("--firmware", type=click.Choice(["bios", "uefi"]), help="[default: the image's]")
@click.option(
    "--network",
    "nics",
    multiple=True,
    callback=parse_nics,
    metavar="user|network=NAME|bridge=NAME|lan=NAME",
    help="A network card; several make several, in this order.  [default: user]",
)
@click.option(
    "--forward",
    "forwards",
    multiple=True,
    callback=parse_forwards,
    metavar="[HOST:]GUEST[/udp]",
    help="Lead a port of this host's loopback to the guest's; SSH always is.",
)
@click.option("--disk", "disks", multiple=True, callback=parse_sizes, metavar="SIZE", help="An extra, empty disk.")
@click.option("--seed", "has_seed", is_flag=True, help="Attach a cloud-init NoCloud seed with the name and the key.")
@click.option(
    "--user-data",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The seed's user-data instead of golden's.",
)
@key_option
@click.option(
    "--own-key", is_flag=True, help="A key pair for this clone alone, which the guest's systemd (252) lets in."
)
@click.option("--no-start", is_flag=True, help="Only make it; golden clone start switches it on.")
@click.option("--no-wait", is_flag=True, help="Do not wait until the clone answers on SSH.")
@click.option(
    "--warm/--cold",
    "is_warm",
    default=None,
    envvar="GOLDEN_WARM",
    help="Save the image's memory first if that was not done / boot, whatever is saved.  [default: save it where that "
    "can be done]",
)
@click.option(
    "--from-pool",
    is_flag=True,
    help="Take clones that golden clone pool keeps ready, with the names that they have; what is missing is made.",
)
@click.option("--verify", is_flag=True, help="Read all image files again, also those that do not seem to have changed.")
@click.option("--keep", is_flag=True, help="No owner: golden clone gc never takes it.")
@click.option("--owner", "owner_pid", type=int, metavar="PID", help="For whom it is.  [default: this session's leader]")
@capacity_options
@json_option
@pass_session
def create(
    session: Session,
    names: tuple[str, ...],
    image: str,
    count: int | None,
    prefer: Literal["chain", "flat"] | None,
    installed: Path,
    memory_mib: int | None,
    cpus: int | None,
    firmware: Firmware | None,
    nics: tuple[Nic, ...],
    forwards: tuple[Forward, ...],
    disks: tuple[int, ...],
    has_seed: bool,
    user_data: Path | None,
    key: Path | None,
    own_key: bool,
    no_start: bool,
    no_wait: bool,
    is_warm: bool | None,
    from_pool: bool,
    verify: bool,
    keep: bool,
    owner_pid: int | None,
    host_mib: int | None,
    wait_s: float,
    as_json: bool,
) -> None:
    """Make clones of an image, start them, and wait until they answer on SSH.

    The image is the installed one; where none is installed, it is the newest build of the project. If anything
    fails, nothing of the clones is left. A clone is its owner's: when that process is gone, so is the clone, as soon as
    another one is made, memory is short, or golden clone gc runs.
    """
    key = key or session.key
    if key is None and not (no_wait or no_start or own_key):
        raise ConfigError("waiting for SSH needs a key, and there is no project that has one", try_next="--key FILE")
    if from_pool:
        _need_poolable(names, is_off=no_start, has_own_key=own_key, is_verified=verify)
    source = source_of(session, image, prefer, installed)
    accelerator = session.accelerator()
    taken = clones.names(session.state)
    orders = [
        clones.Order(
            name=name,
            source=source,
            memory_mib=memory_mib or source.build.memory_mib,
            cpus=cpus or source.build.cpus,
            accelerator=accelerator.kind_for(source.build.arch),
            key=key,
            has_own_key=own_key,
            firmware=firmware,
            nics=nics,
            forwards=forwards,
            extra_disks=disks,
            has_seed=has_seed or user_data is not None,
            user_data=user_data.read_text(encoding="utf-8") if user_data else None,
            owner=owner(owner_pid, is_kept=keep),
        )
        for name in clones.numbered(names, image=image.partition("@")[0], count=count, taken=taken)
    ]
    boot_s = clones.BOOT_TIMEOUT_S * accelerator.time_factor
    limit = capacity(host_mib, wait_s)
    with reaching(session, source) as connection, contextlib.ExitStack() as undone:
        got = _take(session, orders, connection, undone) if from_pool else []
        orders = orders[: len(orders) - len(got)]
        seconds: Sequence[float | None] = [None] * len(orders)
        if no_start:
            made = clones.make(
                orders, state=session.state, connection=connection, reporter=session.reporter, is_full=verify
            )
        else:
            is_cold = is_warm is False
            if is_warm and orders:
                is_cold = not first_start.prepare_as_asked(
                    orders[0],
                    state=session.state,
                    connection=connection,
                    reporter=session.reporter,
                    boot_timeout_s=boot_s,
                    capacity=limit,
                )
            elif is_warm is None and orders and not no_wait:
                first_start.prepare(
                    orders[0],
                    state=session.state,
                    connection=connection,
                    reporter=session.reporter,
                    boot_timeout_s=boot_s,
                    capacity=limit,
                )
            made, seconds = clones.create_all(
                orders,
                state=session.state,
                connection=connection,
                reporter=session.reporter,
                is_full=verify,
                boot_timeout_s=None if no_wait else boot_s,
                capacity=limit,
                is_cold=is_cold,
            )
        undone.pop_all()
    made, seconds = [*(lease for lease, _ in got), *made], [*(took_s for _, took_s in got), *seconds]
    _print_made(made, source, seconds, state="off" if no_start else "running", as_json=as_json, taken=len(got))


def _need_poolable(names: tuple[str, ...], *, is_off: bool, has_own_key: bool, is_verified: bool) -> None:
    flags = {"a NAME": names, "--no-start": is_off, "--own-key": has_own_key, "--verify": is_verified}
    said = [flag for flag, is_said in flags.items() if is_said]
    if said:
        raise ConfigError(
            f"--from-pool and {said[0]} exclude each other: a clone that waits in a pool is on, and has its name",
            try_next="leave one of them out",
        )


def _take(
    session: Session, orders: Sequence[clones.Order], connection: libvirt.Connection, undone: contextlib.ExitStack
) -> list[tuple[clones.Lease, float]]:
    """Clones that waited, with the seconds that taking each took; `undone` removes them again."""
    got: list[tuple[clones.Lease, float]] = []
    pools_taken_from = set()
    for order in orders:
        begin = time.monotonic()
        found = ready.take(order, state=session.state, connection=connection)
        if found is None:
            session.reporter.note(f"no clone of {order.source.build.stem} is ready, or none like this: it is made")
            break
        lease, pool = found
        undone.callback(clones.destroy, lease.name, state=session.state, connection=connection)
        pools_taken_from.add(pool)
        got.append((lease, time.monotonic() - begin))
    for pool in pools_taken_from:
        pools.refill_later(pool, state=session.state)
    return got


def _print_made(
    made: Sequence[clones.Lease],
    source: clones.Source,
    seconds: Sequence[float | None],
    *,
    state: str,
    as_json: bool,
    taken: int,
) -> None:
    """taken: so many of them, the first ones, waited in a pool."""
    if as_json:
        facts = [
            facts_of(lease) | {"origin": source.origin, "boot_s": boot_s and round(boot_s, 2), "state": state}
            for lease, boot_s in zip(made, seconds, strict=True)
        ]
        # One clone is an object, as ever; several are a list.
        print_json(facts[0] if len(facts) == 1 else facts)
        return
    for number, (lease, boot_s) in enumerate(zip(made, seconds, strict=True)):
        click.echo(f"{lease.name}: {source.build.stem}, the {source.origin} image {source.file}")
        how = "taken from the pool" if number < taken else "went on from memory" if lease.warm else "booted"
        click.echo(f"{how} in {format_seconds(boot_s)}" if boot_s else f"{state}; not waited for")
    verb = "start" if state == "off" else "ssh"
    click.echo(f"try: golden clone {verb} {made[0].name}")


@click.command(
    name="warm",
    epilog=examples(
        "golden clone warm rocky9-bootstrapped",
        "golden clone warm rocky9-bootstrapped --memory '4 GiB' --cpus 4    # for clones with just as much",
    ),
)
@click.argument("image", metavar="IMAGE[@VERSION]", shell_complete=complete_clonable)
@click.option("--prefer", type=click.Choice(["chain", "flat"]), help="As in golden clone create.")
@images_option
@memory_option
@cpus_option
@key_option
@click.option("--renew", is_flag=True, help="Make it anew, though there is one that fits.")
@capacity_options
@json_option
@pass_session
def warm_(
    session: Session,
    image: str,
    prefer: Literal["chain", "flat"] | None,
    installed: Path,
    memory_mib: int | None,
    cpus: int | None,
    key: Path | None,
    renew: bool,
    host_mib: int | None,
    wait_s: float,
    as_json: bool,
) -> None:
    """Boot an image once and save its memory: clones of it then go on from there instead of booting.

    It fits clones with the same memory and CPUs, on this host with its QEMU and kernel; others boot.
    """
    source, accelerator = source_of(session, image, prefer, installed), session.accelerator()
    order = clones.Order(
        name="warm",
        source=source,
        memory_mib=memory_mib or source.build.memory_mib,
        cpus=cpus or source.build.cpus,
        accelerator=accelerator.kind_for(source.build.arch),
        key=key or session.key,
    )
    with reaching(session, source) as connection:
        memory, is_new = warm.prepare(
            order,
            state=session.state,
            connection=connection,
            reporter=session.reporter,
            boot_timeout_s=clones.BOOT_TIMEOUT_S * accelerator.time_factor,
            capacity=capacity(host_mib, wait_s),
            is_renewed=renew,
        )
    if as_json:
        print_json(memory.model_dump(mode="json") | {"is_new": is_new})
        return
    state = "saved" if is_new else "saved already"
    click.echo(f"{source.build.stem}: {state}, {format_bytes(memory.size_bytes)}; it booted in {memory.cold_s:.1f} s")


def facts_of(lease: clones.Lease) -> dict[str, object]:
    """A clone for programs. ssh: a command that can be pasted, where the address is known without asking the guest."""
    facts: dict[str, object] = lease.model_dump(mode="json", exclude={"format", "image", "pins"})
    can_tell = lease.key and lease.is_in_user_mode
    target = ssh.Target(port=lease.ssh_port, key=lease.key) if lease.key and can_tell else None
    return facts | {
        "image": lease.image.image,
        "version": lease.image.version,
        "ssh": run.printable(ssh.command(target)) if target else None,
    }

"""A chain of images -> one file: squashed, compared with the chain, a build of its own."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

from builder import preflight, run
from builder.digests import Artifacts
from builder.errors import GoldenError, host_errors_told
from builder.layer import Command
from builder.model import Build, Image, ImageId
from builder.plan import Planned
from builder.progress import Reporter
from builder.store import Store, sha256
from builder.tools import qcow2, qemu_img

_TIMEOUT_S = 3600


def commands(source: Path, target: Path) -> list[Command]:
    """What `flatten` runs, ready to paste."""
    convert = qemu_img.convert_argv(
        source, target, format="qcow2", options=qemu_img.flatten_options(), is_compressed=True
    )
    compare = qemu_img.compare_argv(source, target, format="qcow2")
    return [
        Command(title="flatten", line=run.printable(convert)),
        Command(title="compare", line=run.printable(compare)),
    ]


def flatten(store: Store, planned: Planned, image: Image, source: Build, *, reporter: Reporter) -> Build:
    """Make the flat form of `source` a build of `image`. The caller holds the store's lock.

    Raises VerifyError if the chain is not what it was, or the flat file does not hold the same disk; ToolError. The
    logs are kept then, and nothing else; of an interrupted run nothing is.
    """
    version = store.next_version(image.name)
    store.discard_failed(image.name)
    needed = sum(build.size_bytes for build in store.chain(source))
    preflight.need_disk(store.root, needed, f"flatten '{source.stem}'")
    with reporter.step(f"{image.name}: verify {source.stem}"):
        store.verify(source)
    work = store.workspace(image.name, version)
    try:
        with host_errors_told():
            build = _make(store, planned, image, source, work=work, version=version, reporter=reporter)
    except KeyboardInterrupt:
        shutil.rmtree(work)
        raise
    except GoldenError as error:
        error.details.append(("kept", f"{work}: the logs"))
        error.try_next = error.try_next or f"golden flatten {source.image}  once the cause is mended"
        raise
    shutil.rmtree(work)
    return build


def _make(
    store: Store, planned: Planned, image: Image, source: Build, *, work: Path, version: str, reporter: Reporter
) -> Build:
    started, first = datetime.now(UTC), len(reporter.times)
    logs, log = work / "logs", work / "logs" / "flatten.log"
    logs.mkdir()
    disk, target = store.qcow2(source), store.images / f".{image.name}-{version}.qcow2.part"
    packages = work / "packages"
    shutil.copyfile(store.package_list(source), packages)
    try:
        with reporter.step(f"{image.name}: flatten") as step:
            qemu_img.convert(
                disk,
                target,
                format="qcow2",
                options=qemu_img.flatten_options(),
                is_compressed=True,
                log=log,
                timeout_s=_TIMEOUT_S,
                note=step.note,
            )
        with reporter.step(f"{image.name}: compare with {source.stem}") as step:
            qemu_img.check(target)
            qcow2.verify_chain(target, [])
            qemu_img.compare(disk, target, format="qcow2", log=log, timeout_s=_TIMEOUT_S, note=step.note)
        build = source.model_copy(
            update={
                "id": ImageId(image=image.name, version=version, sha256=sha256(target)),
                "parent": None,
                "flattened": source.id,
                "private": source.private or image.is_private,
                "description": image.description,
                "key": planned.key,
                "inputs": planned.inputs,
                "texts": planned.texts,
                "reason": planned.why,
                "size_bytes": target.stat().st_size,
                "virtual_bytes": qemu_img.info(target).virtual_bytes,
                "started": started.isoformat(timespec="seconds"),
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "times": tuple(reporter.times[first:]),
                "commands": tuple(command.line for command in commands(disk, target)),
                "tools": preflight.versions(["qemu-img"]),
            }
        )
        store.commit(build, disk=target, packages=packages, logs=logs)
        Artifacts(store).remember(build)
    finally:
        target.unlink(missing_ok=True)
    return build

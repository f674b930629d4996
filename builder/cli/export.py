"""`golden export`: an image for consumers without dnf."""

from __future__ import annotations

from pathlib import Path

import click

from builder import clones, preflight
from builder import export as exports
from builder.cli.completion import complete_built
from builder.cli.session import Session, examples, images_option, json_option, pass_session, print_json
from builder.run import printable
from builder.units import format_bytes


@click.command(
    epilog=examples(
        "golden export rocky9-bootstrapped --format raw --compress zstd",
        "golden export rocky9-bootstrapped@20261121.1 --format ova -o /srv/share/",
        "sha256sum --check rocky9-bootstrapped-20261121.1.raw.zst.sha256",
    )
)
@click.argument("image", metavar="IMAGE[@VERSION]", shell_complete=complete_built)
@click.option("--format", "format_", type=click.Choice(exports.FORMATS), required=True, help="What to make of it.")
@click.option(
    "--compress",
    type=click.Choice(exports.COMPRESSIONS),
    help="Inside of a qcow2 (zstd, gzip), around any other; an OVA is compressed by itself.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path(),
    help="The file, or the folder for IMAGE-VERSION.FORMAT.  [default: this folder]",
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@images_option
@click.option("--dry-run", is_flag=True, help="Print the commands that would run, ready to paste; write nothing.")
@json_option
@pass_session
def export(
    session: Session,
    image: str,
    format_: exports.Format,
    compress: exports.Compression | None,
    output: Path,
    force: bool,
    installed: Path,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write an image and all it stands on as one file in another format, and its checksum beside it.

    The image is the installed one; where none is installed, it is the newest build of the project. The result is
    compared with the chain, and appears only when it is whole.
    """
    preflight.require(["qemu-img", *([compress] if compress and format_ != "qcow2" else [])], "export an image")
    name, _, version = image.partition("@")
    builds = session.store if session.has_project else None
    source = clones.locate(name, version or None, images=installed.absolute(), builds=builds)
    decided = exports.plan(
        source.build, source.file, format=format_, compression=compress, output=output, is_forced=force
    )
    if dry_run:
        lines = [printable(argv) for argv in decided.commands()]
        if as_json:
            print_json({"file": str(decided.output), "commands": lines})
        else:
            click.echo("\n".join([*lines, f"# and then, as {decided.output}"]))
        return
    preflight.need_disk(decided.output.parent, exports.needed_bytes(decided), f"export '{source.build.stem}'")
    with session.reporter.step("verify the image's files"):
        clones.verify(source, state=session.state, is_full=False)
    made = exports.export(decided, reporter=session.reporter)
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    click.echo(f"{made.file}: {format_bytes(made.size_bytes)}")
    click.echo(f"{made.checksums}")

"""`golden doctor`: what this machine has and lacks."""

from __future__ import annotations

from pathlib import Path

import click

from builder import __version__, clones, soundness
from builder.cli.session import Session, examples, images_option, json_option, pass_session, print_json, print_table
from builder.errors import HostError, VerifyError
from builder.preflight.doctor import Finding, examine

_UNREAD = Finding(
    check="every byte", state="ok", found="not read, only looked at", remedy="golden doctor --deep, which reads it"
)
_MARKS = {"ok": "ok", "warn": "warn", "fail": "FAIL"}


@click.command(
    epilog=examples(
        "golden doctor",
        "golden doctor --deep              # and read every byte that golden keeps",
        "golden doctor --json | jq '.findings[] | select(.state != \"ok\")'",
    )
)
@click.option(
    "--deep",
    is_flag=True,
    help="Also read all that golden keeps, and the installed images, and compare it with what it was.",
)
@images_option
@json_option
@pass_session
def doctor(session: Session, deep: bool, installed: Path, as_json: bool) -> None:
    """Look whether this machine can build and run images, and say what to do where it cannot.

    Boots a tiny kernel to see whether KVM works, and remembers the answer for all other commands.
    Ends with 0 if golden can work here, with 3 if something that it needs is missing, and with 5 if --deep found
    something damaged.
    """
    findings = examine(session.state, reporter=session.reporter)
    findings += [
        Finding(check=f"clone {fault.clone}", state="warn", found=fault.found, remedy=fault.remedy)
        for fault in clones.faults(session.state)
    ]
    failed = [finding.check for finding in findings if finding.state == "fail"]
    found = _read_all(session, installed) if deep else [_UNREAD]
    damaged = [finding.check for finding in found if finding.state == "fail"]
    findings += found
    if as_json:
        print_json(
            {
                "golden": __version__,
                "usable": not failed,
                "findings": [finding.model_dump() for finding in findings],
            }
        )
    else:
        print_table(
            ["", "CHECK", "FOUND", "WHAT TO DO"],
            [[_MARKS[finding.state], finding.check, finding.found, finding.remedy] for finding in findings],
            empty="",
        )
    if damaged:
        raise VerifyError(f"what golden keeps is damaged: {', '.join(damaged)}", try_next="what the table says")
    if failed:
        raise HostError(f"this machine lacks what golden needs: {', '.join(failed)}")


def _read_all(session: Session, images: Path) -> list[Finding]:
    if not session.has_project:
        return soundness.examine(session.state, reporter=session.reporter, images=images)
    with session.signing() as signer:
        return soundness.examine(
            session.state, reporter=session.reporter, images=images, own=session.store, signer=signer
        )

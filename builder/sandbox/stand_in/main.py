"""The order of an installation, and how it ends."""

from __future__ import annotations

import time
import traceback
from pathlib import Path

from . import configure, payload, plan, storage
from .console import InstallError, NeedsInput, hub, meaningless, phase, say, stopped, wait_for_input

BANNER = "golden sandbox installer, a stand-in for Anaconda"
FAILED = "Installation failed. The system will power off."
KICKSTART = Path("/run/install/ks.cfg")

# What the initrd does when the stand-in has ended, by exit status (data/installer-init).
POWER_OFF, REBOOT, HALT = 0, 10, 11
_ENDINGS = {"poweroff": POWER_OFF, "reboot": REBOOT, "halt": HALT}

# Time for a reader of the console to see the last lines before the machine is gone.
_LAST_WORDS_S = 2


def main() -> int:
    """Install. Returns what the initrd should do next; a failed installation powers off, as golden must cope with."""
    say(BANNER)
    try:
        ending = install(KICKSTART.read_text() if KICKSTART.exists() else "")
    except InstallError as error:
        say(f"\n{error}\n\n{FAILED}")
        ending = "poweroff"
    except NeedsInput as question:
        print(hub(question.spokes), end="", flush=True)
        wait_for_input()
        ending = "poweroff"
    except Exception:
        # As in Anaconda: a bug is a traceback on the console.
        say("An unknown error has occurred, look at the traceback below:")
        say(f"{traceback.format_exc()}\n{FAILED}")
        ending = "poweroff"
    time.sleep(_LAST_WORDS_S)
    return _ENDINGS[ending]


def install(text: str) -> str:
    """Carry out a kickstart from its first line to the unmounted disk. Returns the ending it asks for."""
    handler = plan.parse(text)
    # `%pre` may write files that `%include` reads; like Anaconda, parse again after it.
    early = plan.make(handler)
    if early.scripts_of("pre"):
        configure.run_scripts(early, "pre")
        handler = plan.parse(text)
    wanted = plan.make(handler)
    for command, why in wanted.remarks:
        meaningless(command, why)
    check_complete(wanted)
    phase("Starting automated install...")
    device, made = storage.prepare(wanted)
    configure.run_scripts(wanted, "pre-install")
    storage.mount_kernel_file_systems()
    payload.install(wanted)
    configure.configure(wanted, made=made)
    if wanted.has_boot_loader:
        storage.install_boot_loader(wanted, device=device, made=made)
    configure.run_scripts(wanted, "post")
    phase("Storing configuration files and kickstarts")
    storage.unmount_all(wanted)
    return finish(wanted)


def check_complete(wanted: plan.Plan) -> None:
    """Raises NeedsInput, or InstallError in `cmdline` mode, where nothing may be asked."""
    spokes = plan.missing(wanted)
    if spokes and not wanted.can_ask:
        raise stopped(f"Can't have a question in command line mode! Not set: {', '.join(spokes)}")
    if spokes:
        raise NeedsInput(spokes)


def finish(wanted: plan.Plan) -> str:
    if wanted.ending:
        say(f"Installation complete. The system will {wanted.ending} now.")
        return wanted.ending
    print("Installation complete. Press ENTER to quit: ", end="", flush=True)
    wait_for_input()
    return "reboot"

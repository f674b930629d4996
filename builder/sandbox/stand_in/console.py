"""What the stand-in says. Everything goes to the console, which is the serial line when the kernel was told so."""

from __future__ import annotations

import time

PROMPT = "Please make a selection from the above ['c' to continue, 'q' to quit, 'r' to refresh]: "


class InstallError(Exception):
    """The installation cannot go on. The text is what Anaconda would show, or near it."""


def stopped(text: str) -> InstallError:
    """For errors that have no wording of their own in Anaconda. One line, so that whoever quotes it has the cause."""
    return InstallError(f"The installation was stopped due to an error: {text}")


def problem(line: int | None, text: str) -> InstallError:
    """For what is wrong with the kickstart."""
    return InstallError(f"The following problem occurred on line {line} of the kickstart file:\n\n{text}")


class NeedsInput(Exception):
    """Anaconda in text mode would show its hub and wait. `spokes`: what is not set, in the hub's words."""

    def __init__(self, spokes: list[str]) -> None:
        super().__init__(", ".join(spokes))
        self.spokes = spokes


def say(text: str = "") -> None:
    print(text, flush=True)


def phase(text: str) -> None:
    """One line for each phase, near to Anaconda's progress report."""
    say(text)


def meaningless(command: str, why: str) -> None:
    """A command that is fine in a kickstart and means nothing on this distribution."""
    say(f"stand-in: '{command}' is accepted and means nothing here: {why}")


def hub(spokes: list[str]) -> str:
    """Anaconda's text hub: [x] what is set, [!] what is not."""
    names = ["Language settings", "Time settings", "Software selection", "Installation Destination", "Root password"]
    lines = ["=" * 80, "=" * 80, "Installation", ""]
    for number, name in enumerate(names, start=1):
        missing = name in spokes
        lines += [f"{number}) [{'!' if missing else 'x'}] {name}", f"       ({'Not set.' if missing else 'Set.'})"]
    return "\n".join([*lines, "", PROMPT])


def wait_for_input() -> None:
    """Ask until somebody ends the machine. There is nothing to choose: a stand-in only obeys kickstarts."""
    while True:
        try:
            answer = input()
        except EOFError:
            # A console without a reader (virt-install --noautoconsole) still has to look like a waiting installer.
            time.sleep(3600)
            continue
        if answer.strip() == "q":
            return
        print(PROMPT, end="", flush=True)

"""QMP, the monitor of a QEMU that no libvirt knows: one command at a time over a socket of its own."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import IO, Any

from builder.errors import ToolError

_TIMEOUT_S = 60


def execute(address: Path, command: str, **arguments: Any) -> Any:
    """What `command` returns. address: of QEMU's `-qmp unix:…`.

    Raises ToolError if QEMU refuses, does not answer within a minute, or is gone. Source: QEMU, qmp-spec.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_TIMEOUT_S)
            connection.connect(str(address))
            with connection.makefile("rw", encoding="utf-8") as stream:
                _answer(stream)  # its greeting
                _ask(stream, "qmp_capabilities", {})
                return _ask(stream, command, arguments)
    except (OSError, ValueError) as error:
        raise ToolError(f"QEMU does not answer '{command}': {error}") from error


def _ask(stream: IO[str], command: str, arguments: dict[str, Any]) -> Any:
    stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
    stream.flush()
    while True:
        answer = _answer(stream)
        if "error" in answer:
            raise ToolError(f"QEMU refused '{command}': {answer['error'].get('desc', answer['error'])}")
        if "return" in answer:  # events come in between
            return answer["return"]


def _answer(stream: IO[str]) -> dict[str, Any]:
    line = stream.readline()
    if not line:
        raise ValueError("it ended")
    found: dict[str, Any] = json.loads(line)
    return found

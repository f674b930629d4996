"""A TCP port of the host's loopback that nobody uses."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Nothing keeps it free: another process may take it before QEMU does, and then the caller asks for the next."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

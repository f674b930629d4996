"""The sandbox: a tiny EL-shaped distribution made from the Debian packages of this host.

It exists so that the whole of golden runs on a machine with no KVM and no network beyond its package mirror. It is
no Linux distribution to use for anything else, and its installer is a stand-in for Anaconda.
"""

from builder.sandbox.creation import DEFAULT_CACHE, Sandbox, create

__all__ = ["DEFAULT_CACHE", "Sandbox", "create"]

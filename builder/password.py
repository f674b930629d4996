"""Password hashes as crypt(5) writes them; a password itself is never accepted, and never repeated in a message."""

from __future__ import annotations

import re

from pydantic import SecretStr

# yescrypt, gost-yescrypt, scrypt, bcrypt, SHA-512, SHA-256. Older ones are broken by trying. Source: crypt(5).
_HASH = re.compile(r"\$(y|gy|7|2[aby]|6|5)\$[!-9;-~]{20,}")


def parse_hash(value: object) -> SecretStr:
    """Raises ValueError with the message for the user, which holds nothing of what they wrote."""
    if isinstance(value, str) and _HASH.fullmatch(value):
        return SecretStr(value)
    raise ValueError(
        "is not the hash of a password, such as '$6$…'; a password itself has no place here. "
        "Make a hash by: openssl passwd -6"
    )

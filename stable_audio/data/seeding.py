"""Seeds derived from names and numbers, equal on every machine and Python version."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A non-negative 63-bit seed that depends on every part and on their order."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1

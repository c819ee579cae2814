"""Seeds that nobody chose."""

from __future__ import annotations

import secrets

RANDOM_SEED = -1
"""Asks for a seed drawn at random, as in stable-audio-tools."""


def random_seed() -> int:
    """A seed that no generator's state decides, so that asking for one repeats nothing."""
    return secrets.randbelow(1 << 31)

"""Random seeds."""

from __future__ import annotations

import secrets

RANDOM_SEED = -1
"""Stands for a seed drawn at random, as in stable-audio-tools."""


def random_seed() -> int:
    """A seed from the operating system's randomness, so that seeding torch does not repeat it."""
    return secrets.randbelow(1 << 31)

"""Seeds derived from names and numbers, equal on every machine and Python version."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_GLOBAL = threading.RLock()
"""Held by the one thread that may use the global generators."""


def derive_seed(*parts: int | str) -> int:
    """A non-negative 63-bit seed that depends on every part and on their order."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_draws_on(device: torch.device, seed: int) -> None:
    """Seed torch's global generators that code on a device draws from: its own and the CPU's.

    `torch.manual_seed` seeds those of all devices. Where a device is not in use yet it notes down who has
    called, which takes longer than a small step.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


@contextmanager
def seeded_globally(seed: int) -> Iterator[None]:
    """Seed Python's, numpy's and torch's (CPU) global generators, and restore their states afterwards.

    For code of users, which draws from them.
    """
    with _GLOBAL:
        python, array, tensor = random.getstate(), np.random.get_state(), torch.get_rng_state()
        try:
            random.seed(derive_seed("python", seed))
            np.random.seed(derive_seed("numpy", seed) & 0xFFFFFFFF)
            torch.default_generator.manual_seed(derive_seed("torch", seed))
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)
            torch.set_rng_state(tensor)

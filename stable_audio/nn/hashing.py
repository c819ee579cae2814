"""Hashes of weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

Outcome = TypeVar("Outcome")

_AT_ONCE = 16
"""Most items that a thread is given at once."""


def comparable(tensor: Tensor) -> Tensor:
    """A tensor on the CPU in the type in which weights are hashed: float16 or int64, so that the hash is the
    same in float32 and in float16."""
    stored = tensor.detach().cpu()
    return stored.to(torch.float16) if stored.is_floating_point() else stored.to(torch.int64)


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 of the values of a tensor on the CPU, as they lie in memory."""
    values = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(values.numpy().data).hexdigest()


def in_threads(work: Callable[[Any], Outcome], items: Iterable[Any]) -> list[Outcome]:
    """The results of `work`, which lets other threads run, as hashes do, in the order of `items`."""
    items, threads = list(items), min(4, os.cpu_count() or 1)  # more wait for memory
    # Small tensors take less time than handing them to a thread; large ones are to be spread over all.
    size = max(1, min(_AT_ONCE, len(items) // (8 * threads)))
    groups = [items[begin : begin + size] for begin in range(0, len(items), size)]
    with ThreadPoolExecutor(max_workers=threads) as pool:
        return [
            result for results in pool.map(lambda group: [*map(work, group)], groups) for result in results
        ]

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
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:  # more wait for memory
        return list(pool.map(work, items))

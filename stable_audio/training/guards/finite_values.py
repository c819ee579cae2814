"""Weights that are no numbers: which they are, in a model or in a stored checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stable_audio.checkpoints.errors import CheckpointError
from stable_audio.checkpoints.format import TRAINING_ENTRY


def not_finite_among(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """The names of the tensors with a value that is not finite.

    Nothing is copied, and a device is asked once, not for each tensor.
    """
    names, checks = [], []
    for name, tensor in tensors:
        if tensor.is_floating_point() and not tensor.is_meta and tensor.numel():
            names.append(name)
            # One of the two is not finite if any value is not; `isfinite` would copy each tensor.
            checks.append(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())
    if not checks:
        return []
    device = checks[0].device
    finite = torch.stack([check.to(device) for check in checks]).tolist()
    return [name for name, good in zip(names, finite) if not good]


def refuse_no_numbers(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse a training checkpoint with weights, or an average of them, that no training can go on with.

    Tensors on the device "meta" are left out. Of a file whose checksums have just been compared this takes
    little time, and no memory.

    Args:
        path: of the checkpoint.
        content: what it holds.

    Raises:
        CheckpointError: with the first of them.
    """
    average = (content[TRAINING_ENTRY].get("ema") or {}).get("average") or {}
    for weights in (content["state_dict"], average):
        tensors = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
        broken = [name for name in not_finite_among(tensors.items()) if not _is_mask(tensors[name])]
        if broken:
            raise CheckpointError(
                f"{path}: its weights hold values that are not finite, in {broken[0]}; take another "
                "checkpoint of that run, from before they broke"
            )


def _is_mask(value: Tensor) -> bool:
    """Whether a tensor is zero and minus infinity, as attention masks among the buffers of a model are."""
    return bool(((value == 0) | torch.isneginf(value)).all()) and bool((value == 0).any())

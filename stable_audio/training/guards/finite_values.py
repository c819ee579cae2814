"""Values that are no numbers among weights, their averages and the state of optimizers: which they are, in a
training or in a stored checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from stable_audio.checkpoints.errors import CheckpointError
from stable_audio.checkpoints.format import TRAINING_ENTRY
from stable_audio.checkpoints.shards import taken_apart, tensors_in_turn
from stable_audio.optim.split import local
from stable_audio.stored.shards_folder import is_shards

WEIGHTS, AVERAGE, OPTIMIZERS = "state_dict/", f"{TRAINING_ENTRY}/ema/average/", "optimizer_states/"
"""Beginnings of the keys of tensors in a training checkpoint."""

_HOLDERS = {
    WEIGHTS: "its weights hold",
    AVERAGE: "the average of its weights holds",
    OPTIMIZERS: "the state of its optimizer holds",
}


def not_finite_among(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """The names of the tensors with a value that is not finite.

    Nothing is copied, and a device is asked once, not for each tensor.
    """
    names, checks = [], []
    for name, tensor in tensors:
        if tensor.is_floating_point() and not tensor.is_meta and tensor.numel():
            names.append(name)
            if tensor.element_size() == 1:  # for which torch has no least and greatest value
                tensor = tensor.to(torch.float16)
            # One of the two is not finite if any value is not; `isfinite` would copy each tensor.
            checks.append(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())
    if not checks:
        return []
    device = checks[0].device
    finite = torch.stack([check.to(device) for check in checks]).tolist()
    return [name for name, good in zip(names, finite) if not good]


def in_state_of(optimizers: Iterable[Optimizer]) -> Iterator[tuple[str, Tensor]]:
    """(name, what this process has of it) of the tensors that optimizers keep, in few bits their parts."""
    for optimizer in optimizers:
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        for number, weight in enumerate(weights):
            for key, value in optimizer.state.get(weight, {}).items():
                if isinstance(value, Tensor):
                    yield from _parts(f"{key} of weight {number} in {type(optimizer).__name__}", local(value))


def _parts(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """The plain tensors that a tensor is made of."""
    if hasattr(value, "__tensor_flatten__"):
        for part in value.__tensor_flatten__()[0]:
            yield from _parts(f"{part} of {name}", getattr(value, part))
    else:
        yield name, value


def refuse_no_numbers(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse a training checkpoint with weights, an average of them, or a state of optimizers that no
    training can go on with.

    Tensors on the device "meta", such as the large ones in parts, are read from the checkpoint for it, some
    at a time. Of files whose checksums have just been compared this takes little time, and no memory.

    Args:
        path: of the checkpoint.
        content: what it holds.

    Raises:
        CheckpointError: with the first of them.
    """
    parts = {key.rstrip("/"): content.get(key.rstrip("/")) for key in (WEIGHTS, OPTIMIZERS)}
    average = (content[TRAINING_ENTRY].get("ema") or {}).get("average")
    tensors = taken_apart({**parts, TRAINING_ENTRY: {"ema": {"average": average}}}).tensors
    _refuse_among(path, tensors.items())
    left = {key for key, tensor in tensors.items() if tensor.is_meta}
    if left and is_shards(path):
        refuse_no_numbers_in_parts(path, left)


def refuse_no_numbers_in_parts(folder: Path, keys: Collection[str] | None = None) -> None:
    """The same for a checkpoint in parts, of which no more than a few tensors are in memory at once.

    Args:
        keys: of the tensors to look at; None: all.

    Raises:
        CheckpointError: with the first of them; or the folder cannot be read.
    """

    def wanted(key: str) -> bool:
        return key.startswith(tuple(_HOLDERS)) and (keys is None or key in keys)

    for group in tensors_in_turn(folder, wanted=wanted):
        _refuse_among(folder, group.items())


def _refuse_among(path: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    found = dict(tensors)
    for key in not_finite_among(found.items()):
        begin = next(begin for begin in _HOLDERS if key.startswith(begin))
        if begin == OPTIMIZERS or not _is_mask(found[key]):
            name = key if begin == OPTIMIZERS else key.removeprefix(begin)
            raise CheckpointError(
                f"{path}: {_HOLDERS[begin]} values that are not finite, in {name}; take another checkpoint "
                "of that run, from before they broke"
            )


def _is_mask(value: Tensor) -> bool:
    """Whether a tensor is zero and minus infinity, as attention masks among the buffers of a model are."""
    return bool(((value == 0) | torch.isneginf(value)).all()) and bool((value == 0).any())

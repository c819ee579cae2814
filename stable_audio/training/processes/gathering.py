"""Gather weights that are split over processes, to write them, and split them again when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from stable_audio.optim.split import is_split, like_split, local, own_rows

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.tensor import DTensor

T = TypeVar("T")


def whole(tensors: Mapping[str, Tensor], *, everywhere: bool = False) -> dict[str, Tensor]:
    """Gather every tensor. If some are split, every process of the run must call it.

    What is gathered lies in host memory, one after the other: all at once would be a whole model on each GPU.

    Args:
        tensors: by key; those that are not split are returned as they are.
        everywhere: False: only the first process, which writes, gets those that are split.
    """
    gathered: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if not is_split(tensor):
            gathered[key] = tensor
            continue
        value = _where_it_is_sent(tensor).full_tensor()
        if everywhere or torch.distributed.get_rank() == 0:
            gathered[key] = value.cpu()
    return gathered


def whole_values(value: Any) -> Any:
    """Gather the tensors in nested dictionaries, as `whole` does; every process must call it. Other processes
    than the first one lack those that are split."""
    if not isinstance(value, Mapping):
        return value
    tensors = whole({k: v for k, v in value.items() if isinstance(v, Tensor)})
    return {k: whole_values(tensors.get(k, v)) for k, v in value.items() if k in tensors or not is_split(v)}


def _where_it_is_sent(tensor: DTensor) -> DTensor:
    """The tensor, whose part may rest in host memory, on the device by which its processes meet."""
    part, place = tensor.to_local(), tensor.device_mesh.device_type
    if part.device.type == place:
        return tensor
    return like_split(tensor, part.to(place))  # type: ignore[return-value]


def of_all(value: T, group: ProcessGroup | None = None) -> list[T]:
    """The values of all processes, in their order. Every process of the run, or of `group`, must call it."""
    values: list[Any] = [None] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(values, value, group=group)
    return values


def summed(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes of the run, each of which must call it; written into `value`.

    The host does not wait for a GPU. `Strategy.reduce` of Lightning meets at a barrier before, by which the
    host of each process waits until its GPU has done all that is queued.
    """
    torch.distributed.all_reduce(value)
    return value


def copy_whole(target: Tensor, value: Tensor) -> None:
    """Copy a tensor into `target`, of a whole one into a split one the rows that this process has."""
    if is_split(target) and not is_split(value):
        local(target).copy_(own_rows(target, value))
    else:
        target.copy_(value)

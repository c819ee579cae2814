"""Weights of which each process has some rows, as PyTorch's FSDP2 splits them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class RowShare:
    """Which rows of a weight a process has.

    Attributes:
        index: number of this process among those that have a copy together.
        count: how many they are.
        group: these processes.
    """

    index: int
    count: int
    group: Any

    def rows(self, total: int, index: int | None = None) -> tuple[int, int]:
        """First row and the one after the last, of `total`, of a process; None: of this one."""
        size = -(-total // self.count)
        first = (self.index if index is None else index) * size
        return min(first, total), min(first + size, total)


def is_split(tensor: Any) -> TypeGuard[DTensor]:
    """Whether this process has only a part of the tensor."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """What this process has of a tensor, in the same memory; all of it if it is not split."""
    return tensor.to_local() if is_split(tensor) else tensor


def share_of(tensor: DTensor) -> RowShare:
    """Which rows of a split tensor this process has.

    Raises:
        ValueError: it is not split by its first axis alone.
    """
    mesh = tensor.device_mesh
    axes = [axis for axis, placement in enumerate(tensor.placements) if placement.is_shard(0)]
    if len(axes) != 1 or any(p.is_shard() and not p.is_shard(0) for p in tensor.placements):
        raise ValueError(f"a weight must be split by its first axis, found {tensor.placements}")
    (axis,) = axes
    return RowShare(mesh.get_local_rank(axis), mesh.size(axis), mesh.get_group(axis))


def has_rows_everywhere(tensor: DTensor) -> bool:
    """Whether every process has at least one row."""
    share = share_of(tensor)
    first, end = share.rows(tensor.shape[0], share.count - 1)
    return end > first


def own_rows(tensor: DTensor, whole: Tensor) -> Tensor:
    """The rows of `whole`, which has as many as `tensor`, that this process has of `tensor`."""
    first, end = share_of(tensor).rows(tensor.shape[0])
    return whole[first:end]


def like_split(tensor: DTensor, part: Tensor) -> Tensor:
    """A tensor that is split as `tensor` is, by rows, with another part on this process, wherever that lies.

    Args:
        part: as many rows as this process has of `tensor`, of any size.
    """
    from torch.distributed.tensor import DTensor

    meta: Any = tensor._spec.tensor_meta
    if part.shape[1:] != meta.shape[1:] or part.dtype != meta.dtype:
        shape = torch.Size((tensor.shape[0], *part.shape[1:]))
        strides = torch.empty(shape, device="meta").stride()
        meta = type(meta)(shape, strides, part.dtype)
    return DTensor(part, replace(tensor._spec, tensor_meta=meta), requires_grad=False)

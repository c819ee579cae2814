"""Copies between host and device without waiting on the host.

A copy from ordinary (pageable) memory to a GPU, and any reading of a value back, makes the host wait until
the device has done all the work queued so far; the device then idles until the host has queued more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
    """`tensor` on `device`, as `dtype` if given. From the CPU to a GPU the host does not wait.

    Args:
        tensor: any shape. If it is in page-locked memory already, it is not copied there again.
        device: target device.
        dtype: type of the result; the conversion happens on the source device.
    """
    target = torch.device(device)
    if dtype is not None:
        tensor = tensor.to(dtype)
    if tensor.device.type != "cpu" or target.type == "cpu":
        return tensor.to(target)
    if target.type == "cuda":
        tensor = tensor.pin_memory()  # the allocator keeps the block until the copy is done
    return tensor.to(target, non_blocking=True)


def values_like(values: Sequence[float], like: Tensor) -> Tensor:
    """Python numbers as a tensor (n,) of the type of `like`, on its device."""
    return to_device(torch.tensor(list(values), dtype=like.dtype), like.device)


class Readback:
    """An asynchronous copy of a tensor to the host: started at construction, awaited by `values`.

    From a GPU the copy goes into page-locked memory, and `values` waits for that copy alone.

    Args:
        tensor: any shape; its values at the time of construction are copied.
    """

    def __init__(self, tensor: Tensor) -> None:
        tensor = tensor.detach()
        self._arrived: torch.cuda.Event | None = None
        if tensor.device.type != "cuda":
            self._host = tensor.clone()
            return
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._host.copy_(tensor, non_blocking=True)
        self._arrived = torch.cuda.Event()
        self._arrived.record()

    def values(self) -> Tensor:
        """The tensor on the CPU."""
        if self._arrived is not None:
            self._arrived.synchronize()
            self._arrived = None
        return self._host

"""Copies between host and device without waiting on the host.

A copy from ordinary (pageable) memory to a GPU, and any reading of a value back, makes the host wait until
the device has done all the work queued so far; the device then idles until the host has queued more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_ON_HOST = "first_value_on_host"
"""Attribute of tensors that were made of numbers on the host."""


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


def values_like(values: Sequence[float], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Python numbers as a tensor (n,) on the device of `like`, whose first one `first_value` knows.

    Args:
        dtype: type of the result; None: that of `like`.
    """
    tensor = to_device(torch.tensor(list(values), dtype=dtype or like.dtype), like.device)
    setattr(tensor, _ON_HOST, float(values[0]))
    return tensor


def filled(value: float, count: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    """A number `count` times as a tensor (count,) on the device of `like`, which `first_value` knows.

    It is written on the device: nothing is copied there.
    """
    tensor = torch.full((count,), value, dtype=dtype, device=like.device)
    setattr(tensor, _ON_HOST, value)
    return tensor


def repeated(tensor: Tensor, count: int) -> Tensor:
    """`tensor` (n,) several times in a row (count n,), with what `first_value` knows of it."""
    result = torch.cat([tensor] * count)
    if hasattr(tensor, _ON_HOST):
        setattr(result, _ON_HOST, getattr(tensor, _ON_HOST))
    return result


def first_value(tensor: Tensor) -> float:
    """The first value of a tensor (n,): known from `values_like` or `filled`, or read from the device."""
    value = getattr(tensor, _ON_HOST, None)
    return float(tensor[0]) if value is None else value


class MadeBeside:
    """Tensors that were made on the present CUDA stream, for use on another one.

    Args:
        tensors: any shapes; those that are on no GPU are there at once.
    """

    def __init__(self, *tensors: Tensor) -> None:
        self._tensors = tensors
        self._made: torch.cuda.Event | None = None
        if any(tensor.is_cuda for tensor in tensors):
            self._made = torch.cuda.Event()
            self._made.record()

    def here(self) -> tuple[Tensor, ...]:
        """The tensors. What the present stream computes from now on waits until they are made; the host does
        not."""
        if self._made is not None:
            present = torch.cuda.current_stream()
            present.wait_event(self._made)
            for tensor in (t for t in self._tensors if t.is_cuda):
                tensor.record_stream(present)  # so that it is not written anew while this stream reads it
        return self._tensors


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


def moved_alone(tensor: Tensor, fn: Callable[[Tensor], Tensor]) -> Tensor:
    """What `fn`, which moves or converts tensors, makes of a tensor, in the type that this has."""
    result = fn(tensor)
    return result if result.dtype == tensor.dtype else tensor.to(result.device)


def moved_without_loss(tensor: Tensor, fn: Callable[[Tensor], Tensor]) -> Tensor:
    """What `fn` makes of a tensor, in the type that this has where the new one has fewer bits."""
    result = fn(tensor)
    return result if result.element_size() >= tensor.element_size() else tensor.to(result.device)

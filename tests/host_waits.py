"""`no_waits`: refuses whatever makes the host wait for the device.

No GPU is needed: what is tested runs on the meta device, whose tensors have no values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
DEVICE = torch.device("meta")
READS_VALUES = {
    _aten._local_scalar_dense.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten.repeat_interleave.Tensor,
    _aten.bincount.default,
    _aten.equal.default,
    _aten.nanmedian.default,  # the kernel of CUDA counts the numbers on the host
}


class HostWaits(RuntimeError):
    """The host would have to wait for the device."""


class _RefuseOperators(TorchDispatchMode):
    """Refuses operators that read values of a device tensor, and copies that block."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [a for a in args if isinstance(a, Tensor)]
        if func in READS_VALUES and any(t.device == DEVICE for t in tensors):
            raise HostWaits(f"{func} on a tensor of shape {[tuple(t.shape) for t in tensors]}")
        if func is _aten._to_copy.default:
            source, target = tensors[0].device, torch.device(kwargs.get("device") or tensors[0].device)
            if source != target and (target != DEVICE or not kwargs.get("non_blocking")):
                raise HostWaits(f"copy of shape {tuple(tensors[0].shape)} from {source} to {target}")
        return func(*args, **kwargs)


class _RefuseConstructors(TorchFunctionMode):
    """Refuses tensors that are made of Python values straight on the device: a blocking copy inside."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        of_values = func in (torch.tensor, torch.as_tensor)
        if of_values and torch.device(kwargs.get("device") or "cpu") == DEVICE:
            raise HostWaits(f"torch.{func.__name__}: tensor on the device")
        if func is Tensor.new_tensor and torch.device(kwargs.get("device") or args[0].device) == DEVICE:
            raise HostWaits("new_tensor: tensor on the device")
        return func(*args, **kwargs)


@contextmanager
def no_waits() -> Iterator[None]:
    """Raises HostWaits where the host would wait for the device."""
    with _RefuseConstructors(), _RefuseOperators():
        yield

"""What the host knows of a mask of tokens, for networks that would ask the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

_ASKED = (Tensor.all, Tensor.sum)


@contextmanager
def known_mask(mask: Tensor, host: Tensor) -> Iterator[None]:
    """Context in which `mask.all()` and `mask.sum()` are answered on the host.

    transformers asks of every mask whether it hides anything. For one on a GPU the host would wait until the
    device has done all that is queued.

    Args:
        mask: on the device of a network.
        host: the same on the CPU; on another device, as where shapes are planned, nothing is answered.
    """
    if mask.device.type == "cpu" or host.device.type != "cpu":
        yield
        return
    with _KnownMask(mask, host):
        yield


class _KnownMask(TorchFunctionMode):
    def __init__(self, mask: Tensor, host: Tensor) -> None:
        super().__init__()
        self.mask, self.host = mask, host

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _ASKED and len(args) == 1 and args[0] is self.mask and not kwargs:
            return func(self.host)
        return func(*args, **(kwargs or {}))

"""Compute in float32 where autocast would round too much.

bfloat16 keeps 8 bits of each value. That is enough for products of matrices, but not for audio signals: the
rounding adds noise at about -54 dB, far above the quiet parts of a spectrum.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Function = TypeVar("Function", bound=Callable[..., Any])


def rounds(x: Tensor) -> bool:
    """Whether autocast is enabled on the device of x."""
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


def parameter_dtype(module: nn.Module) -> torch.dtype:
    """The type that a module computes in: of its first floating-point parameter of 32 bits or more, since
    frozen layers may be held in less; else of its first parameter or buffer; float32 without any.

    Modules with the attribute `own_type` do not count: they compute in a type of their own.
    """
    others: dict[str, torch.dtype] = {}
    for part in module.modules():
        if getattr(part, "own_type", False):
            continue
        for parameter in part.parameters(recurse=False):
            if parameter.is_floating_point():
                if parameter.element_size() >= 4:
                    return parameter.dtype  # in most models the first one: networks ask in every step
                others.setdefault("parameter", parameter.dtype)
        for buffer in part.buffers(recurse=False):
            if buffer.is_floating_point():
                others.setdefault("buffer", buffer.dtype)
    return others.get("parameter", others.get("buffer", torch.float32))


def widened(x: Tensor) -> Tensor:
    """x in float32 under autocast, otherwise x itself. Sums that start from it stay in float32."""
    return x.float() if rounds(x) else x


def full_precision(layers: Iterable[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """Apply the layers in order: in float32 under autocast, otherwise in the type of x and the weights."""
    if rounds(x):
        with torch.autocast(x.device.type, enabled=False):
            return full_precision(layers, x.float())
    for layer in layers:
        x = layer(x)
    return x


def computed_in_float32(method: Function) -> Function:
    """Under autocast, call a method (self, x, ...) with x in float32 and autocast disabled."""

    @functools.wraps(method)
    def wrapped(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not rounds(x):
            return method(self, x, *args, **kwargs)
        with torch.autocast(x.device.type, enabled=False):
            return method(self, x.float(), *args, **kwargs)

    return wrapped  # type: ignore[return-value]

"""What a GPU does otherwise than a CPU, for tensors without values: fused attention, autocast's own list."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

FLOAT32_UNDER_AUTOCAST: frozenset[Callable[..., Any]] = frozenset(
    (
        F.layer_norm,
        F.group_norm,
        F.rms_norm,
        F.softmax,
        F.log_softmax,
        torch.softmax,
        torch.log_softmax,
        Tensor.softmax,
        F.mse_loss,
        F.l1_loss,
        F.smooth_l1_loss,
        F.normalize,
        F.cosine_similarity,
        F.softplus,
        torch.exp,
        torch.log,
        torch.rsqrt,
        torch.pow,
        torch.norm,
        torch.cumsum,
        torch.prod,
        torch.sum,
        torch.reciprocal,
        Tensor.exp,
        Tensor.log,
        Tensor.rsqrt,
        Tensor.pow,
        Tensor.__pow__,
        Tensor.norm,
        Tensor.cumsum,
        Tensor.prod,
        Tensor.sum,
        Tensor.reciprocal,
    )
)
"""Functions that CUDA's autocast computes in float32, and the CPU's does not (pytorch.org, "Automatic Mixed
Precision package", "CUDA Ops that can autocast to float32")."""


@contextmanager
def kernels_of(device: str, precision: str) -> Iterator[None]:
    """Context in which operations on shapes take the memory that they take on a device, by its precision.

    Args:
        device: "cpu", or a GPU's.
        precision: a name of Lightning's, such as "bf16-mixed"; others than `*-mixed` change nothing.
    """
    dtype = MIXED.get(precision)
    with ExitStack() as stack:
        if device != "cpu":
            stack.enter_context(_GPU())
        if dtype is not None:
            stack.enter_context(torch.autocast("cpu", dtype))
        yield


MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Precision -> the type that autocast computes most products in."""


class _GPU(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        if func in FLOAT32_UNDER_AUTOCAST and torch.is_autocast_enabled("cpu"):
            args = tuple(_float32(a) for a in args)
            kwargs = {name: _float32(value) for name, value in kwargs.items()}
        return func(*args, **kwargs)


def _float32(value: Any) -> Any:
    low = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if low else value


def _attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    # As other fused kernels, it keeps queries, keys, values, the output and one float32 value per query, but
    # not the score matrix.
    out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
    return out

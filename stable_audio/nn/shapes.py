"""Arithmetic on the meta device, of which only shapes and types matter.

Torch's functions for it import torch's compiler first, which takes about half of the time of a short command.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import init

POINTWISE = frozenset(
    {
        *(Tensor.add, Tensor.sub, Tensor.mul, Tensor.div, Tensor.pow, Tensor.neg),
        *(Tensor.__pow__, Tensor.__rpow__, Tensor.__rsub__, Tensor.__rdiv__),
        *(Tensor.abs, Tensor.square, Tensor.sqrt, Tensor.exp, Tensor.expm1, Tensor.log, Tensor.log2),
        *(Tensor.sin, Tensor.cos, Tensor.clamp, Tensor.lt, Tensor.le, Tensor.gt, Tensor.ge, Tensor.float),
        *(torch.add, torch.sub, torch.mul, torch.div, torch.pow, torch.abs, torch.sqrt, torch.exp),
        *(torch.expm1, torch.log, torch.sin, torch.cos, torch.clamp, torch.minimum, torch.maximum),
        *(torch.atan2, torch.where, torch.zeros_like, torch.ones_like),
    }
)
"""Operations whose result has the broadcast shape of their tensors."""

FILLING = frozenset(
    {
        *(Tensor.mul_, Tensor.div_, Tensor.add_, Tensor.sub_, Tensor.normal_, Tensor.uniform_),
        *(init.normal_, init.uniform_, init.constant_, init.kaiming_normal_, init.kaiming_uniform_),
    }
)
"""Operations that change the values of their first tensor and nothing else."""

DRAWING = frozenset({torch.randn, torch.rand})
"""Operations that make a tensor of random values from its shape."""

NORMS = frozenset({torch.linalg.vector_norm, Tensor.norm})


def without_values(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The result of an operation, where it has no values; NotImplemented where torch has to be asked.

    For `__torch_function__` of modes under which networks are built.

    Args:
        func: operation.
        args: its arguments.
        kwargs: its keyword arguments.
    """
    if func in DRAWING:
        if torch.device(kwargs.get("device") or torch.get_default_device()).type != "meta":
            return NotImplemented
        return torch.empty(*args, **{k: v for k, v in kwargs.items() if k != "generator"})
    first = args[0] if args else kwargs.get("tensor")
    if not any(a.is_meta for a in (*args, *kwargs.values()) if isinstance(a, Tensor)):
        return NotImplemented
    if func in FILLING:
        return first
    if func in POINTWISE:
        return _pointwise(func, args, kwargs)
    if func in NORMS and args and kwargs.get("dim") is not None:
        return _reduced(args[0], kwargs["dim"], kwargs.get("keepdim", False))
    return NotImplemented


def _pointwise(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """A result of the right shape and, as the same operation on one element tells, of the right type."""
    single = [_single(a) if isinstance(a, Tensor) else a for a in args]
    result = func(*single, **{k: _single(v) if isinstance(v, Tensor) else v for k, v in kwargs.items()})
    if not isinstance(result, Tensor):
        return NotImplemented
    shapes = [a.shape for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
    return torch.empty(np.broadcast_shapes(*shapes), dtype=result.dtype, device="meta")


def _reduced(tensor: Tensor, dims: int | tuple[int, ...], keepdim: bool) -> Tensor:
    """A tensor without some dimensions, or with one element along them."""
    axes = {d % tensor.dim() for d in ((dims,) if isinstance(dims, int) else dims)}
    sizes = [1 if d in axes else n for d, n in enumerate(tensor.shape) if keepdim or d not in axes]
    return torch.empty(sizes, dtype=tensor.dtype, device="meta")


def _single(tensor: Tensor) -> Tensor:
    """One element of the type of a tensor; torch promotes types by whether there are dimensions."""
    return torch.ones([1] * min(tensor.dim(), 1), dtype=tensor.dtype, device="cpu")

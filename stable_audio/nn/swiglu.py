"""The gate of SwiGLU (Shazeer, 2020), whose gradient is written into one tensor."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from stable_audio.nn.gradients import writes_gradient


def swiglu(projected: Tensor) -> Tensor:
    """projected = [value | gate] (... 2 d) -> value * silu(gate) (... d)."""
    return _SwiGLU.apply(projected) if writes_gradient(projected) else _plain(projected)


def _plain(projected: Tensor) -> Tensor:
    value, gate = projected.chunk(2, dim=-1)
    return value * F.silu(gate)


class _SwiGLU(Function):
    """The same operations, bit for bit; autograd would join both halves of the gradient by a copy."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor) -> Tensor:
        value, gate = projected.chunk(2, dim=-1)
        opened = F.silu(gate)
        ctx.save_for_backward(projected, opened)
        return value * opened

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        projected, opened = ctx.saved_tensors
        value, gate = projected.chunk(2, dim=-1)
        (grad,) = grads
        if torch.is_grad_enabled():  # for gradients of gradients
            share = torch.sigmoid(gate)
            slope = share * (1 + gate * (1 - share))
            return torch.cat([grad * (gate * share), grad * value * slope], dim=-1)
        out = torch.empty_like(projected)
        to_value, to_gate = out.chunk(2, dim=-1)
        torch.mul(grad, opened, out=to_value)
        torch.ops.aten.silu_backward.grad_input(grad * value, gate, grad_input=to_gate)
        return out

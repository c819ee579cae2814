"""Attention to few keys in bfloat16 on a CPU, by products that hold the weights of all heads.

torch's fused kernel, and its softmax in bfloat16, are made for long rows. Weights of few keys are smaller
than the keys themselves, so that they are kept for the gradient instead of computed again.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

MOST_KEYS = 24
"""Keys up to which a training step is faster in this way."""


def attend_briefly(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for q (b h n d), k and v (b h m d) in bfloat16 -> (b h n d).

    Scores, softmax and its gradient are in float32, weights are rounded to bfloat16 for the products, as in
    torch's kernel, whose output and gradient differ by rounding.

    Args:
        mask: bool, True where a key is visible to a query, which sees one at least; broadcasts to (b h n m).
    """
    out: Tensor = _ShortAttention.apply(q, k, v, mask)
    return out


class _ShortAttention(Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        b, h, n, d = q.shape
        q, k, v = (x.reshape(b * h, *x.shape[2:]) for x in (q, k, v))
        scores = torch.bmm(q.float() / math.sqrt(d), k.float().mT)
        if mask is not None:
            scores = scores.view(b, h, n, -1).masked_fill(~mask, -math.inf).view_as(scores)
        weights = (scores - scores.amax(-1, keepdim=True)).exp_()
        weights = weights.div_(weights.sum(-1, keepdim=True)).to(q.dtype)
        ctx.save_for_backward(q, k, v, weights)
        ctx.heads = b, h
        return torch.bmm(weights, v).unflatten(0, (b, h))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights = ctx.saved_tensors
        grad = grads[0].reshape(q.shape[0], *grads[0].shape[2:])
        to_weights = torch.bmm(grad, v.mT).float()
        shared = (to_weights * weights).sum(-1, keepdim=True)
        to_scores = to_weights.sub_(shared).mul_(weights).mul_(1 / math.sqrt(q.shape[-1])).to(q.dtype)
        gradients = to_scores @ k, to_scores.mT @ q, weights.mT @ grad
        return *(x.unflatten(0, ctx.heads) for x in gradients), None

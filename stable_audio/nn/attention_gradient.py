"""Attention in bfloat16 on a CPU, whose gradient is taken by products of whole matrices.

torch's fused kernel takes its gradient in float32 there. Processors with instructions for products in
bfloat16 (AVX512-BF16, AMX) take half to two thirds of the time for products of matrices that hold the scores
of some heads.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from stable_audio.nn.gradients import has_values, is_differentiated
from stable_audio.nn.linear import has_bfloat16
from stable_audio.nn.short_attention import MOST_KEYS, attend_briefly

MOST_SCORES = 2**21
"""Scores that are held at a time, in two matrices of bfloat16."""
LONGEST = 2**22
"""Scores of one head; longer sequences are left to the fused kernel, which holds none."""
SHARE = 0.75
"""Scores are rounded to bfloat16 after a number per query was added, so that they are small where their
weight is large: with a share of 1 of the logarithm of the number of keys a score is 0 where its weight is
that of uniform attention, with a share of 0 where its weight is 1. Between them both kinds err little."""


def attends_by_products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> bool:
    """Whether `attend` is faster than torch's kernel with its gradient, and serves this call.

    Not for shapes alone: plans are for any device, and count torch's kernel.
    """
    return (
        q.device.type == "cpu"
        and q.dtype == k.dtype == v.dtype == torch.bfloat16
        and (mask is None or (mask.dtype == torch.bool and mask.dim() in (2, 4)))
        and is_differentiated(q, k, v)
        and q.dim() == k.dim() == v.dim() == 4
        and q.shape[-1] == v.shape[-1]
        and q.shape[:2] == k.shape[:2]
        and 0 < q.shape[2] * k.shape[2] <= LONGEST
        and has_bfloat16()
        and has_values(q)
    )


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for q (b h n d), k and v (b h m d) -> (b h n d), features contiguous.

    The output is that of torch's fused kernel, bit for bit, but for few keys, see `short_attention`; the
    gradient differs by rounding.

    Args:
        mask: bool, True where a key is visible to a query, which sees one at least; broadcasts to (b h n m),
            with two or four axes.
    """
    # Compiled, the question would be a graph of its own for short rows.
    if not torch.compiler.is_compiling() and k.shape[2] <= MOST_KEYS:
        return attend_briefly(q, k, v, mask)
    out: Tensor = _Attention.apply(q, k, v, mask)
    return out


class _Attention(Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        added = None
        if mask is not None:
            added = torch.zeros(mask.shape, dtype=q.dtype).masked_fill_(~mask, -math.inf)
        out, log_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=added)
        ctx.save_for_backward(q, k, v, log_sums, mask)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gradients = _opaque_gradients if torch.compiler.is_compiling() else _gradients
        return *gradients(grads[0], *ctx.saved_tensors), None


def _gradients(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, log_sums: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v.

    Args:
        grad: of the output, (b h n d).
        log_sums: logarithms of the sums of the exponentials of the scores, (b h n).
    """
    b, h, n, d = q.shape
    m, scale = k.shape[2], 1 / math.sqrt(d)
    shift = (SHARE * math.log(m) - log_sums).to(q.dtype).reshape(b * h, n, 1)
    scaled, q, k, v, grad = (x.reshape(b * h, *x.shape[2:]) for x in (q * scale, q, k, v, grad))
    hidden = None if mask is None else (~mask).expand(b, h, n, m)  # a view: it may be large
    to_q, to_k, to_v = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    held = max(1, min(MOST_SCORES // (n * m), b * h))
    weights, scores = (q.new_empty(held, n, m) for _ in range(2))
    for first in range(0, b * h, held):
        rows = slice(first, min(first + held, b * h))
        weight, score = (x[: rows.stop - first] for x in (weights, scores))
        torch.baddbmm(shift[rows], scaled[rows], k[rows].mT, out=score)
        if hidden is not None:
            _hide(score, hidden, first)
        torch.ops.aten._softmax.out(score, -1, False, out=weight)
        torch.bmm(weight.mT, grad[rows], out=to_v[rows])
        torch.bmm(grad[rows], v[rows].mT, out=score)
        torch.ops.aten._softmax_backward_data.out(score, weight, -1, weight.dtype, grad_input=score)
        torch.bmm(score, k[rows], out=to_q[rows])
        torch.bmm(score.mT, scaled[rows], out=to_k[rows])
    to_q, to_k, to_v = (x.unflatten(0, (b, h)) for x in (to_q.mul_(scale), to_k, to_v))
    return to_q, to_k, to_v


@torch.library.custom_op("stable_audio::attention_gradients", mutates_args=())
def _opaque_gradients(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, log_sums: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """`_gradients`, into which the compiler does not look: its loop depends on the sizes."""
    return _gradients(grad, q, k, v, log_sums, mask)


@_opaque_gradients.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    to_q, to_k, to_v = (x.new_empty(x.shape) for x in (q, k, v))
    return to_q, to_k, to_v


def _hide(scores: Tensor, hidden: Tensor, first: int) -> None:
    """Set scores (rows n m) of the heads from `first` on to -inf where hidden (b h n m) is True."""
    heads = hidden.shape[1]
    for row, score in enumerate(scores, first):
        score.masked_fill_(hidden[row // heads, row % heads], -math.inf)

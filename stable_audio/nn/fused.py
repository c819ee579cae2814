"""Attention by a fused kernel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio.nn.attention_gradient import attend, attends_by_products


def fused_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, causal: bool = False
) -> Tensor:
    """Attention of q (b h n d) to k and v (b h m d), softmax(q k^T / sqrt(d)) v -> (b h n d).

    The same function as torch's `scaled_dot_product_attention`, whose fused kernels need the features of a
    head to be contiguous in memory. For other layouts, such as those of convolutions (b c n), torch silently
    falls back to products that hold the n x m matrix; here such tensors are copied first. On a CPU in
    bfloat16 the gradient is another one, see `attention_gradient`.

    Args:
        mask: bool, True where a key is visible to a query, which sees one at least, or numbers to add;
            anything that broadcasts to (b h n m).
        causal: query i sees keys 0 .. i alone; not together with a mask.
    """
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in _cast(q, k, v))
    if not causal and attends_by_products(q, k, v, mask):
        return attend(q, k, v, mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def _cast(*inputs: Tensor) -> tuple[Tensor, ...]:
    """As autocast casts the inputs of attention on a CPU, all but float64; elsewhere torch does it."""
    if inputs[0].device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        low = torch.get_autocast_dtype("cpu")
        return tuple(x if x.dtype == torch.float64 else x.to(low) for x in inputs)
    return inputs

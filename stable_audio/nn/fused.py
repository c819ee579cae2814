"""Attention by a fused kernel."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def fused_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of q (b h n d) to k and v (b h m d), softmax(q k^T / sqrt(d)) v -> (b h n d).

    The same function as torch's `scaled_dot_product_attention`, whose fused kernels need the features of a
    head to be contiguous in memory. For other layouts, such as those of convolutions (b c n), torch silently
    falls back to products that hold the n x m matrix; here such tensors are copied first.

    Args:
        mask: bool, True where a key is visible to a query, or numbers to add; anything that broadcasts to
            (b h n m).
    """
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

"""The kernels of attention by name: PyTorch's, and that of the flash-attn package."""

from __future__ import annotations

import importlib.util
from typing import Protocol

import torch
from torch import Tensor

from stable_audio.nn.fused import fused_attention
from stable_audio.nn.windowed import banded_mask, windowed_attention


class Attend(Protocol):
    """The kernel: q (b n h d), k and v (b m h' d) -> (b n h d); h' divides h. mask (b m): True = visible."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        causal: bool,
        window: tuple[int, int] | None,
        mask: Tensor | None,
    ) -> Tensor: ...


def sdpa_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    window: tuple[int, int] | None,
    mask: Tensor | None,
) -> Tensor:
    """PyTorch's attention. A causal mask on unequal lengths is aligned at the top left."""
    if k.shape[2] != q.shape[2]:
        k, v = (y.repeat_interleave(q.shape[2] // y.shape[2], dim=2) for y in (k, v))
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if window is not None:
        left, right = window
        out = windowed_attention(q, k, v, left, 0 if causal else right, mask)
    elif mask is not None:
        visible = mask[:, None, None, :]
        if causal:
            visible = visible & banded_mask(q.shape[2], k.shape[2], -1, 0, q.device)
        # A query without any visible key would give NaN; make all keys visible to it.
        visible = visible | ~visible.any(dim=-1, keepdim=True)
        out = fused_attention(q, k, v, visible)
    else:
        out = fused_attention(q, k, v, causal=causal)
    return out.transpose(1, 2)


def flash_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    window: tuple[int, int] | None,
    mask: Tensor | None,
) -> Tensor:
    """The flash-attn kernel; `sdpa_attend` for the calls that it cannot serve exactly."""
    half = q.is_cuda and q.dtype in (torch.float16, torch.bfloat16)
    # flash-attn aligns causal masks at the bottom right, which differs on unequal lengths.
    if not half or mask is not None or (causal and q.shape[1] != k.shape[1]):
        return sdpa_attend(q, k, v, causal=causal, window=window, mask=mask)
    from flash_attn import flash_attn_func

    return flash_attn_func(q, k, v, causal=causal, window_size=window or (-1, -1))


def require_flash() -> None:
    """Raise ImportError unless flash-attn is installed."""
    if importlib.util.find_spec("flash_attn") is None:
        raise ImportError(
            "attn_kwargs.backend is 'flash', but flash-attn is not installed: "
            'pip install "stable-audio[flash]", or use backend "sdpa"'
        )


ATTEND: dict[str, Attend] = {"sdpa": sdpa_attend, "flash": flash_attend}

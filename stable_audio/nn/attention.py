"""Multi-head attention: self, cross, grouped, differential, windowed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from stable_audio.nn.checks import check_choice, check_divides
from stable_audio.nn.kernels import ATTEND, require_flash
from stable_audio.nn.linear import Linear
from stable_audio.nn.norms import DynamicTanh, L2Norm, NormOptions, RMSNorm
from stable_audio.nn.packed import Packing
from stable_audio.nn.rotary import RotaryTables, rotated, rotated_parts
from stable_audio.nn.row_attention import Pattern


@dataclass(frozen=True)
class AttentionOptions:
    """Options of self- and cross-attention.

    Attributes:
        qk_norm: norm of each head's queries and keys, before rotation: none, l2 (unit length), ln (layer
            norm), rms, dyt (dynamic tanh).
        qk_norm_eps: eps of ln and rms.
        differential: subtract a second attention map with its own queries and keys (after Ye et al.,
            2024, without its lambda).
        feat_scale: learned gains on the mean over tokens and on the rest of the output, without padding.
        causal: whether attention is causal; None: as the transformer's `causal`.
        zero_init_output: start the output at zero; None: as `zero_init_branch_outputs`.
        padding: what a padding mask does to self-attention. "hidden": padding is invisible, and its own
            output is zero. "zero_values": padding keeps its share of every attention map, with zeros as its
            values, as in stable-audio-3 where flash-attn is not installed.
        backend: "sdpa", or "flash" for the flash-attn package where it can run (CUDA, half precision;
            elsewhere sdpa computes the same function without any cast).
    """

    qk_norm: Literal["none", "l2", "ln", "rms", "dyt"] = "none"
    qk_norm_eps: float = 1e-6
    differential: bool = False
    feat_scale: bool = False
    causal: bool | None = None
    zero_init_output: bool | None = None
    padding: Literal["hidden", "zero_values"] = "hidden"
    backend: Literal["sdpa", "flash"] = "sdpa"


QK_NORMS: dict[str, Callable[[int, float], nn.Module]] = {
    "none": lambda dim, eps: nn.Identity(),
    "l2": lambda dim, eps: L2Norm(),
    "ln": lambda dim, eps: nn.LayerNorm(dim, eps=eps),
    "rms": lambda dim, eps: RMSNorm(dim, NormOptions(eps=eps)),
    "dyt": lambda dim, eps: DynamicTanh(dim),
}


class KeyValues(NamedTuple):
    """Keys and values (b m h d) of one layer; two sets of keys when differential, one otherwise."""

    keys: tuple[Tensor, ...]
    values: Tensor

    def index_select(self, items: Tensor) -> KeyValues:
        """Those of some items (n,) of the batch, in their order."""
        keys = tuple(k.index_select(0, items) for k in self.keys)
        return KeyValues(keys, self.values.index_select(0, items))


class Attention(nn.Module):
    """Multi-head attention without biases.

    One projection holds queries, keys and values: q | k | v (| q2 | k2 when differential); for
    cross-attention q (| q2) and k (| k2) | v. Heads are the outer index of each part. The context of
    cross-attention is projected at its own width, so that a narrow one has fewer heads, each shared by
    several heads of the queries.

    Args:
        dim: features of input and output.
        dim_heads: features of each head.
        dim_context: features of the context; None for self-attention.
        causal: whether attention is causal, unless the options say.
        zero_init_output: whether the output layer starts at zero, unless the options say.
        sliding_window: (left, right) tokens visible to self-attention; -1 is unlimited. Every backend applies
            it.
    """

    def __init__(
        self,
        dim: int,
        *,
        dim_heads: int = 64,
        dim_context: int | None = None,
        causal: bool = False,
        sliding_window: tuple[int, int] | None = None,
        zero_init_output: bool = True,
        options: AttentionOptions = AttentionOptions(),
    ) -> None:
        super().__init__()
        check_divides("the head width", dim_heads, "attention width", dim)
        check_choice("attn_kwargs.qk_norm", options.qk_norm, QK_NORMS)
        check_choice("attn_kwargs.padding", options.padding, ("hidden", "zero_values"))
        check_choice("attn_kwargs.backend", options.backend, ATTEND)
        self.hides_padding = options.padding == "hidden"
        self.dim_heads, self.differential = dim_heads, options.differential
        self.causal = causal if options.causal is None else options.causal
        self.window = _window(sliding_window)
        if options.backend == "flash":
            require_flash()
        self.attend = ATTEND[options.backend]
        self._add_projections(dim, dim_context)
        if zero_init_output if options.zero_init_output is None else options.zero_init_output:
            nn.init.zeros_(self.to_out.weight)
        self.q_norm = QK_NORMS[options.qk_norm](dim_heads, options.qk_norm_eps)
        self.k_norm = QK_NORMS[options.qk_norm](dim_heads, options.qk_norm_eps)
        self.stays_unnormed = options.qk_norm == "none"
        self.feat_scale = options.feat_scale
        if options.feat_scale:
            self.lambda_dc = nn.Parameter(torch.zeros(dim))
            self.lambda_hf = nn.Parameter(torch.zeros(dim))

    def _add_projections(self, dim: int, dim_context: int | None) -> None:
        extra = int(self.differential)
        self.stacked_matrices = {"to_qkv": 3 + 2 * extra, "to_q": 1 + extra, "to_kv": 2 + extra}
        if dim_context is None:
            self.to_qkv = Linear(dim, dim * (3 + 2 * extra), bias=False)
        else:
            check_divides("the head width", self.dim_heads, "cross-attention context width", dim_context)
            check_divides(
                "the context's heads", dim_context // self.dim_heads, "number of heads", dim // self.dim_heads
            )
            self.to_q = Linear(dim, dim * (1 + extra), bias=False)
            self.to_kv = Linear(dim_context, dim_context * (2 + extra), bias=False)
        self.to_out = Linear(dim, dim, bias=False)

    def forward(
        self,
        x: Tensor,
        *,
        context: Tensor | None = None,
        kv: KeyValues | None = None,
        context_mask: Tensor | None = None,
        rotary: RotaryTables | None = None,
        padding_mask: Tensor | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """x (b n d) attends to itself, to `context` (b m d'), or to `kv` made by `project_context`.

        Args:
            context_mask: (b m) bool, visible tokens of the context; all are visible without it, and in items
                without any True.
            padding_mask: (b n) bool, False = padding in x, for self-attention.
            packing: layout of x as one row (1 l d) of several clips; each attends to its own tokens or to its
                own item of the context, whose items are in the order of the clips.
        """
        if kv is None and context is not None:
            kv = self.project_context(context)
        if kv is not None:
            queries = self._normed(self.q_norm, self._heads(self.to_q(x), 1 + self.differential))
            keys, values = kv
        else:
            queries, keys, values = self._own(self.to_qkv(x), rotary)
        mask, padding = context_mask, None
        if padding_mask is not None and kv is None:
            mask, padding = (padding_mask if self.hides_padding else None), ~padding_mask[..., None, None]
            values = values if self.hides_padding else values.masked_fill(padding, 0.0)
        outs = [
            self._attend(q, k, values, mask, packing, cross=kv is not None) for q, k in zip(queries, keys)
        ]
        out = outs[0] - outs[1] if self.differential else outs[0]
        if padding is not None and self.hides_padding:
            out = out.masked_fill(padding, 0.0)
        return self._scale_features(self.to_out(out.flatten(2)), packing, padding_mask)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, packing: Packing | None, *, cross: bool
    ) -> Tensor:
        if packing is None:  # not through Pattern, which torch before 2.10 does not compile
            return self.attend(q, k, v, causal=self.causal, window=self.window, mask=mask)
        pattern = Pattern(self.attend, self.causal, self.window)
        if cross:
            return packing.attention.cross_attend(pattern, q, k, v, mask)
        return packing.attention.attend(pattern, q, k, v)

    def project_context(self, context: Tensor) -> KeyValues:
        """Keys and values of a cross-attention context (b m d), which do not depend on x."""
        *keys, values = self._heads(self.to_kv(context), 2 + self.differential)
        return KeyValues(self._normed(self.k_norm, tuple(keys)), values)

    def _own(
        self, projected: Tensor, rotary: RotaryTables | None
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
        """Queries, keys and values of self-attention from `to_qkv`, normalised, then rotated."""
        parts = 3 + 2 * self.differential
        if rotary is not None and self.stays_unnormed:
            heads = projected.unflatten(-1, (parts, -1, self.dim_heads))
            which = (True, True, False, True, True)[:parts]
            q, k, values, *second = rotated_parts(heads, rotary, which)
            return (q, *second[:1]), (k, *second[1:]), values
        q, k, values, *second = self._heads(projected, parts)
        queries = self._normed(self.q_norm, (q, *second[:1]))
        keys = self._normed(self.k_norm, (k, *second[1:]))
        if rotary is not None:
            queries, keys = rotated(queries, rotary), rotated(keys, rotary)
        return queries, keys, values

    def _heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(b n (parts h d)) -> parts x (b n h d), as views."""
        return x.unflatten(-1, (parts, -1, self.dim_heads)).unbind(2)

    @staticmethod
    def _normed(norm: nn.Module, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # Norms return float32 under autocast; the kernel needs one type for q, k and v.
        return tuple(norm(x).to(x.dtype) for x in parts)

    def _scale_features(
        self, out: Tensor, packing: Packing | None, padding_mask: Tensor | None = None
    ) -> Tensor:
        if not self.feat_scale:
            return out
        if padding_mask is not None:
            mean = _mean_of(out, padding_mask)
            added = self.lambda_dc * mean + self.lambda_hf * (out - mean)
            return out + added.masked_fill(~padding_mask.unsqueeze(-1), 0.0)
        mean = out.mean(dim=1, keepdim=True) if packing is None else packing.mean(out)
        return out + self.lambda_dc * mean + self.lambda_hf * (out - mean)


def _mean_of(x: Tensor, mask: Tensor) -> Tensor:
    """The mean (b 1 d) of the tokens of x (b n d) where mask (b n) is True; zero without any.

    The sum of some thousand tokens is beyond float16, though their mean is not.
    """
    weights = mask.to(x.dtype).unsqueeze(-1)
    wide = torch.float32 if x.dtype is torch.float16 else x.dtype
    sums, counts = (y.sum(dim=1, keepdim=True, dtype=wide) for y in (x * weights, weights))
    return (sums / counts.clamp(min=1)).to(x.dtype)


def _window(window: tuple[int, int] | None) -> tuple[int, int] | None:
    if window is None:
        return None
    if len(window) != 2 or min(window) < -1:
        raise ValueError(f"sliding_window is {window}; it takes two numbers, left and right, -1 or more")
    return window[0], window[1]
